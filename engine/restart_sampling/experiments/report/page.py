"""The page: sections with pictures, the tables under them, and a sentence with a command where something is missing.

One HTML file that loads nothing: plotly.js stands in it once, images are data URIs, the font is the system's. Text goes
through Jinja's autoescape (Jinja comes with torch); figures are JSON in which < and > are written as escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..measure import agreement
from . import figures, studies, tables
from .clean import cleaned, printable
from .commands import Commands, commands_for, models_of
from .select import (
    QUALITY_GROUP,
    SPEED_GROUP,
    SPEED_QUALITY_GROUP,
    Group,
    Row,
    ablation_points,
    groups,
    latest,
    newest_alike,
    of_kind,
    quality_groups,
    speed_at_quality,
    speed_rows,
    train_row,
)
from .tables import Column, Table
from .template import PAGE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from .samples import Picture


@dataclass(frozen=True)
class View:
    """One picture of one group of rows: what is shown, a figure as JSON, and its rows as tables with a name each."""

    label: str
    figure: str
    height: int
    tables: tuple[tuple[str, Table], ...] = ()
    short: str = ""


@dataclass(frozen=True)
class Section:
    """A heading, a sentence on how to read it, its views, of which one is shown at a time, and tables of the whole of
    it.
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
        """(place, label) of the views in reading order, "budget 9" before "budget 35"; the first view is the one shown."""
        named = [(n, view.short or view.label) for n, view in enumerate(self.views)]
        return sorted(
            named, key=lambda item: [(p.isdigit(), int(p) if p.isdigit() else p) for p in re.split(r"(\d+)", item[1])]
        )


@dataclass(frozen=True)
class Live:
    """What was drawn for this page: sample grids, and the strip of one run with the plan it ran."""

    model: str
    grids: tuple[Picture, ...] = ()
    seeds: str = ""
    strip: Figure | None = None
    strip_plan: str = ""
    notes: tuple[str, ...] = field(default=())


def make_page(
    rows: Iterable[Row],
    *,
    title: str | None = None,
    folders: Sequence[str] = ("benchmarks/results",),
    live: Live | None = None,
) -> str:
    """The page as HTML text.

    Args:
        rows: result rows of any kinds; a kind that is missing is named with the command that makes it. What is not a
            row of bench or tune, or lacks what its kind needs, is left out and counted (`clean.cleaned`).
        title: heading of the page; by default it names the models of the rows.
        folders: where the rows came from, for the commands: `bench` writes into the first, `tune` into the last.
        live: images drawn for this page, None for none.
    """
    import jinja2
    from plotly.offline import get_plotlyjs

    rows, left_out = cleaned(rows)
    again = commands_for(rows, [printable(folder) for folder in folders])
    sections = [
        _pareto(rows),
        _speed_quality(rows),
        _bars(rows),
        _breakdown(rows),
        *_live(live),
        *_ablations(rows),
        _tuning(rows),
    ]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(PAGE).render(
        title=printable(title or heading(rows)),
        sections=[_with_command(section, again[0]) for section in sections],
        plotly=get_plotlyjs(),
        claims=agreement.sentences(rows),
        summary=" ".join([_summary(rows), *left_out]),
        environments=tables.environments(rows),
        commands=[line for some in again for line in some.all()],
    )


def heading(rows: Iterable[Row]) -> str:
    """The title of a page: "Samplers compared" and on which models."""
    models = models_of(rows)
    if not models:
        return "Samplers compared"
    more = f" and {len(models) - 3} more models" if len(models) > 3 else ""
    return f"Samplers compared: {', '.join(models[:3])}{more}"


def _with_command(section: Section, commands: Commands) -> Section:
    """The section with the command line in place of the name of what it lacks."""
    named = {
        "quality": commands.quality[0],
        "speed": commands.speed,
        "tune": commands.tune,
        "samples": commands.report,
        "": "",
    }
    return replace(section, command=named[section.command])


