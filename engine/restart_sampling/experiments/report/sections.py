"""The sections of the page: which rows stand in which picture, the tables under it, and how to read it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..measure import comparison as of_comparison
from . import bars, columns, comparison, figures, tables, tuning
from .ablation import ablation
from .columns import Column, Table
from .commands import Commands
from .points import latest, newest_alike, of_kind
from .select import (
    ENSEMBLE_GROUP,
    QUALITY_GROUP,
    SPEED_GROUP,
    SPEED_QUALITY_GROUP,
    Group,
    Row,
    ablation_points,
    ensemble_rows,
    groups,
    quality_groups,
    speed_at_quality,
    speed_rows,
    train_row,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from .samples import Picture

SEARCH_GROUP = ("model", "model_sha256", "device", "features", "reference", "dtype", "classes")
ABLATIONS = {
    "K": "More jumps contract the error of the run so far and add the error of their own steps, so some K is the best.",
    "interval": "Where the interval stands, from t_min to t_max.",
    "N_main": "Points of the main grid, with the interval unchanged.",
}


@dataclass(frozen=True)
class View:
    """One picture of one group of rows.

    Attributes:
        label: what is shown. short: the same for the chooser, "" takes the label.
        figure: the picture.
        tables: its rows as tables, with a name each.
    """

    label: str
    figure: Figure
    tables: tuple[tuple[str, Table], ...] = ()
    short: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it.

    Attributes:
        anchor: its name in links. title: the heading. lead: a paragraph on how to read it.
        views: pictures, of which one is shown at a time. tables: tables of the whole section.
        missing: why something is not there, "" if nothing is missing. command: what makes it, a command line or the
            name of one in `Commands`.
        pictures: images. notes: paragraphs before the pictures.
        wide: the pictures keep their width on narrow screens.
    """

    anchor: str
    title: str
    lead: str
    views: tuple[View, ...] = ()
    missing: str = ""
    command: str = ""
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()
    wide: bool = False
    tables: tuple[tuple[str, Table], ...] = ()

    @property
    def choices(self) -> list[tuple[int, str]]:
        """(place, label) of the views, sorted by label with "budget 9" before "budget 35"; view 0 is shown first."""
        named = [(n, view.short or view.label) for n, view in enumerate(self.views)]
        return sorted(
            named, key=lambda item: [(p.isdigit(), int(p) if p.isdigit() else p) for p in re.split(r"(\d+)", item[1])]
        )


@dataclass(frozen=True)
class Live:
    """What was drawn for the page.

    Attributes:
        model: name of the model. grids: grids of samples. seeds: the seeds of the grids.
        strip: the figure of one run, None if none was recorded. strip_plan: the plan that it ran.
        notes: what could not be drawn, and why.
    """

    model: str
    grids: tuple[Picture, ...] = ()
    seeds: str = ""
    strip: Figure | None = None
    strip_plan: str = ""
    notes: tuple[str, ...] = ()


def sections(rows: Sequence[Row], live: Live | None, commands: Commands) -> list[Section]:
    """Return the sections of a page, in order. `commands` are named where rows are missing."""
    found = [
        *_comparison(rows),
        _quality(rows),
        _speed_quality(rows),
        _speed(rows),
        _time(rows),
        *_live(live),
        *_ensembles(rows),
        *_ablations(rows),
        _tuning(rows),
    ]
    lines = {
        "quality": commands.quality[0],
        "speed": commands.speed,
        "tune": commands.tune,
        "samples": commands.report,
        "": "",
    }
    return [replace(section, command=lines[section.command]) for section in found]


def _comparison(rows: Sequence[Row]) -> list[Section]:
    """Return the section of the best of each family, none if it was not measured."""
    found = of_comparison.comparison(rows)
    if found is None:
        return []
    lead = (
        f"The same number of trials, {found.trials}, chose a plan of each family for every budget by the distance on "
        f"{' and '.join(found.tuned_on)}. These are their distances on other seeds, first on the features that chose "
        f"nothing. A win or a loss is a difference beyond {of_comparison.BEYOND:g} standard errors over the same "
        "blocks of seeds."
    )
    tables_ = (("Restart against the others", comparison.table(found)), ("The plans", comparison.plans(found)))
    notes = tuple(of_comparison.sentences(found))
    picture = comparison.shown(found)
    return [
        Section("comparison", "The best of each family", lead, (), pictures=(picture,), notes=notes, tables=tables_)
    ]


