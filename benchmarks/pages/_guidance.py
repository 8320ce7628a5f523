"""Blocks of docs/guidance.md: methods of guidance with ODE, SDE and Restart samplers, at equal network calls."""

from __future__ import annotations

import guidance
import search_guidance
from guidance import FAMILIES, HELD_OUT, TITLES, Cell

from restart_sampling.experiments.measure import shipped
from restart_sampling.experiments.measure.comparison import WORDS, Difference
from restart_sampling.experiments.measure.rows import read
from restart_sampling.experiments.report.comparison import described
from restart_sampling.experiments.report.style import LOOKS, number

from ._markdown import RESULTS, listed, prose, signed, table

PAGE = "docs/guidance.md"
SECTION = """\
## Guidance and Restart, measured

Does Restart still help once guidance is good? Two bundled models answer for small images: `fashion-mnist-edm2`, trained
by EDM2's recipe, and `fashion-mnist-edm2-guide`, a smaller and less trained network of the same kind
([their card](../engine/restart_sampling/models/data/fashion-mnist-edm2.md)). Four methods of guidance, each with the
best ODE, SDE and Restart sampler of a search, get the same number of network calls per image. A call of the guide
counts as one. Every cell had as many trials, which chose the sampler with its options, the weight, the interval and how
many of the calls to use.

<!-- guidance_verdict -->
<!-- /guidance_verdict -->

![Fréchet distance of four methods of guidance with the best ODE, SDE and Restart](../benchmarks/results/guidance.png)

Restart's distance less that of the others, block by block, mean ± standard error:

<!-- guidance_differences -->
<!-- /guidance_differences -->

All cells, mean ± standard error. The features in the last two columns of distances chose the plans; precision and
recall are the shares of samples near real images and of real images near samples, five neighbours
(arXiv 1904.06991).

<!-- guidance_cells -->
<!-- /guidance_cells -->

`python benchmarks/search_guidance.py`, then `python benchmarks/guidance.py`, measures this again; both go on where they
were stopped. The rows are `benchmarks/results/search/guidance.jsonl` and `benchmarks/results/guidance.jsonl`.
"""  # of the page, which begins to have it with the first rows
SHORT = {name: name.removeprefix("fashion-mnist-") for name in shipped.NAMES}
NAMES = (*HELD_OUT, *search_guidance.TUNERS)


def measured() -> dict[tuple[str, str], Cell]:
    """Return the measured cells by (method, family)."""
    return guidance.cells(read(RESULTS / guidance.FILE))


def verdict(found: dict[str, Difference]) -> str:
    """Return "win" or "loss" if the extractors that chose no plan agree on it, else "tie"."""
    signs = {found[name].sign for name in HELD_OUT}
    return WORDS[signs.pop()] if len(signs) == 1 else WORDS[0]


def less(one: Cell, other: Cell) -> dict[str, Difference]:
    """Return the differences of two cells by extractor."""
    return {name: one.less(other, name) for name in NAMES}


def told(difference: Difference) -> str:
    """Return "−0.012 ± 0.004"."""
    return f"{signed(difference.mean)} ± {difference.error:.3f}"


def guidance_verdict() -> str:
    """Return what the measurement says, in whole sentences."""
    cells = measured()
    said = [
        f"{len(cells)} cells of {search_guidance.TRIALS} trials each, at most {search_guidance.CALLS} network calls "
        f"per image, {cells['plain', 'restart'].blocks} blocks of {guidance.BLOCK:,} seeds that no search drew.",
        "A win is a distance lower by more than two standard errors on both sets of features that chose no plan.",
    ]
    for rival in ("ode", "sde"):
        found = {m: verdict(less(cells[m, "restart"], cells[m, rival])) for m in TITLES}
        parts = [
            f"{words} with {listed([TITLES[m] for m in TITLES if found[m] == outcome])}"
            for outcome, words in (("win", "wins"), ("tie", "ties"), ("loss", "loses"))
            if outcome in found.values()
        ]
        said.append(f"Restart against the best {LOOKS[rival].label} {', and '.join(parts)}.")
    guided = [m for m in TITLES if m != "plain"]
    for family in FAMILIES:
        found = {m: verdict(less(cells[m, family], cells["plain", family])) for m in guided}
        helped = [TITLES[m] for m in guided if found[m] == "win"]
        harmed = [TITLES[m] for m in guided if found[m] == "loss"]
        words = f"{listed(helped)} lower{'s' * (len(helped) == 1)} the distance" if helped else "no guidance wins"
        words += f", and {listed(harmed)} raise{'s' * (len(harmed) == 1)} it" * bool(harmed)
        said.append(f"Against {LOOKS[family].label} without guidance, {words}.")
    best = {name: min(cells.values(), key=lambda cell: cell.mean(name)) for name in NAMES}
    lowest = [f"{TITLES[c.method]} with {LOOKS[c.family].label} by {SHORT[name]}" for name, c in best.items()]
    said.append(f"The lowest means are those of {listed(lowest)}.")
    return prose(*said)


def guidance_cells() -> str:
    """Return a line for each cell: what ran, its distances, and precision and recall."""
    cells = measured()
    lines = []
    for method in TITLES:
        for family in FAMILIES:
            cell = cells[method, family]
            config = cell.row["config"]
            plan = {name: value for name, value in config.items() if not name.startswith("guidance")}
            weight = number(config["guidance_scale"]) if "guidance_scale" in config else "–"
            low_high = " … ".join(map(number, config["guidance_interval"])) if "guidance_interval" in config else ""
            lines.append(
                (
                    TITLES[method],
                    LOOKS[family].label,
                    described(cell.row | {"config": plan}),
                    f"{weight}{', ' * bool(low_high)}{low_high}",
                    f"{cell.row['nfe']}, {cell.row['network_calls']}",
                    *(f"{cell.mean(name):.3f} ± {cell.error(name):.3f}" for name in NAMES),
                    f"{cell.mean(HELD_OUT[0], 'precision'):.3f}, {cell.mean(HELD_OUT[0], 'recall'):.3f}",
                )
            )
    columns = ("guidance", "family", "plan", "weight, interval", "NFE, calls", *(SHORT[name] for name in NAMES))
    return table((*columns, f"precision, recall ({SHORT[HELD_OUT[0]]})"), lines)


def guidance_differences() -> str:
    """Return a line for each method and rival: Restart's distance less the rival's."""
    cells = measured()
    lines = []
    for method in TITLES:
        for rival in ("ode", "sde"):
            found = less(cells[method, "restart"], cells[method, rival])
            lines.append((TITLES[method], LOOKS[rival].label, *(told(found[name]) for name in NAMES), verdict(found)))
    return table(("guidance", "Restart less", *(SHORT[name] for name in NAMES), "on both that chose none"), lines)
