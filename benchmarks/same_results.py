r"""What two revisions compute, compared to the bit: noise, plans, tables, rows as they run, images and files of jobs.

    python benchmarks/same_results.py REVISION        # this working tree against a commit; exit 1 names what differs

A change that only moves or mends code must leave all of it alone. Each revision computes SHA-256 digests in processes
of its own, so the layout of the code may differ. Compared are: noise; the plan of every preset, its rows, its
explanation and its bound table; samples of every solver, with and without Restart, on the reference and the native
library; 64 images of three presets by the bundled model; of jobs in every format the files, the contact sheet, the
manifest and run.json apart from versions; and jobs that the other revision begins, stops within a shard, and this one
ends, with its own whole run.

The other revision may be a folder with a checkout instead, whose native library is then used as it is. Tables are
compared in the columns that all layouts have. Guidance in an interval of levels is left out: since rows outside of it
make one network call, it is equal up to rounding."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restart_sampling.experiments.measure.against import ROOTS, copy_native, worktree

ROOT = Path(__file__).parents[1]

# What a child process computes in either revision. Names of modules that moved are tried in both places.
COMMON = r"""
import hashlib, importlib, json, os, pathlib, re, subprocess, sys, tempfile
import numpy as np
import torch
import restart_sampling as rs

torch.set_num_threads(2)
found = {}

def note(name, value):
    data = value if isinstance(value, bytes) else str(value).encode()
    found[name] = hashlib.sha256(data).hexdigest()[:16]

def module(*names):
    for name in names:
        if importlib.util.find_spec(f"restart_sampling.{name.split('.')[0]}"):
            try:
                return importlib.import_module(f"restart_sampling.{name}")
            except ModuleNotFoundError:
                pass
    raise ModuleNotFoundError(names)

def samples_of(out):
    return {path.name: path.read_bytes() for path in sorted((out / "samples").rglob("*")) if path.is_file()}

def manifest_of(out):
    lines = {}
    for path in sorted(out.glob("manifest-*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            lines[line["shard"]] = line
    return [lines[shard] for shard in sorted(lines)]
"""

RESULTS = r"""
def tensor(name, x):
    note(name, np.ascontiguousarray(x.detach().cpu().numpy()).tobytes())

seeds = [0, 1, 7, 2**31, 2**40 + 3, 2**63 - 1]
for draw in (0, 1, 77):
    tensor(f"noise {draw}", rs.noise.normal(seeds, draw=draw, shape=(3, 5, 7)))

def plan_of(name, plan):
    note(f"plan {name} digest", plan.digest)
    rows = [(r.sigma, r.t, r.s, r.noise, r.draw) for r in plan.rows]
    note(f"plan {name} rows", rows)
    note(f"plan {name} explained", re.sub(r" · [\d,]+ network calls", "", plan.explain()))
    return plan

for preset in rs.presets():
    plan_of(f"preset {preset.name}", rs.preset(preset.name))

SOLVERS = ("euler", "heun", "edm-stochastic", "ddpm", "dpm2", "dpm3", "dpm++2m")
RESTARTS = {"none": None, "one": "[3, 2, 0.06, 0.30]", "two": '{"0": [4, 1, 19.35, 40.79], "1": [3, 3, 0.3, 1.0]}'}
den = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2), shape=(3, 7, 5))
for backend in sys.argv[1:]:
    for solver in SOLVERS:
        for name, restart in RESTARTS.items():
            churn = dict(s_churn=20.0, s_min=0.05, s_max=50.0, s_noise=1.003) if solver == "edm-stochastic" else {}
            plan = plan_of(f"{solver} {name}", rs.Plan.build(steps=11, solver=solver, restart=restart, **churn))
            x = rs.Sampler(den, plan, batch_size=5, backend=backend).run(range(7))
            tensor(f"samples {backend} {solver} {name}", x)
mixed = [(seed, rs.Plan.build(steps=n, restart=[3, 2, 0.06, 0.3])) for n in (4, 9, 6) for seed in range(3)]
tensor("samples mixed", rs.Sampler(den, mixed[0][1], batch_size=4).run(mixed))

model = rs.load("fashion-mnist")
for name in ("fashion-mnist-22", "fashion-mnist-43", "cifar10-vp-dpm3-18"):
    for n, batch in ((16, 8), (64, 64)):
        x = rs.Sampler(model, rs.preset(name), batch_size=batch).run(range(n), [i % 10 for i in range(n)])
        tensor(f"{n} images {name} batch {batch}", x)

bind = module("sampler.table", "table").bind
for preset in rs.presets():
    for kind, denoiser in (("EDM network", model), ("function", den)):
        try:
            table = bind(rs.preset(preset.name), denoiser.parameterization)
        except rs.RestartError as error:
            note(f"table {preset.name} on {kind}", f"refused: {error}")
        else:
            # The columns that every layout has; GUIDE, bit 12 of the flags, says what the weight W says.
            code = np.asarray(table.code)[:, :2] & ~np.array([1 << 12, 0], dtype=np.int32)
            parts = (np.ascontiguousarray(part).tobytes() for part in (np.asarray(table.coef)[:, :10], code))
            note(f"table {preset.name} on {kind}", b"".join(parts))