def _quality(rows: Sequence[Row]) -> Section:
    views = []
    for group in quality_groups(rows):
        train = train_row(rows, group)
        views.append(_view(group, figures.pareto(group.rows, train), columns.QUALITY, train))
    lead = (
        "Fréchet distance (FD) to the reference on the named features, against network evaluations per sample "
        "(NFE). Lower and further left is better. All points of a picture are of the same seeds; if samplers were "
        "drawn on different blocks of seeds, there is a picture for each set of blocks. Bars are the standard "
        "deviation over blocks; a hollow marker is of one block, so its spread is not known. A wide band is the "
        "front of its family: no sampler of the family is better in both. Plain PyTorch loops start from the "
        "engine's latents, but their later noise differs; they are hidden until chosen in the legend."
    )
    further = (
        ("Every set of features side by side", tables.features_table(rows)),
        ("Restart compared with other samplers, block by block on the same seeds", tables.pairs_table(rows)),
    )
    return Section(
        "quality",
        "Quality against evaluations",
        lead,
        tuple(views),
        *_missing("quality", "quality rows", views),
        tables=tuple((name, some) for name, some in further if some.cells),
    )


def _ensembles(rows: Sequence[Row]) -> list[Section]:
    """Return the section of ensembles, none if there are no rows of them."""
    found = groups(ensemble_rows(rows), ENSEMBLE_GROUP)
    if not found:
        return []
    lead = (
        "Several samples (members) of each input, scored against the truth of that input, point by point. The "
        "continuous ranked probability score (CRPS) is lower for better ensembles; its error is the standard error "
        "over inputs. Spread / skill is 1 for a calibrated ensemble and below 1 for one that is too narrow. Rank "
        "deviation is the share of truths that stand at a rank among the members too often; 0 is flat. All samplers "
        "of a table drew the same seeds."
    )

    def order(row: Row) -> tuple[float, float]:
        return row["nfe"], row["crps_fair"]

    shown = tuple((group.label, columns.table(sorted(group.rows, key=order), columns.ENSEMBLES)) for group in found)
    return [Section("ensembles", "Ensembles", lead, tables=shown)]


def _speed_quality(rows: Sequence[Row]) -> Section:
    found = groups(speed_at_quality(rows), SPEED_QUALITY_GROUP)
    views = [_view(g, figures.speed_quality(g.rows), columns.AT_QUALITY) for g in found]
    lead = (
        "Samples per second against FD, of samplers for which both were measured with one network and precision. Of"
        " two points at one height (equal quality), the one further right is faster. The samplers of a picture took"
        " turns in one process (a rotation). Bars are quartiles of the speed and the standard deviation of the FD."
    )
    missing = _missing("quality", "samplers with both speed and quality rows", views)
    return Section("speed-quality", "Speed at equal quality", lead, tuple(views), *missing)


def _speed(rows: Sequence[Row]) -> Section:
    found = groups(speed_rows(rows), (*SPEED_GROUP, "nfe_asked"))
    views = [_view(g, bars.speed_bars(g.rows), columns.SPEED) for g in found]
    lead = (
        "Samples per second on one machine, at one batch size and budget of evaluations. Whiskers are quartiles "
        "over rounds in which the samplers took turns. In brackets are the evaluations that really ran, the most "
        "that fit in the budget. Pale bars were measured while other processes took the processor; measure them "
        "again."
    )
    return Section("speed", "Samples per second", lead, tuple(views), *_missing("speed", "speed rows", views))


def _time(rows: Sequence[Row]) -> Section:
    timed = [
        row
        for row in speed_rows(rows)
        if all(isinstance(row.get(name), (int, float)) for name in ("ms_per_evaluation", "ms_outside_network"))
        and row["ms_per_evaluation"] > 0
    ]
    found = groups(timed, (*SPEED_GROUP, "nfe_asked"))
    views = [_view(g, bars.breakdown(g.rows), columns.SPEED) for g in found]
    lead = "Where the time of one evaluation of a batch goes: the network, and all else, whose share is beside the bar."
    missing = _missing("speed", "speed rows with times", views)
    return Section("time", "Time of an evaluation", lead, tuple(views), *missing)


