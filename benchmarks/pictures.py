"""The README's pictures of the benchmark, from the rows of `restart-sampling bench`.

    python benchmarks/pictures.py [RESULTS_DIR] [OUT_DIR]     # quality-nfe.png, quality-speed.png, samples-per-second.png

FD against NFE with the spread over seed blocks, FD against samples per second, and samples per second at one budget with
quartiles. Each shows the largest group of rows that may be compared (`restart_sampling.report.select`), and says which.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from restart_sampling.bench.rows import read_all
from restart_sampling.report import select
from restart_sampling.report.style import FAMILIES, colour, family_of, log_ticks, number, rank
from restart_sampling.report.tables import title_of

ROOT = Path(__file__).resolve().parents[1]
MARKERS = "osD^vPX*phd<>8"
HATCHES = {"engine": "", "diffusers": "///", "torch": "xxx"}


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
    found = select.quality_groups(rows)
    if not found:
        return False
    group = found[0]
    shown = [row for row in group.rows if row.get("by") != "torch"]  # plain loops draw what the engine draws
    figure, axes = _figure((8.2, 5.0))
    _lines(axes, shown, "nfe")
    train = select.train_row(rows, group)
    if train is not None:
        axes.axhline(
            train["fd"], color="#222222", linewidth=1, linestyle=(0, (6, 4)), label="training images"
        )
    _log_axis(axes, "x", [r["nfe"] for r in shown])
    axes.set_xlabel("NFE, network evaluations per sample")
    _distances(axes, [*shown, *([train] if train else [])], group)
    _save(figure, path, f"{group.label}. Bars: standard deviation over blocks of seeds.")
    return True


def quality_speed(rows: Iterable[select.Row], path: Path) -> bool:
    """FD against samples per second, where both were measured. False where there are no such rows."""
    found = select.groups(select.speed_at_quality(rows), select.SPEED_QUALITY_GROUP)
    if not found:
        return False
    group = found[0]
    figure, axes = _figure((8.2, 5.0))
    _lines(axes, group.rows, "samples_per_s", "samples_per_s_q1", "samples_per_s_q3")
    _log_axis(axes, "x", [r["samples_per_s"] for r in group.rows])
    axes.set_xlabel("samples per second (more is better)")
    _distances(axes, group.rows, group)
    rounds = number(group.rows[0].get("rounds"))
    caption = (
        f"{group.label}. Bars: quartiles of the speed over {rounds} rounds, in which all of them took turns, and standard "
        "deviation of FD over blocks of seeds."
    )
    _save(figure, path, caption)
    return True


def _lines(axes: Any, rows: Sequence[select.Row], x: str, low: str = "", high: str = "") -> None:
    """A line of FD for each sampler, along NFE, with bars in y and, from the fields `low` to `high`, in x."""
    order = {"engine": 0, "diffusers": 1, "torch": 2}
    lines: dict[str, list[select.Row]] = {}
    for row in sorted(
        rows,
        key=lambda r: (order.get(str(r.get("by")), 3), rank(family_of(r)), str(r.get("sampler")), r["nfe"]),
    ):
        lines.setdefault(str(row.get("sampler")), []).append(row)
    styles = {"engine": "-", "diffusers": "--"}
    for n, some in enumerate(lines.values()):
        first, by = some[0], str(some[0].get("by"))
        bars = None
        if low:
            bars = [[max(0.0, r[x] - (r.get(low) or r[x])) for r in some]]
            bars += [[max(0.0, (r.get(high) or r[x]) - r[x]) for r in some]]
        axes.errorbar(
            [r[x] for r in some], [r["fd"] for r in some], xerr=bars, yerr=[r.get("std") or 0 for r in some],
            label=title_of(first), color=colour(family_of(first)), marker=MARKERS[n % len(MARKERS)], markersize=5,
            linewidth=1.2, capsize=2, linestyle=styles.get(by, ":"), markerfacecolor=None if by == "engine" else "white",
        )  # fmt: skip


def _distances(axes: Any, rows: Sequence[select.Row], group: select.Group) -> None:
    """The y axis of Fréchet distances, and the legend."""
    _log_axis(axes, "y", [r["fd"] for r in rows])
    axes.set_ylabel(f"FD on {group.rows[0].get('features')} (lower is better)")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def speed(rows: Iterable[select.Row], path: Path) -> bool:
    """Samples per second at one budget, by who runs it. False where there are no rows."""
    from matplotlib.patches import Patch

    found = select.groups(select.speed_rows(rows), (*select.SPEED_GROUP, "nfe_asked"))
    if not found:
        return False
    group = found[0]
    order = ["torch", "diffusers", "engine"]  # from the bottom up
    bars = sorted(
        group.rows, key=lambda r: (order.index(r["by"]) if r.get("by") in order else -1, r["samples_per_s"])
    )
    figure, axes = _figure((8.2, 1.2 + 0.27 * len(bars)))
    place = [float(n) for n in range(len(bars))]
    for n in range(1, len(bars)):  # a gap between the engine, diffusers and plain loops
        if bars[n].get("by") != bars[n - 1].get("by"):
            place[n:] = [p + 0.6 for p in place[n:]]
    mid = [r["samples_per_s"] for r in bars]
    low = [max(0.0, m - (r.get("samples_per_s_q1") or m)) for r, m in zip(bars, mid, strict=True)]
    high = [max(0.0, (r.get("samples_per_s_q3") or m) - m) for r, m in zip(bars, mid, strict=True)]
    axes.barh(
        place, mid, xerr=(low, high), color=[colour(family_of(r)) for r in bars], edgecolor="white", linewidth=0,
        hatch=[HATCHES.get(str(r.get("by")), ".") for r in bars], error_kw={"capsize": 2, "elinewidth": 1}, height=0.8,
    )  # fmt: skip
    axes.set_yticks(place, [f"{title_of(r)} ({number(r.get('nfe'))})" for r in bars], fontsize=8)
    axes.set(xlabel="samples per second (NFE that ran in brackets)", ylim=(-0.7, place[-1] + 0.7))
    axes.grid(axis="y", visible=False)
    families = sorted({family_of(r) for r in bars}, key=rank)
    handles = [Patch(facecolor=colour(f), label=FAMILIES.get(f, f)) for f in families]
    names = {"engine": "this engine", "diffusers": "diffusers", "torch": "plain PyTorch"}
    present = [by for by in reversed(order) if any(r.get("by") == by for r in bars)]
    handles += [
        Patch(facecolor="#bbbbbb", edgecolor="white", hatch=HATCHES[by], label=names[by]) for by in present
    ]
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    _save(
        figure,
        path,
        f"{group.label}. Whiskers: quartiles over {number(group.rows[0].get('rounds'))} rounds.",
    )
    return True


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=size, constrained_layout=True)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _log_axis(axes: Any, which: str, values: Sequence[float]) -> None:
    """Logarithmic, with ticks people read."""
    from matplotlib.ticker import NullLocator

    ticks = log_ticks(values)
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    if ticks:
        (axes.set_xticks if which == "x" else axes.set_yticks)(ticks, [f"{t:,.10g}" for t in ticks])
        (axes.xaxis if which == "x" else axes.yaxis).set_minor_locator(NullLocator())


def _save(figure: Any, path: Path, caption: str) -> None:
    import matplotlib.pyplot as plt

    figure.supxlabel(textwrap.fill(caption, 115), fontsize=7, color="#555555", x=0.01, ha="left")
    figure.savefig(path, dpi=130)
    plt.close(figure)


PICTURES = (
    (quality, "quality-nfe.png"),
    (quality_speed, "quality-speed.png"),
    (speed, "samples-per-second.png"),
)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
