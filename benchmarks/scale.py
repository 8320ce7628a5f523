r"""What a job costs besides its network, by size: the numbers of docs/scale.md.

* Jobs of 10³, 10⁴ and 10⁵ samples of 3×32×32 with a network that costs nothing: seconds, bytes and manifest bytes per
  sample, by format. What remains is the sampler's own work, encoding, hashing, fsync and the manifest.
* The bundled model with and without writing: does writing slow it down?
* Starting a job of 10⁹ seeds beside one of 64, and resuming with 10³ to 10⁶ finished shards.

    python benchmarks/scale.py              # a quarter of an hour; writes results/scale.json
    python benchmarks/scale.py --quick      # small, writes nothing
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from where import RESULTS, environment

import restart_sampling as rs
from restart_sampling.experiments.measure.timing import interleaved, quartiles, ratios
from restart_sampling.jobs.folder import JobFolder
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.manifest import Line, line_text
from restart_sampling.jobs.record import digest

PARTS = ("start", "job", "writing")  # "start" includes the resumes
PLAN = rs.Plan.build(steps=2)  # 3 evaluations
PIXELS = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def free(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A denoiser of a few operations; its samples are not flat, so PNG has something to compress."""
    return PIXELS + 0.05 * x / (1 + sigma.view(-1, 1, 1, 1))


def sizes(counts: list[int], formats: list[str], folder: Path) -> list[dict[str, Any]]:
    """Return a row for each format and number of samples."""
    rows = []
    for format in formats:
        for n in counts:
            out = folder / f"{format}-{n}"
            denoiser = rs.Denoiser.from_function(free, (3, 32, 32), name="free")
            started = time.perf_counter()
            run_job(denoiser, PLAN, f"0-{n - 1}", out, format=format, batch=256)
            seconds = time.perf_counter() - started
            files = [p for p in (out / "samples").rglob("*") if p.is_file()]
            manifest = sum(p.stat().st_size for p in out.glob("manifest-*"))
            rows.append(
                {
                    "what": "job",
                    "format": format,
                    "samples": n,
                    "seconds": round(seconds, 3),
                    "us_per_sample": round(1e6 * seconds / n, 1),
                    "bytes_per_sample": round(sum(p.stat().st_size for p in files) / n, 1),
                    "manifest_bytes_per_shard": round(manifest / (n / 1000), 1),
                    "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
                }
            )
            print(rows[-1], flush=True)
            shutil.rmtree(out)
    return rows


def writing(n: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Return the bundled model's images per second: a job that writes PNG files, and the sampler alone, in turns."""
    den, plan = rs.load("fashion-mnist"), rs.Plan.build(steps=9)
    sampler = rs.Sampler(den, plan, 64, batch_invariant=True)

    def job() -> None:
        shutil.rmtree(folder / "job", ignore_errors=True)
        run_job(den, plan, f"0-{n - 1}", folder / "job", shard_size=64)

    def alone() -> None:
        for _ in sampler.iterate(range(n)):
            pass

    seconds = interleaved({"job": job, "sampler": alone}, rounds, warm=1)
    q1, median, q3 = ratios(seconds["sampler"], seconds["job"])
    return {
        "what": "writing",
        "model": "fashion-mnist",
        "nfe": plan.nfe,
        "samples": n,
        "rounds": rounds,
        "disturbed": seconds.disturbed,
        "share_of_speed": {"q1": round(q1, 4), "median": round(median, 4), "q3": round(q3, 4)},
        "images_per_s": round(n / quartiles(seconds["job"])[1], 2),
    }


def starting(shards: list[int], folder: Path) -> list[dict[str, Any]]:
    """Return the ms until the first unfinished shard is known."""
    base = {
        "model_sha256": None,
        "plan": {},
        "plan_digest": digest({}),
        "class": None,
        "dtype": "fp32",
        "format": "wds",
        "pixels": "uint8",
        "shard_size": 1000,
        "noise": "philox-v1",
        "model": "free",
        "nfe": 3,
        "batch": 256,
        "device": "cpu",
        "backend": "auto",
    }
    rows = []
    for name, seeds in (("64 seeds", "0-63"), ("10^9 seeds", "0-999999999")):
        rows.append({"what": "start", "job": name, "ms": _ms(partial(_open, folder / "s", base | {"seeds": seeds}))})
        print(rows[-1], flush=True)
    for k in shards:
        out = folder / "r"
        out.mkdir()
        record = base | {"seeds": "0-999999999", "subfolders": False}
        (out / "run.json").write_text(json.dumps(record))
        with (out / "manifest-0.jsonl").open("w") as file:
            for i in range(k):
                line = Line(
                    i, f"{1000 * i}-{1000 * i + 999}", 1000, (f"shard-{i:06d}.tar",), 3_000_000, "0" * 64, batch=256
                )
                file.write(line_text(line) + "\n")
        size = (out / "manifest-0.jsonl").stat().st_size
        ms = _ms(partial(_open, out, record, keep=True), 1)
        rows.append({"what": "resume", "finished_shards": k, "manifest_mb": round(size / 1e6, 2), "ms": ms})
        print(rows[-1], flush=True)
        shutil.rmtree(out)
    return rows


class _LargeDisk:
    """Stands for a disk with room for a billion samples, of which only the start is measured."""

    free = 10**18


def _open(out: Path, record: dict[str, Any], keep: bool = False) -> None:
    with mock.patch("shutil.disk_usage", return_value=_LargeDisk):
        folder = JobFolder(out, {k: v for k, v in record.items() if k != "subfolders"})
    next(folder.todo(), None)
    folder.close()
    if not keep:
        shutil.rmtree(out)


def _ms(run: Callable[[], None], times: int = 5) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return round(1e3 * quartiles(found)[1], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--largest", type=int, default=100_000, help="samples of the largest job")
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=PARTS, help="what to measure; other rows stay as they are"
    )
    arguments = parser.parse_args()
    quick, parts = arguments.quick, arguments.parts
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        if "start" in parts:
            rows += starting([1000, 10_000] if quick else [1000, 10_000, 100_000, 1_000_000], folder)
        if "job" in parts:
            counts = [1000] if quick else [n for n in (1000, 10_000, 100_000) if n <= arguments.largest]
            rows += sizes(counts, ["wds", "png", "npz", "parquet"], folder)
        if "writing" in parts:
            rows.append(writing(64 if quick else 512, 1 if quick else 5, folder))
            print(rows[-1])
    if not quick:
        path = RESULTS / "scale.json"
        made = {row["what"] for row in rows}
        kept = [row for row in json.loads(path.read_text())["rows"] if row["what"] not in made]
        path.write_text(json.dumps({**environment(), "rows": [*kept, *rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