guided = rs.Plan.build(steps=6, guidance_scale=2.0)
try:
    tensor("images guided", rs.Sampler(model, guided, batch_size=8).run(range(8)))
except rs.RestartError as error:
    note("images guided", "refused")

SAYS_LITTLE = ("program", "command", "versions")  # of run.json
with tempfile.TemporaryDirectory() as folder:
    for format in ("png", "npz", "wds", "parquet"):
        out = pathlib.Path(folder) / format
        done = subprocess.run(
            [sys.executable, "-m", "restart_sampling", "generate", "--model", "fashion-mnist", "--seeds", "0-39",
             "--steps", "4", "--out", str(out), "--format", format, "--shard-size", "16", "--batch", "8"],
            capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        for name, content in samples_of(out).items():
            note(f"file {format} {name}", content)
        note(f"contact sheet {format}", (out / "grid.png").read_bytes())
        note(f"manifest {format}", manifest_of(out))
        record = json.loads((out / "run.json").read_text())
        note(f"run.json {format}", json.dumps({k: v for k, v in record.items() if k not in SAYS_LITTLE}))
print(json.dumps(found))
"""

# Jobs of 30 seeds. `begin` stops within the second shard, `resume` goes on with what another process began.
FORMATS = ("png", "npz", "wds", "parquet")
JOBS = r"""
what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
run_job = module("jobs.generate", "output.generate").run_job
pipeline = module("jobs.pipeline", "output.pipeline")

class Stop(pipeline.Stop):
    polls = 0
    def __bool__(self):  # asked once after every batch
        self.polls += 1
        return what == "begin" and self.polls >= 3

model, plan = rs.load("fashion-mnist"), rs.Plan.build(steps=4, restart="[3, 1, 0.3, 1.0]")
for format in ("png", "npz", "wds", "parquet"):
    out = folder / format
    run_job(model, plan, "0-29", out, batch=8, shard_size=16, format=format, sheets=0, stop=Stop(), keep_seconds=0.0)
    if what != "begin":
        for name, content in samples_of(out).items():
            note(f"job {format} {name}", content)
        same = ("shard", "seeds", "count", "files", "bytes", "sha256", "nonfinite", "dtype", "device")
        note(f"job {format} manifest", [[line[name] for name in same] for line in manifest_of(out)])
        note(f"job {format} run.json", (out / "run.json").read_bytes() if what == "resume" else "")
print(json.dumps(found))
"""


def child(root: Path, code: str, *arguments: str) -> dict[str, str]:
    """Return the digests that `code` computes with the package under `root`, by name."""
    paths = os.pathsep.join(str(root / folder) for folder in ROOTS)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", COMMON + code, *arguments],
            env=os.environ | {"PYTHONPATH": paths},
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"the code under {root} stopped; its errors are above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def backends(*roots: Path) -> list[str]:
    """Return the backends that all revisions have."""
    native = all(any((root / "bindings" / "restart_bindings").glob("_native_cpu*")) for root in roots)
    return ["reference", "native"] if native else ["reference"]


def resumed(here: Path, there: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return digests of jobs that `there` began and `here` ended, and of whole jobs of `there`."""
    with tempfile.TemporaryDirectory() as folder:
        begun, whole = Path(folder, "begun"), Path(folder, "whole")
        child(there, JOBS, "begin", str(begun))
        records = {format: (begun / format / "run.json").read_bytes() for format in FORMATS}
        wanted = child(there, JOBS, "whole", str(whole))
        found = child(here, JOBS, "resume", str(begun))
        for format, record in records.items():
            kept = (begun / format / "run.json").read_bytes() == record
            found[f"job {format} run.json"] = wanted[f"job {format} run.json"] if kept else "changed by the resume"
    return found, wanted


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """Yield a folder that holds `revision`: a folder itself, or one that git makes."""
    if Path(revision).is_dir():
        yield Path(revision).resolve()
        return
    with worktree(ROOT, revision) as folder:
        said = copy_native(ROOT, folder, revision)
        if said:
            print(said)
        yield folder


def main() -> None:
    """Compare, print what differs, and exit with 1 if anything does."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="a commit, a tag, a branch, or a folder that holds another checkout")
    revision = parser.parse_args().revision
    with checkout(revision) as other:
        both = backends(ROOT, other)
        here, there = child(ROOT, RESULTS, *both), child(other, RESULTS, *both)
        ended, whole = resumed(ROOT, other)
    here, there = here | ended, there | whole
    differ = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    for name in differ:
        print(f"{name}: {there.get(name, 'missing')} at {revision}, {here.get(name, 'missing')} here")
    print(f"{len(here) - len(differ)} of {len(here)} results equal to those of {revision}")
    raise SystemExit(1 if differ else 0)


if __name__ == "__main__":
    main()
