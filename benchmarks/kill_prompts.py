r"""A job of 5,000 prompts on a pipeline, killed at random moments: is its folder that of an undisturbed run?

The pipeline is PixArt-Σ's real class with tiny random weights, text encoder and decoder among them. `generate` runs in
forked processes, one or two workers with torchrun's variables; all are killed with SIGKILL at once, at a random moment
after the job's folder is there, five times. After each kill nothing that reads as finished may be broken; then the job
runs to its end.

    python benchmarks/kill_prompts.py         # about five minutes; writes results/kill_prompts.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import killing
from support.diffusers_families import SIDE, WORDS, case
from where import RESULTS, environment

from restart_sampling.cli.app import main as command

KILLS = 5


def generate(out: Path, folder: Path, file: Path, format: str, rank: int, workers: int) -> None:
    """Run the command as worker `rank`; what it says goes nowhere."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_RANK=str(rank))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    size = ["--height", str(2 * SIDE), "--width", str(2 * SIDE)]
    asked = ["--model", str(folder), *size, "--prompts", str(file), "--steps", "2", "--format", format]
    try:
        command(["generate", *asked, "--shard-size", "128", "--batch", "32", "--sheets", "0", "--out", str(out)])
    except SystemExit as end:
        if end.code:
            raise


def started(out: Path, folder: Path, file: Path, format: str, workers: int) -> list[int]:
    return [killing.fork(partial(generate, out, folder, file, format, rank, workers)) for rank in range(workers)]


def ended(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def trial(
    out: Path, folder: Path, file: Path, format: str, workers: int, lasts: float, rng: random.Random
) -> list[int]:
    """Kill the job KILLS times, then let it end; return how many shards were finished at each kill."""
    finished = []
    for k in range(KILLS):
        children = started(out, folder, file, format, workers)
        while not (out / "run.json").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2 * lasts / KILLS / workers) + (1.0 if k else 0.0))  # a second to load the pipeline
        for child in children:
            os.kill(child, signal.SIGKILL)
        ended(children)
        finished.append(killing.intact(out))
    if ended(started(out, folder, file, format, workers)) != [0] * workers:
        raise SystemExit(f"the job in {out} did not end")
    return finished


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--format", nargs="*", default=["wds", "geneval"])
    arguments = parser.parse_args()
    rng, rows = random.Random(0), []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        file, folder = root / "prompts.csv", root / "pipeline"
        case("pixart_sigma").pipe.save_pretrained(folder)
        words = [word for word in WORDS if word.isalpha()]
        texts = (" ".join(rng.choices(words, k=rng.randint(2, 20))) for _ in range(arguments.prompts))
        file.write_text("prompt,number\n" + "".join(f"{text},{k}\n" for k, text in enumerate(texts)))
        for format in arguments.format:
            begun = time.perf_counter()
            if ended(started(root / format, folder, file, format, 1)) != [0]:
                raise SystemExit("the undisturbed job did not end")
            lasts = time.perf_counter() - begun
            want = killing.tree(root / format)
            for workers in (1, 2):
                out = root / f"{format}-{workers}"
                finished = trial(out, folder, file, format, workers, lasts, rng)
                row: dict[str, Any] = {"prompts": arguments.prompts, "format": format, "workers": workers}
                row |= {"kills": KILLS, "finished_shards": finished, "of": -(-arguments.prompts // 128)}
                row |= {"files": len(want), "equal": killing.tree(out) == want, "seconds_undisturbed": round(lasts, 1)}
                rows.append(row)
                print(row, flush=True)
    (RESULTS / "kill_prompts.json").write_text(json.dumps({**environment(), "rows": rows}, indent=1) + "\n")
    if not all(row["equal"] for row in rows):
        raise SystemExit("some trees differ")


if __name__ == "__main__":
    main()
