r"""How far a distance moves between machines: blocks that another machine measured, drawn again on this one.

python benchmarks/machines.py --sampler preset:cifar10-vp-55 --nfe 55     # writes results/machines.json

The noise bits are the same everywhere, and the network's sums are taken in another order. Because of what this shows,
quality rows of different machines are compared (`restart_sampling.experiments.report.select`). Images in the cache
count as drawn here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import restart_sampling as rs
from restart_sampling.experiments.measure import image_cache as kept
from restart_sampling.experiments.measure import quality
from restart_sampling.experiments.measure.evaluator import evaluator_for
from restart_sampling.experiments.measure.rows import environment, find, read
from restart_sampling.experiments.measure.samplers import find as sampler

RESULTS = Path(__file__).parent / "results"
MODEL = "fashion-mnist"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sampler", default="dpm++2m")
    parser.add_argument("--nfe", type=int, default=18)
    parser.add_argument("--rows", type=Path, default=RESULTS / quality.FILE)
    parser.add_argument("--out", type=Path, default=RESULTS / "machines.json")
    arguments = parser.parse_args()
    denoiser, judge, here = rs.load(MODEL), evaluator_for(MODEL), environment()
    known = find(
        read(arguments.rows),
        kind="quality",
        sampler=arguments.sampler,
        nfe=arguments.nfe,
        model=MODEL,
        dtype="fp32",
        model_sha256=str(denoiser.info["sha256"])[:12],
        features=judge.features,
        reference=judge.reference,
    )
    elsewhere = [row for row in known if row["device"] != here["device"]]
    if not elsewhere:
        raise SystemExit(f"{arguments.rows} has no block of {arguments.sampler} from another machine than this")
    blocks = []
    for row in elsewhere:
        runner = sampler(row["sampler"]).runner(denoiser, row["nfe_asked"], batch_size=row["batch"])
        if runner is None or runner.key != row["key"]:
            raise SystemExit(f"{row['sampler']} is another plan now than that of the rows")
        images, labels = quality.block_of(
            denoiser, runner, kept.default_folder(), row["first_seed"], row["n"], row["batch"]
        )
        found = judge.measure(images, labels)
        block = {name: row[name] for name in ("sampler", "nfe", "first_seed", "n", "device", "git")}
        block |= {name: row[name] for name in ("fd", "fd_balanced")}
        block |= {f"{name}_here": round(found[name], 6) for name in ("fd", "fd_balanced")}
        blocks.append(block)
        print(f"seeds {row['first_seed']} …: {row['fd_balanced']} there, {block['fd_balanced_here']} here")
    moved = max(abs(b[f"{name}_here"] - b[name]) for b in blocks for name in ("fd", "fd_balanced"))
    arguments.out.write_text(json.dumps({"moved": round(moved, 6), "here": here, "blocks": blocks}, indent=1) + "\n")
    print(f"at most {moved:.2g} apart")


if __name__ == "__main__":
    main()