def _pareto(rows: Sequence[Row]) -> Section:
    views = [
        _view(g, figures.pareto(g.rows, train_row(rows, g)), tables.QUALITY, train_row(rows, g))
        for g in quality_groups(rows)
    ]
    lead = (
        "Fréchet distance (FD) to the reference on the named features, against network evaluations per sample (NFE); lower and "
        "further left is better. All points of a picture are of the same seeds; where samplers were drawn on different numbers "
        "of blocks, there is a picture for each set of blocks. Bars are the standard deviation over blocks; a hollow marker is "
        "of one block, so its spread is not known. A wide band is the front of its family: no sampler of the family is better in "
        "both. Plain PyTorch loops begin from the engine's latents and have other noise on the way; they are hidden until chosen "
        "in the legend."
    )
    pairs = tables.pairs_table(rows)
    return Section(
        "quality",
        "Quality against evaluations",
        lead,
        tuple(views),
        *_none("quality", "quality rows", views),
        tables=tuple(
            (name, some)
            for name, some in (
                ("Every set of features side by side", tables.features_table(rows)),
                ("Restart beside the others, block by block of the same seeds", pairs),
            )
            if some.cells
        ),
    )


def _speed_quality(rows: Sequence[Row]) -> Section:
    found = groups(speed_at_quality(rows), SPEED_QUALITY_GROUP)
    views = [_view(g, figures.speed_quality(g.rows), tables.AT_QUALITY) for g in found]
    lead = (
        "Samples per second against FD, where both were measured for one sampler, NFE, network and precision. At one height "
        "(equal quality) the point further right is faster. All in one picture took turns in one process (rotation). Bars: "
        "quartiles of the speed, standard deviation of the FD."
    )
    return Section(
        "speed-quality",
        "Speed at equal quality",
        lead,
        tuple(views),
        *_none("quality", "samplers with both speed and quality rows", views),
    )


def _bars(rows: Sequence[Row]) -> Section:
    found = groups(speed_rows(rows), (*SPEED_GROUP, "nfe_asked"))
    views = [_view(g, figures.speed_bars(g.rows), tables.SPEED) for g in found]
    lead = (
        "Samples per second of one machine, batch and budget of evaluations; whiskers are quartiles over rounds in which the "
        "samplers took turns. The evaluations that really ran are in brackets: a sampler takes the most that fits in the budget. "
        "Pale bars were measured while other processes took the processor: measure them again."
    )
    return Section("speed", "Samples per second", lead, tuple(views), *_none("speed", "speed rows", views))


def _breakdown(rows: Sequence[Row]) -> Section:
    timed = [
        row
        for row in speed_rows(rows)
        if all(isinstance(row.get(name), (int, float)) for name in ("ms_per_evaluation", "ms_outside_network"))
        and row["ms_per_evaluation"] > 0
    ]
    found = groups(timed, (*SPEED_GROUP, "nfe_asked"))
    views = [_view(g, figures.breakdown(g.rows), tables.SPEED) for g in found]
    lead = (
        "Where the time of one evaluation of a batch goes: the network, and everything else (the share beside the bar)."
    )
    return Section("time", "Time of an evaluation", lead, tuple(views), *_none("speed", "speed rows with times", views))


def _live(live: Live | None) -> list[Section]:
    lead = "The same seeds, and so the same classes, in every grid."
    strip_lead = (
        "One Restart run, evaluation by evaluation: sigma on top, an arrow up at every jump; under it the state x that the "
        "denoiser was given (shown as x/√(1 + sigma²)) and its output D(x; sigma)."
    )
    if live is None:
        missing = "No images were drawn for this page."
        return [
            Section("samples", "Samples", lead, (), missing, "samples"),
            Section("trajectory", "One run", strip_lead, (), missing, "samples"),
        ]
    if live.grids:
        lead = f"Model {live.model}, seeds {live.seeds}: the same seeds, and so the same classes, in every grid."
    views = () if live.strip is None else (View(live.strip_plan, _json(live.strip), _height(live.strip)),)
    missing = "" if live.strip is not None else "The run was not recorded."
    grids_missing = "" if live.grids else "No grid was drawn."
    return [
        Section("samples", "Samples", lead, (), grids_missing, "samples" * (not live.grids), live.grids, live.notes),
        Section("trajectory", "One run", strip_lead, views, missing, "samples" * (live.strip is None), wide=True),
    ]


