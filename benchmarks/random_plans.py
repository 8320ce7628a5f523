r"""Random runs against the literal loop in float64: solvers, schedules, Restart, guidance, conditions, masks, starts.

Each case (tests/support/random_runs.py) is refused with one clear error before any call of the network, or it makes the
calls that its plans say and its samples are the literal loop's. The first case that does neither ends the script with
exit code 1 and names the seed to repeat it:

    python benchmarks/random_plans.py                        # 10,000 cases; --write keeps the summary
    python benchmarks/random_plans.py --first 4711 --n 1     # one of them again
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported: this runs on the CPU

import torch
from support import random_runs
from where import RESULTS, environment


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000, help="cases")
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    parser.add_argument("--write", action="store_true", help="write results/random_plans.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the cases are tiny
    counts, worst, start = Counter[str](), 0.0, time.perf_counter()
    for seed in range(arguments.first, arguments.first + arguments.n):
        try:
            found = random_runs.check(seed)
        except random_runs.Wrong as error:
            print(f"{error}\nagain: python benchmarks/random_plans.py --first {seed} --n 1", file=sys.stderr)
            return 1
        if found == "refused":
            counts["refused"] += 1
            continue
        counts["ran"] += 1
        counts["judged_by_float32"] += found.by_float32
        worst = max(worst, 0.0 if found.by_float32 else found.error)
    row = {
        "first": arguments.first,
        "cases": arguments.n,
        "ran": counts["ran"],
        "refused": counts["refused"],
        "largest_error": float(f"{worst:.2g}"),
        "judged_by_float32": counts["judged_by_float32"],
        "tolerance": random_runs.TOLERANCE,
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(row))
    if arguments.write:
        (RESULTS / "random_plans.json").write_text(json.dumps({**environment(), **row}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
