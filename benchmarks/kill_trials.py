r"""Jobs killed with SIGKILL at random moments and resumed, against an undisturbed run: are the trees equal, byte for byte?

Every trial starts the job (300 samples, 15 shards) and kills all its workers at a random moment, three times, each time with
another batch size, checking that nothing which reads as finished is broken; then the job runs to its end.

    python benchmarks/kill_trials.py --trials 40              # 1, 2 and 3 workers; writes results/kill_trials.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import killing
from where import RESULTS, environment


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--format", default="wds")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        killing.run(Path(folder) / "want", 1, format=arguments.format)
        want = killing.tree(Path(folder) / "want")
        for workers in arguments.workers:
            rng, equal, interrupted = random.Random(arguments.seed), 0, 0
            started = time.perf_counter()
            for k in range(arguments.trials):
                out = Path(folder) / f"{workers}-{k}"
                finished = killing.trial(out, rng, workers, lasts=0.9 / workers, format=arguments.format)
                equal += killing.tree(out) == want
                interrupted += 0 < finished < 15
            seconds = round(time.perf_counter() - started, 1)
            rows.append({
                "workers": workers, "trials": arguments.trials, "kills": 3 * arguments.trials, "equal": equal,
                "half_done": interrupted, "format": arguments.format, "seconds": seconds,
            })  # fmt: skip
            print(
                f"{workers} workers: {equal} of {arguments.trials} trees equal; {interrupted} were half done at the last kill"
            )
    (RESULTS / "kill_trials.json").write_text(json.dumps({**environment(), "rows": rows}, indent=1) + "\n")
    if any(row["equal"] < row["trials"] for row in rows):
        raise SystemExit("some trees differ")


if __name__ == "__main__":
    main()