def _ablations(rows: Sequence[Row]) -> list[Section]:
    points = ablation_points(rows)
    leads = {
        "K": "More jumps contract the error of the walk so far and add that of their own steps, so there is a best K.",
        "interval": "Where the interval stands, from t_min to t_max.",
        "N_main": "Points of the main grid, with the interval unchanged.",
    }
    order = list(leads)
    known = sorted({str(p.get("experiment")) for p in points}, key=lambda e: (order.index(e) if e in order else 9, e))
    sections = []
    for experiment in known:
        mine = [p for p in points if str(p.get("experiment")) == experiment]
        views = [_view(g, studies.ablation(experiment, g.rows), tables.ABLATION) for g in groups(mine, QUALITY_GROUP)]
        anchor = "ablation-" + "".join(c if c.isalnum() else "-" for c in experiment)
        sections.append(Section(anchor, f"Ablation: {experiment}", leads.get(experiment, ""), tuple(views)))
    return sections


def _tuning(rows: Sequence[Row]) -> Section:
    names = ("model", "model_sha256", "device", "features", "reference", "dtype", "classes")
    views = []
    for g in groups([r for r in of_kind(rows, "trial", "tuned") if isinstance(r.get("fd"), (int, float))], names):
        trials = latest(of_kind(g.rows, "trial"), ("plan", "nfe", "n", "first_seed"))
        tuned = latest(of_kind(g.rows, "tuned"), ("budget", "n", "blocks", "first_seed"))
        made = studies.tuning(newest_alike(trials, studies.SEARCHED), newest_alike(tuned, studies.CONFIRMED))
        shown = [
            ("Tuned plans", tuned, tables.TUNED),
            ("Trials", sorted(trials, key=lambda t: (t["nfe"], t["fd"])), tables.TRIALS),
        ]
        named = tuple((name, tables.table(some, columns)) for name, some, columns in shown if some)
        views.append(View(g.label, _json(made), _height(made), named, g.short))
    lead = (
        "Plans found by search, by the distances of the named features: how good they are is for other features to say. Trials "
        "share their seeds; what is reported for a budget was measured again on fresh seeds, in a panel of its own, beside the "
        "best preset and plain Heun that fit in it. Where searches drew different seeds, the newest is shown; all are in the "
        "tables."
    )
    return Section("tuning", "Tuned plans", lead, tuple(views), *_none("tune", "rows of a search", views))


def _view(group: Group, figure: Figure, columns: Sequence[Column], train: Row | None = None) -> View:
    rows: list[Row] = [*tables.by_family(group.rows), *([train] if train else [])]
    return View(group.label, _json(figure), _height(figure), (("Table", tables.table(rows, columns)),), group.short)


def _none(command: str, what: str, views: Sequence[View]) -> tuple[str, str]:
    """(sentence, what makes it) where there is nothing to show."""
    return ("", "") if views else (f"There are no {what} yet.", command)


def _json(figure: Figure) -> str:
    """JSON that can stand in a script element."""
    found = figure.to_json()
    for raw, escaped in (
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        found = found.replace(raw, escaped)
    return found


def _height(figure: Figure) -> int:
    return int(figure.layout.height or 450)


def _summary(rows: Sequence[Row]) -> str:
    kinds: dict[str, int] = {}
    for row in rows:
        kinds[str(row.get("kind", "?"))] = kinds.get(str(row.get("kind", "?")), 0) + 1
    models = models_of(rows)
    devices = list(dict.fromkeys(str(row["device"]) for row in rows if row.get("device")))
    if not rows:
        return "No rows were found."
    counted = ", ".join(f"{n:,} {kind}" for kind, n in kinds.items())
    return f"Rows: {counted}. Models: {', '.join(models) or 'not named'}. Devices: {', '.join(devices) or 'not named'}."
