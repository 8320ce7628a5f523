r"""What two revisions compute, compared to the bit: noise, plans, rows as they run, images and the files of jobs.

python benchmarks/same_results.py REVISION        # this working tree against a commit; exit 1 names what differs

A change that only moves or mends code must leave all of it alone. Each revision computes SHA-256 digests in a process
of its own, by public names only, so the layout of the code may differ. Files of jobs are compared by their bytes,
wherever they lie."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from restart_sampling.experiments.measure.against import ROOTS, copy_native, worktree

ROOT = Path(__file__).parents[1]

# Runs in either revision, with names that stay fixed.
CHILD = r"""
import hashlib, json, pathlib, subprocess, sys, tempfile
import numpy as np
import torch
import restart_sampling as rs

torch.set_num_threads(2)
found = {}

def note(name, value):
    data = value if isinstance(value, bytes) else str(value).encode()
    found[name] = hashlib.sha256(data).hexdigest()[:16]

def tensor(name, x):
    note(name, np.ascontiguousarray(x.detach().cpu().numpy()).tobytes())

seeds = [0, 1, 7, 2**31, 2**40 + 3, 2**63 - 1]
for draw in (0, 1, 77):
    tensor(f"noise {draw}", rs.noise.normal(seeds, draw=draw, shape=(3, 5, 7)))

def plan_of(name, plan):
    note(f"plan {name} digest", plan.digest)
    rows = [(r.sigma, r.t, r.s, r.noise, r.draw) for r in plan.rows]
    note(f"plan {name} rows", rows)
    note(f"plan {name} explained", plan.explain())
    return plan

for preset in rs.presets():
    plan_of(f"preset {preset.name}", rs.preset(preset.name))

SOLVERS = ("euler", "heun", "edm-stochastic", "ddpm", "dpm2", "dpm3", "dpm++2m")
RESTARTS = {"none": None, "one": "[3, 2, 0.06, 0.30]", "two": '{"0": [4, 1, 19.35, 40.79], "1": [3, 3, 0.3, 1.0]}'}
den = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2), shape=(3, 7, 5))
for backend in ("reference", "native"):
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
    for batch in (8, 16):
        x = rs.Sampler(model, rs.preset(name), batch_size=batch).run(range(16), [i % 10 for i in range(16)])
        tensor(f"images {name} batch {batch}", x)
guided = rs.Plan.build(steps=6, guidance_scale=2.0, guidance_interval=(0.1, 10.0))
try:
    tensor("images guided", rs.Sampler(model, guided, batch_size=8).run(range(8)))
except rs.RestartError as error:
    note("images guided", "refused")

with tempfile.TemporaryDirectory() as folder:
    for format in ("png", "npz", "wds", "parquet"):
        out = pathlib.Path(folder) / format
        done = subprocess.run(
            [sys.executable, "-m", "restart_sampling", "generate", "--seeds", "0-39", "--steps", "4", "--out", str(out),
             "--format", format, "--shard-size", "16", "--batch", "8", "--sheets", "0"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        kinds = {"png": "*.png", "npz": "*.npz", "wds": "*.tar", "parquet": "*.parquet"}
        for path in sorted(out.rglob(kinds[format]), key=lambda p: p.name):
            if path.name != "grid.png":
                note(f"file {format} {path.name}", path.read_bytes())
print(json.dumps(found))
"""


def results(root: Path) -> dict[str, str]:
    """Digests of what the code under `root` computes, by name."""
    paths = os.pathsep.join(str(root / folder) for folder in ROOTS)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            env=os.environ | {"PYTHONPATH": paths},
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"the code under {root} stopped; its errors are above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="a commit, a tag or a branch")
    revision = parser.parse_args().revision
    here = results(ROOT)
    with worktree(ROOT, revision) as other:
        said = copy_native(ROOT, other, revision)
        if said:
            print(said)
        there = results(other)
    differ = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    for name in differ:
        print(f"{name}: {there.get(name, 'missing')} at {revision}, {here.get(name, 'missing')} here")
    print(f"{len(here) - len(differ)} of {len(here)} results equal to those of {revision}")
    raise SystemExit(1 if differ else 0)


if __name__ == "__main__":
    main()
