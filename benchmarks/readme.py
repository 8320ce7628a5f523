"""Fills the marked places of README.md from committed results and from what the commands print.

python benchmarks/readme.py            # rewrite README.md
python benchmarks/readme.py --check    # exit 1 if it would change
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import restart_sampling as rs

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def explain() -> str:
    plan = rs.Plan.build(steps=18, solver="heun", restart="[3, 2, 0.30, 1.0]")
    return f"```\n{plan.explain()}```"


def aot() -> str:
    rows = json.loads((RESULTS / "aot.json").read_text())
    lines = [
        "| kernel | target | registers | spills | shared bytes | SASS per element, with noise / without |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        without = f"{row['shortest_path']:.1f}" if row["variant"].startswith("step") else "–"
        lines.append(
            f"| {row['variant']} | sm_{row['arch']} | {row['registers']} | {row['spills']} | {row['shared']} "
            f"| {row['longest_path']:.1f} / {without} |"
        )
    return "\n".join(lines)


def quality() -> str:
    with (RESULTS / "quality_fashion_mnist.csv").open() as file:
        rows = list(csv.DictReader(file))
    lines = [
        f"The bundled model, n = {int(rows[0]['n']):,} samples, Fréchet distance to the test set on the features of a small",
        "classifier (FD-classifier, not FID; lower is better), and how often that classifier sees the class that was asked",
        "for. `make quality` writes the rows to `benchmarks/results/quality_fashion_mnist.csv`.",
        "",
        "| sampler | [N, K, t_min, t_max] | NFE | FD-classifier | right class |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy = f"{100 * float(row['accuracy']):.1f} %" if row["accuracy"] else "–"
        nfe = row["nfe"] if row["nfe"] != "0" else "–"
        lines.append(
            f"| {row['sampler']} | {row['restart'] or '–'} | {nfe} | {float(row['fd']):.2f} | {accuracy} |"
        )
    return "\n".join(
        [*lines, "", "![FD-classifier against NFE](benchmarks/results/quality_fashion_mnist.png)"]
    )


def filled(text: str) -> str:
    """README text with every marked place, from `<!-- name -->` to `<!-- /name -->`, written again."""
    for name, make in (("explain", explain), ("aot", aot), ("quality", quality)):
        body = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
        pattern = rf"<!-- {name} -->.*?<!-- /{name} -->"
        if not re.search(pattern, text, flags=re.S):
            raise SystemExit(f"README.md has no place marked {name}")
        text = re.sub(pattern, lambda _, body=body: body, text, flags=re.S)  # type: ignore[misc]
    return text


def main() -> int:
    path = ROOT / "README.md"
    old = path.read_text()
    new = filled(old)
    if "--check" in sys.argv:
        return int(old != new)
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