def _live(live: Live | None) -> list[Section]:
    """Return the sections of images that were drawn for the page."""
    lead = "The same seeds, and so the same classes, in every grid."
    strip_lead = (
        "One Restart run, evaluation by evaluation. On top is sigma, with an arrow up at every jump. Under it are "
        "the state x that the denoiser was given, shown as x/√(1 + sigma²), and its output D(x; sigma)."
    )
    if live is None:
        missing = "No images were drawn for this page."
        return [
            Section("samples", "Samples", lead, (), missing, "samples"),
            Section("trajectory", "One run", strip_lead, (), missing, "samples"),
        ]
    if live.grids:
        lead = f"Model {live.model}, seeds {live.seeds}: the same seeds, and so the same classes, in every grid."
    no_grids = ("", "") if live.grids else ("No grid was drawn.", "samples")
    no_strip = ("", "") if live.strip is not None else ("The run was not recorded.", "samples")
    views = () if live.strip is None else (View(live.strip_plan, live.strip),)
    return [
        Section("samples", "Samples", lead, (), *no_grids, pictures=live.grids, notes=live.notes),
        Section("trajectory", "One run", strip_lead, views, *no_strip, wide=True),
    ]


def _ablations(rows: Sequence[Row]) -> list[Section]:
    """Return a section for each experiment; those of ABLATIONS come first."""
    points = ablation_points(rows)
    order = list(ABLATIONS)
    known = sorted({str(p.get("experiment")) for p in points}, key=lambda e: (order.index(e) if e in order else 9, e))
    found = []
    for experiment in known:
        mine = [p for p in points if str(p.get("experiment")) == experiment]
        views = [_view(g, ablation(experiment, g.rows), columns.ABLATION) for g in groups(mine, QUALITY_GROUP)]
        anchor = "ablation-" + "".join(c if c.isalnum() else "-" for c in experiment)
        found.append(Section(anchor, f"Ablation: {experiment}", ABLATIONS.get(experiment, ""), tuple(views)))
    return found


def _tuning(rows: Sequence[Row]) -> Section:
    measured = [r for r in of_kind(rows, "trial", "tuned") if isinstance(r.get("fd"), (int, float))]
    views = []
    for g in groups(measured, SEARCH_GROUP):
        trials = latest(of_kind(g.rows, "trial"), ("plan", "nfe", "n", "first_seed"))
        tuned = latest(of_kind(g.rows, "tuned"), ("budget", "n", "blocks", "first_seed"))
        figure = tuning.interactive(newest_alike(trials, tuning.SEARCHED), newest_alike(tuned, tuning.CONFIRMED))
        shown = (
            ("Tuned plans", tuned, columns.TUNED),
            ("Trials", sorted(trials, key=lambda t: (t["nfe"], t["fd"])), columns.TRIALS),
        )
        named = tuple((name, columns.table(some, which)) for name, some, which in shown if some)
        views.append(View(g.label, figure, named, g.short))
    lead = (
        "Plans that a search chose by the distance on the named features; other features must say how good they "
        "are. All trials share their seeds. What is reported for a budget was measured again on fresh seeds, in a "
        "panel of its own, together with plain Heun and the best preset within the budget. If searches drew "
        "different seeds, the newest is shown; the tables have all."
    )
    return Section("tuning", "Tuned plans", lead, tuple(views), *_missing("tune", "rows of a search", views))


def _view(group: Group, figure: Figure, which: Sequence[Column], train: Row | None = None) -> View:
    """Return the view of a group with its table; `train` is the table's last line."""
    rows: Iterable[Row] = [*tables.by_family(group.rows), *([train] if train else [])]
    return View(group.label, figure, (("Table", columns.table(rows, which)),), group.short)


def _missing(command: str, what: str, views: Sequence[View]) -> tuple[str, str]:
    """Return (why nothing is shown, the name of the command that makes it), both "" if there are views."""
    return ("", "") if views else (f"There are no {what} yet.", command)
