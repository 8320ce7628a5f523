r"""Jobs from a file of prompts: memory by their number, and whether encoding makes the sampler wait.

* Memory: jobs of 10³ to 10⁶ prompts, each in a process of its own, with an encoder and a network that cost nothing:
  the most memory of the process, and the seconds.
* Waiting: a network that takes a while per call and an encoder that takes half as long per prompt as the network per
  image, beside the same job with the embeddings given as conditions, in turns. Both wait instead of computing, as they
  do for a CPU where a GPU computes.

    python benchmarks/prompts.py              # about ten minutes; writes results/prompts.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from where import RESULTS, environment

import restart_sampling as rs
from restart_sampling.experiments.measure.timing import interleaved, quartiles, ratios
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.inputs.inputs import Inputs

PLAN = rs.Plan.build(steps=2)  # 3 evaluations
WIDTH = 768  # numbers of a prompt's conditions
CALL, BATCH = 0.08, 16  # seconds of a network call, and its images
ENCODING = 3 * CALL / BATCH / 2  # seconds of a prompt


def denoiser(call: float = 0.0, encoding: float = 0.0) -> rs.Denoiser:
    """Return a denoiser that takes `call` seconds a call, with an encoder that takes `encoding` seconds a prompt."""

    def network(x: torch.Tensor, sigma: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        time.sleep(call)
        return x / (1 + sigma.view(-1, 1, 1, 1)) + 1e-3 * embeds[:, :1, None, None]

    def encode(text: str) -> dict[str, torch.Tensor]:
        time.sleep(encoding)
        return {"embeds": torch.full((WIDTH,), float(len(text)))}

    conditions = {"embeds": rs.Condition((WIDTH,), null=0.0)}
    return replace(rs.Denoiser.from_function(network, (1, 4, 4), conditions=conditions), encode=encode)


def memory(count: int, folder: Path) -> dict[str, Any]:
    """Return the row of a job of so many prompts, run in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (count, str(folder)))


def _memory(count: int, folder: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    file, out = Path(folder) / "prompts.txt", Path(folder) / "out"
    with file.open("w") as text:
        text.writelines(f"a photograph of number {k}\n" for k in range(count))
    den = denoiser()
    started = time.perf_counter()
    inputs = Inputs.read(den, file)
    read = time.perf_counter() - started
    run_job(den, PLAN, None, out, inputs=inputs, batch=256, format="npz", shard_size=10_000, sheets=0)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shutil.rmtree(out)
    return {
        "what": "memory",
        "prompts": count,
        "peak_rss_mb": round(peak),
        "read_seconds": round(read, 2),
        "seconds": round(seconds, 2),
    }


def waiting(n: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Return the share of the speed with given embeddings that a job of prompts has."""
    den = denoiser(CALL, ENCODING)
    texts = [f"a photograph of number {k}" for k in range(n)]
    (folder / "prompts.txt").write_text("\n".join(texts))
    values = np.repeat(np.array([[len(text)] for text in texts], np.float32), WIDTH, 1)
    np.savez(folder / "embeds.npz", embeds=values)

    def job(**source: Path) -> None:
        shutil.rmtree(folder / "job", ignore_errors=True)
        options: dict[str, Any] = {"batch": BATCH, "format": "npz", "shard_size": 64, "sheets": 0}
        run_job(den, PLAN, None, folder / "job", inputs=Inputs.read(den, **source), **options)

    seconds = interleaved(
        {
            "prompts": lambda: job(prompts=folder / "prompts.txt"),
            "embeddings": lambda: job(conditions=folder / "embeds.npz"),
        },
        rounds,
        warm=1,
    )
    q1, median, q3 = ratios(seconds["embeddings"], seconds["prompts"])
    return {
        "what": "waiting",
        "prompts": n,
        "rounds": rounds,
        "encoding_ms": round(1e3 * ENCODING, 2),
        "image_ms": round(3e3 * CALL / BATCH, 2),
        "share_of_speed": {"q1": round(q1, 4), "median": round(median, 4), "q3": round(q3, 4)},
        "images_per_s": round(n / quartiles(seconds["prompts"])[1], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--largest", type=int, default=1_000_000, help="prompts of the largest job")
    parser.add_argument("--quick", action="store_true", help="small, writes nothing")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=".") as name:
        counts = [1000] if arguments.quick else [10**k for k in range(3, 10) if 10**k <= arguments.largest]
        for count in counts:
            rows.append(memory(count, Path(name)))
            print(rows[-1], flush=True)
        rows.append(waiting(128 if arguments.quick else 512, 1 if arguments.quick else 5, Path(name)))
        print(rows[-1], flush=True)
    if not arguments.quick:
        (RESULTS / "prompts.json").write_text(json.dumps({**environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
