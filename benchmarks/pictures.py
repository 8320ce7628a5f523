"""The README's pictures of the benchmark, from the rows of `restart-sampling bench`.

    python benchmarks/pictures.py [RESULTS_DIR] [OUT_DIR]   # quality-nfe.png, quality-speed.png, samples-per-second.png

FD against NFE, FD against samples per second, and samples per second at one budget with quartiles. Each shows the
largest group of rows that may be compared (experiments/report/select.py), and says which; distances are of the same
seeds, in one panel of all samplers on the blocks they share, and in another of those with the most blocks.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from restart_sampling.experiments.measure.rows import read_all
from restart_sampling.experiments.report import canvas, select
from restart_sampling.experiments.report.series import series_of
from restart_sampling.experiments.report.style import DISTURBED, colour, disturbed, family_of, maker, maker_rank, number
from restart_sampling.experiments.report.tables import title_of

ABOVE = 3  # a panel ends at so many times the median distance
ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str]) -> int:
    results = Path(arguments[0]) if arguments else ROOT / "benchmarks" / "results"
    out = Path(arguments[1]) if len(arguments) > 1 else ROOT / "docs"
    rows = read_all(results)
    out.mkdir(parents=True, exist_ok=True)
    made = 0
    for draw, name in PICTURES:
        if draw(rows, out / name):
            print(out / name)
            made += 1
        else:
            print(f"{name}: {results} has no rows for it; run `restart-sampling bench`", file=sys.stderr)
    return 0 if made == len(PICTURES) else 1


def quality(rows: Iterable[select.Row], path: Path) -> bool:
    """FD against NFE, the engine's samplers and other libraries'. False where there are no rows."""
    rows = list(rows)
    mine = [row for row in rows if row.get("by") != "torch"]  # plain loops are the engine's samplers once more
    return _distances(select.quality_groups(mine), rows, path, "nfe", "NFE, network evaluations per sample")


def quality_speed(rows: Iterable[select.Row], path: Path) -> bool:
    """FD against samples per second, where both were measured. False where there are no such rows."""
    rows = list(rows)
    found = select.groups(select.speed_at_quality(rows), select.SPEED_QUALITY_GROUP)
    return _distances(found, rows, path, "samples_per_s", "samples per second (more is better)")


def _distances(found: Sequence[select.Group], rows: Sequence[select.Row], path: Path, x: str, title: str) -> bool:
    """Draw FD along `x`: a panel of all samplers on the blocks they share, and one of those with more blocks."""
    groups = select.panels(found)
    if not groups:
        return False
    speed = x == "samples_per_s"
    with canvas.drawing():
        heights = [4.6, *[2.7] * (len(groups) - 1)]
        several = len({group.rows[0].get("features") for group in groups}) > 1
        figure, axes = canvas.figure(sum(heights) + 0.9, len(groups), squeeze=False, sharex=True, height_ratios=heights)
        for group, panel in zip(groups, axes[:, 0], strict=True):
            first, train = group.rows[0], select.train_row(rows, group)
            lines = series_of(group.rows)
            canvas.log_axis(panel, "x", [r[x] for g in groups for r in g.rows], 0.1)
            top = ABOVE * statistics.median(r["fd"] for r in group.rows)
            above = [r for r in group.rows if r["fd"] > top]
            ends = [r["fd"] + way * (r.get("std") or 0) for r in group.rows for way in (-1, 0, 1)]
            ends = [v for v in ends if v <= top] if above else ends
            canvas.log_axis(panel, "y", [v for v in ends if v > 0] + ([train["fd"]] if train else []), 0.08)
            for line in lines:
                canvas.curve(panel, line, x, *(("samples_per_s_q1", "samples_per_s_q3") if speed else ()))
            if train is not None:
                canvas.floor(panel, train["fd"], "training images")
            panel.set_ylabel("FD" + ", equal classes" * bool(first.get("equal_classes")) + "\n(lower is better)")
            more = ", ".join(f"{title_of(r)} at {number(r['nfe'])} NFE, FD {r['fd']:.3g}" for r in above)
            on = f"{first.get('features')}: " * several
            panel.set_title(on + _blocks(first) + f"\nabove the picture: {more}" * bool(above))
        axes[-1, 0].set_xlabel(title)
        for group, panel in zip(groups, axes[:, 0], strict=True):
            canvas.name(panel, series_of(group.rows), x)
        every = [row for group in groups for row in group.rows]
        canvas.legend(
            figure, [family_of(r) for r in every], [str(r.get("by")) for r in every], canvas.has_hollow(every)
        )
        caption = f"{_common(groups)}. Bars: standard deviation over blocks of seeds"
        if speed:
            caption += f", and quartiles of the speed over {number(every[0].get('rounds'))} rounds in turns"
        canvas.save(figure, path, caption + ".")
    return True


def _blocks(row: select.Row) -> str:
    """ "the same 10 blocks of 1,000 seeds"."""
    blocks, n = row.get("blocks") or 1, row.get("n_block") or row.get("n")
    return f"the same {number(blocks)} blocks of {number(n)} seeds" if blocks > 1 else f"the same {number(n)} seeds"


def _common(groups: Sequence[select.Group]) -> str:
    """What the panels have in common: not the seeds, nor the features where there are several."""
    row = groups[0].rows[0]
    names = ("model", "model_sha256", "dtype")
    names += ("features", "reference") if len({g.rows[0].get("features") for g in groups}) == 1 else ()
    names += ("device", "threads", "batch") if "rotation" in row else ()
    return select.describe({name: row.get(name, "") for name in names})


def speed(rows: Iterable[select.Row], path: Path) -> bool:
    """Samples per second at one budget, by library. False where there are no rows."""
    found = select.groups(select.speed_rows(rows), (*select.SPEED_GROUP, "nfe_asked"))
    if not found:
        return False
    group = found[0]
    bars = sorted(group.rows, key=lambda r: (-maker_rank(r.get("by")), r["samples_per_s"]))  # from the bottom up
    place = [float(n) for n in range(len(bars))]
    for n in range(1, len(bars)):  # a gap between the engine, diffusers and plain loops
        if bars[n].get("by") != bars[n - 1].get("by"):
            place[n:] = [p + 0.6 for p in place[n:]]
    mid = [r["samples_per_s"] for r in bars]
    low = [max(0.0, m - (r.get("samples_per_s_q1") or m)) for r, m in zip(bars, mid, strict=True)]
    high = [max(0.0, (r.get("samples_per_s_q3") or m) - m) for r, m in zip(bars, mid, strict=True)]
    with canvas.drawing():
        figure, axes = canvas.figure(1.5 + 0.21 * len(bars))
        made = axes.barh(
            place,
            mid,
            xerr=(low, high),
            color=[colour(family_of(r)) for r in bars],
            edgecolor="white",
            linewidth=0,
            hatch=[maker(r).hatch for r in bars],
            error_kw={"capsize": 2, "elinewidth": 1},
            height=0.8,
        )
        for bar, row in zip(made, bars, strict=True):
            bar.set_alpha(DISTURBED if disturbed(row) else 1.0)
        names = [f"{title_of(r)} ({number(r.get('nfe'))})" + _note(r) for r in bars]
        axes.set_yticks(place, names, fontsize=canvas.SMALL)
        axes.set(xlabel="samples per second (NFE that ran in brackets)", xlim=(0, None), ylim=(-0.7, place[-1] + 0.7))
        axes.grid(axis="y", visible=False)
        canvas.legend(figure, [family_of(r) for r in bars], [str(r.get("by")) for r in bars], bars=True)
        rounds = number(group.rows[0].get("rounds"))
        canvas.save(figure, path, f"{group.label}. Whiskers: quartiles over {rounds} rounds.")
    return True


def _note(row: Any) -> str:
    return f"\n{disturbed(row)}" if disturbed(row) else ""


PICTURES = ((quality, "quality-nfe.png"), (quality_speed, "quality-speed.png"), (speed, "samples-per-second.png"))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
