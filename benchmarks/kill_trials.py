r"""Jobs killed with SIGKILL at random moments and resumed: is the folder that of an undisturbed run, byte for byte?

Every trial starts the job (300 samples, 15 shards), kills it at a random moment, with a random batch size, and checks
that nothing which reads as finished is broken; then the job runs to its end. Launchers, and what is killed:

* processes: forked workers with torchrun's variables, all killed at once, three times a trial, also while they start;
* torchrun: the real launcher; one rank is killed in half of the runs, the launcher and all ranks in the other half;
* ray: the driver is killed, an actor before it in half of the runs, and an actor again in the run that ends the job.

    python benchmarks/kill_trials.py --trials 40              # 1, 2 and 3 workers each; writes results/kill_trials.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support import killing
from where import RESULTS, environment

# The trial, about how many seconds one worker takes from its first sign of life, and kills in a trial.
BY = {
    "processes": (killing.trial, 0.9, 3),
    "torchrun": (killing.torchrun_trial, 2.5, 1),
    "ray": (killing.ray_trial, 2.5, 1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--by", nargs="*", choices=list(BY), default=list(BY))
    parser.add_argument("--format", default="wds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        killing.run(Path(folder) / "want", 1, format=arguments.format)
        want = killing.tree(Path(folder) / "want")
        for by in arguments.by:
            with cluster() if by == "ray" else nullcontext():
                for workers in arguments.workers:
                    out = Path(folder) / f"{by}-{workers}"
                    rows.append(trials(by, workers, arguments.trials, arguments.seed, arguments.format, out, want))
                    write(rows)
    if any(row["equal"] < row["trials"] for row in rows):
        raise SystemExit("some trees differ")


def trials(by: str, workers: int, n: int, seed: int, format: str, out: Path, want: dict[str, str]) -> dict[str, Any]:
    """Run n trials and return a row of the results."""
    trial, lasts, kills = BY[by]
    rng, equal, half = random.Random(seed), 0, 0
    started = time.perf_counter()
    for k in range(n):
        finished = trial(out / str(k), rng, workers, lasts=lasts / workers, format=format, kills=kills)
        equal += killing.tree(out / str(k)) == want
        half += 0 < finished < 15
        job = out / str(k)
        leftovers = [str(path) for path in (*job.rglob(".*.tmp"), *job.glob(".parts/*"))]
        if leftovers:
            raise SystemExit(f"left behind: {', '.join(leftovers)}")
    print(f"{by}, {workers} workers: {equal} of {n} trees equal; {half} were half done at the last kill", flush=True)
    return {
        "by": by,
        "workers": workers,
        "trials": n,
        "kills": kills * n,
        "equal": equal,
        "half_done": half,
        "format": format,
        "seconds": round(time.perf_counter() - started, 1),
    }


@contextmanager
def cluster() -> Iterator[None]:
    """Run a Ray cluster on this machine, whose workers import what this process imports."""
    ray = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    start = [ray, "start", "--head", "--num-cpus", "4", "--include-dashboard", "false", "--disable-usage-stats"]
    subprocess.run(start, env=environment, check=True, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run([ray, "stop", "--force"], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write(rows: list[dict[str, Any]]) -> None:
    """Replace these rows in the results; those of other launchers and numbers of workers stay."""
    path = RESULTS / "kill_trials.json"
    made, about = {(row["by"], row["workers"]) for row in rows}, environment()
    rows = [{**row, "commit": about["commit"]} for row in rows]
    kept = [row for row in json.loads(path.read_text())["rows"] if (row["by"], row["workers"]) not in made]
    rows = sorted([*kept, *rows], key=lambda row: (list(BY).index(row["by"]), row["workers"]))
    (RESULTS / "kill_trials.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
