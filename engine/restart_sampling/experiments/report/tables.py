"""Rows as tables: under every picture of the report, and as Markdown for the README."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..measure import claims
from .select import (
    CONTENDER,
    JUDGED,
    SPEED_GROUP,
    Group,
    Row,
    groups,
    is_train,
    key_of,
    latest,
    quality_groups,
    quality_points,
    speed_rows,
    train_row,
)
from .series import intervals_of as intervals_of
from .series import title_of as title_of
from .style import family_of, maker_rank, number, rank

Column = tuple[str, Callable[[Any], Any]]  # a title, and what stands there for a row


@dataclass(frozen=True)
class Table:
    """A table as text: column titles, then cells."""

    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = ["| " + " | ".join(map(_cell, line)) + " |" for line in (self.columns, *self.cells)]
        return "\n".join([lines[0], "|" + "---|" * len(self.columns), *lines[1:]])


def table(rows: Iterable[Any], columns: Sequence[Column]) -> Table:
    """A table of `rows`; columns that no row has anything for are left out."""
    lines = [[number(value(row)) for _, value in columns] for row in rows]
    kept = [i for i in range(len(columns)) if any(line[i] != "–" for line in lines)]
    return Table(tuple(columns[i][0] for i in kept), tuple(tuple(line[i] for i in kept) for line in lines))


def field(name: str) -> Callable[[Row], Any]:
    return lambda row: row.get(name)


def plus_minus(name: str, std: str) -> Callable[[Row], str]:
    """ "8.13 ± 0.10", or the value alone where no spread is known."""

    def shown(row: Row) -> str:
        value, spread = row.get(name), row.get(std)
        return number(value) if spread is None or spread == "" else f"{number(value)} ± {number(spread)}"

    return shown


QUALITY: tuple[Column, ...] = (
    ("sampler", title_of),
    ("family", lambda row: "" if is_train(row) else family_of(row)),
    ("by", field("by")),
    ("NFE", field("nfe")),
    ("restart [N, K, t_min, t_max]", intervals_of),
    ("n", field("n")),
    ("blocks", field("blocks")),
    ("seeds", field("seeds")),
    ("FD", plus_minus("fd", "std")),
    ("KID", plus_minus("kid", "kid_std")),
    ("precision", field("precision")),
    ("recall", field("recall")),
    ("density", field("density")),
    ("coverage", field("coverage")),
    ("accuracy", field("accuracy")),
    ("plan", field("plan")),
    ("git", field("git")),
)
SPEED: tuple[Column, ...] = (
    ("sampler", title_of),
    ("by", field("by")),
    ("NFE", field("nfe")),
    ("asked", field("nfe_asked")),
    ("samples/s", field("samples_per_s")),
    ("q1", field("samples_per_s_q1")),
    ("q3", field("samples_per_s_q3")),
    ("ratio to the fp64 loop", field("ratio")),
    ("ms per evaluation", field("ms_per_evaluation")),
    ("ms outside the network", field("ms_outside_network")),
    ("launches outside", field("launches_per_evaluation")),
    ("bytes outside", field("bytes_per_evaluation")),
    ("first result, s", field("first_result_s")),
    ("peak memory, MB", field("peak_memory_mb")),
    ("rounds", field("rounds")),
    ("disturbed", field("disturbed")),
    ("git", field("git")),
)
AT_QUALITY: tuple[Column, ...] = (
    ("sampler", title_of),
    ("by", field("by")),
    ("NFE", field("nfe")),
    ("FD", plus_minus("fd", "std")),
    ("samples/s", field("samples_per_s")),
    ("q1", field("samples_per_s_q1")),
    ("q3", field("samples_per_s_q3")),
    ("n", field("n")),
    ("seeds", field("seeds")),
)
ABLATION: tuple[Column, ...] = (
    ("experiment", field("experiment")),
    ("value", field("value")),
    ("NFE", field("nfe")),
    ("restart", intervals_of),
    ("n in a block", field("n")),
    ("blocks", field("blocks")),
    ("seeds", field("seeds")),
    ("FD", plus_minus("fd", "std")),
    ("accuracy", field("accuracy")),
    ("plan", field("plan")),
    ("git", field("git")),
)
TRIALS: tuple[Column, ...] = (
    ("trial", field("trial")),
    ("NFE", field("nfe")),
    ("FD", field("fd")),
    ("solver", lambda row: (row.get("config") or {}).get("solver")),
    ("steps", lambda row: (row.get("config") or {}).get("steps")),
    ("restart", intervals_of),
    ("n", field("n")),
    ("plan", field("plan")),
)
TUNED: tuple[Column, ...] = (
    ("budget, NFE", field("budget")),
    ("NFE", field("nfe")),
    ("FD, tuned", plus_minus("fd", "fd_std")),
    ("FD, best preset", plus_minus("fd_best_preset", "fd_best_preset_std")),
    ("best preset", field("best_preset")),
    ("FD, Heun", plus_minus("fd_heun", "fd_heun_std")),
    ("restart", intervals_of),
    ("n", field("n")),
    ("blocks", field("blocks")),
    ("first seed", field("first_seed")),
    ("plan", field("plan")),
    ("git", field("git")),
)
PAIRS: tuple[Column, ...] = (
    ("Restart", lambda pair: f"{title_of(pair.one)}, {pair.one['nfe']} NFE"),
    ("restart [N, K, t_min, t_max]", lambda pair: intervals_of(pair.one)),
    ("beside", lambda pair: f"{title_of(pair.other)}, {pair.other['nfe']} NFE"),
    ("FD less that of the other", lambda pair: f"{pair.mean:+.2f} ± {pair.error:.2f}".replace("-", "−")),
    ("lower in", lambda pair: f"{pair.lower} of {pair.blocks} blocks"),
)
ENVIRONMENT: tuple[Column, ...] = (
    ("rows", field("rows")),
    ("kinds", field("kinds")),
    ("device", field("device")),
    ("threads", field("threads")),
    ("torch", field("torch")),
    ("python", field("python")),
    ("restart_sampling", field("restart_sampling")),
    ("git", field("git")),
)


def environments(rows: Iterable[Row]) -> Table:
    """Where the rows were measured, one line for each environment."""
    names = ("device", "threads", "torch", "python", "restart_sampling", "git")
    lines = []
    for group in groups(rows, names):
        kinds = ", ".join(dict.fromkeys(str(row.get("kind", "?")) for row in group.rows))
        lines.append(dict(zip(names, group.key, strict=True)) | {"rows": len(group.rows), "kinds": kinds})
    return table(lines, ENVIRONMENT)


def by_family(rows: Iterable[Row]) -> list[Row]:
    """Rows in reading order: the engine first, ODE, SDE, Restart, then by sampler and NFE."""
    return sorted(
        rows,
        key=lambda row: (maker_rank(row.get("by")), rank(family_of(row)), str(row.get("sampler")), row.get("nfe") or 0),
    )


def quality_table(rows: Iterable[Row], by: str | None = None) -> str:
    """The README's quality table in Markdown: the largest group of comparable points, the training images first.

    The first FD is of the seeds that all rows share, so it compares; beside it stands the FD over all blocks of a row,
    where some have more, and the FD of further features. `by` = "engine" leaves the other libraries out. FD is with its
    std over blocks of seeds. Empty where there are no rows."""
    rows = list(rows)
    found = quality_groups(rows)
    if not found:
        return ""
    group = found[0]
    first = group.rows[0]
    own = _own_points(rows, group)
    judged = _further(rows, first)
    more = any((point.get("blocks") or 1) != (first.get("blocks") or 1) for point in own.values())

    def whole(row: Row) -> Row:
        return own.get(key_of(row, CONTENDER), row)

    columns: list[Column] = [
        ("sampler", title_of),
        ("restart [N, K, t_min, t_max]", intervals_of),
        ("NFE", field("nfe")),
        (str(first["basis"]).removeprefix("mean "), lambda row: None if more and is_train(row) else _fd(row)),
        ("over all its blocks", lambda row: _fd(whole(row)) if more else None),
        ("as drawn", lambda row: _fd(whole(row), "fd_drawn", "std_drawn")),
        *((f"FD on {name}", _looked_up(points)) for name, points in judged.items()),
        ("right class", lambda row: _percent(whole(row).get("accuracy"))),
        ("blocks", lambda row: whole(row).get("blocks")),
    ]
    train = train_row(rows, group)
    lines: list[Row] = [{**train, "title": "train set", "nfe": None}] if train else []
    lines += sorted((row for row in group.rows if by in (None, row.get("by"))), key=_walk)
    return table(lines, columns).markdown()


def _own_points(rows: Sequence[Row], group: Group) -> dict[tuple[Any, ...], Row]:
    """The points of a group's contenders over all their own blocks."""
    first = group.rows[0]
    names = (*JUDGED, "n_block", "equal_classes")
    return {
        key_of(point, CONTENDER): point
        for point in quality_points(rows, shared=False)
        if first.get("n_block") and key_of(point, names) == key_of(first, names)
    }


def _further(rows: Sequence[Row], first: Row) -> dict[str, dict[tuple[Any, ...], Row]]:
    """For each other set of features the points of the same model, over all their blocks of as many seeds."""
    alike = ("model", "model_sha256", "dtype", "n_block")
    found: dict[str, dict[tuple[Any, ...], Row]] = {}
    for point in quality_points(rows, shared=False):
        name = str(point.get("features") or "")
        if name != str(first.get("features") or "") and key_of(point, alike) == key_of(first, alike):
            here = found.setdefault(name, {})
            key = key_of(point, CONTENDER)
            if key not in here or bool(point.get("equal_classes")) == bool(first.get("equal_classes")):
                here[key] = point
    return found


def _looked_up(points: Mapping[tuple[Any, ...], Row]) -> Callable[[Row], str]:
    def shown(row: Row) -> str:
        point = points.get(key_of(row, CONTENDER))
        return "–" if point is None else f"{_fd(point)} ({number(point.get('blocks'))})"

    return shown


def features_table(rows: Iterable[Row]) -> Table:
    """FD of every contender by each set of features, with the number of blocks in brackets; empty where there is but
    one set.
    """
    rows = list(rows)
    found = quality_groups(rows)
    if not found:
        return Table((), ())
    first = found[0].rows[0]
    further = _further(rows, first)
    if not further:
        return Table((), ())
    columns: list[Column] = [
        ("sampler", title_of),
        ("by", field("by")),
        ("NFE", field("nfe")),
        ("restart [N, K, t_min, t_max]", intervals_of),
        (f"{first.get('features')} (blocks)", _looked_up(_own_points(rows, found[0]))),
        *((f"{name} (blocks)", _looked_up(points)) for name, points in further.items()),
    ]
    return table(by_family(found[0].rows), columns)


def pairs_table(rows: Iterable[Row]) -> Table:
    """Restart beside the same solver without it and beside the best SDE, on the same blocks of seeds (`claims.pairs`):
    mean difference with its standard error."""
    pairs = claims.pairs(rows)
    several = [name for name in ("model", "features", "n") if len({str(pair.one.get(name)) for pair in pairs}) > 1]
    told: list[Column] = [(name, _of_one(name)) for name in several]
    return table(pairs, (*told, *PAIRS))


def _of_one(name: str) -> Callable[[Any], Any]:
    return lambda pair: pair.one.get(name)


def speed_table(rows: Iterable[Row], batch: int | None = None) -> str:
    """The README's speed table in Markdown: the largest group of one model, device, thread count, batch and precision."""
    known = [row for row in speed_rows(rows) if batch in (None, row.get("batch"))]
    found = groups(known, SPEED_GROUP)
    if not found:
        return ""
    columns: list[Column] = [
        ("sampler", title_of),
        ("NFE", field("nfe")),
        ("samples/s (quartiles)", _rate),
        ("ratio to the fp64 loop", lambda row: _times(row.get("ratio"))),
        ("outside the network", _outside),
        ("launches there", field("launches_per_evaluation")),
        ("first result", lambda row: _unit(row.get("first_result_s"), " s")),
    ]
    ordered = sorted(found[0].rows, key=lambda row: row.get("nfe_asked") or row.get("nfe") or 0)
    lines = [
        row
        for budget in groups_in_order(ordered, "nfe_asked")
        for row in sorted(budget, key=lambda row: -row["samples_per_s"])
    ]
    return table(lines, columns).markdown()


def tuned_table(rows: Iterable[Row]) -> str:
    """What a search found, in Markdown: a line for each budget of the newest search of the largest group. FD on fresh
    seeds, with its std over blocks; empty where there are no rows."""
    found = groups([row for row in rows if row.get("kind") == "tuned"], (*JUDGED, "n"))
    if not found:
        return ""
    columns: list[Column] = [
        ("budget, NFE", field("budget")),
        ("found", _found),
        ("NFE", field("nfe")),
        ("FD of it", lambda row: _fd(row, "fd", "fd_std")),
        ("best preset", lambda row: _fd(row, "fd_best_preset", "fd_best_preset_std")),
        ("its name", field("best_preset")),
        ("Heun", lambda row: _fd(row, "fd_heun", "fd_heun_std")),
        ("lower than both in", lambda row: f"{number(row.get('better'))} of {number(row.get('blocks'))}"),
    ]
    newest = latest(found[0].rows, ("budget",))
    return table(sorted(newest, key=lambda row: row["budget"]), columns).markdown()


def _found(row: Row) -> str:
    config = row.get("config") or {}
    intervals, inside = intervals_of(row), config.get("restart_solver")
    return f"{config.get('solver', '?')}, {number(config.get('steps'))} points" + (
        (f", {intervals}" + f" with {inside}" * bool(inside)) if intervals else ""
    )


def groups_in_order(rows: Iterable[Row], name: str) -> list[list[Row]]:
    """Rows with equal values of one field, groups in the order they are met."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row.get(name), []).append(row)
    return list(found.values())


def _walk(row: Row) -> tuple[Any, ...]:
    return row.get("nfe") or 0, row["fd"]


def _fd(row: Row, name: str = "fd", spread: str = "std") -> str:
    if row.get(name) is None:
        return "–"
    std = row.get(spread)
    return f"{row[name]:.2f}" + (f" ± {std:.2f}" if isinstance(std, (int, float)) else "")


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, (int, float)) else "–"


def _times(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else "–"


def _unit(value: Any, unit: str) -> str:
    return f"{number(value)}{unit}" if isinstance(value, (int, float)) else "–"


def _rate(row: Row) -> str:
    q1, q3 = row.get("samples_per_s_q1"), row.get("samples_per_s_q3")
    spread = f" ({number(q1)} – {number(q3)})" if q1 is not None and q3 is not None else ""
    return f"{number(row['samples_per_s'])}{spread}"


def _outside(row: Row) -> str:
    out, whole = row.get("ms_outside_network"), row.get("ms_per_evaluation")
    if not isinstance(out, (int, float)):
        return "–"
    share = f", {100 * out / whole:.1f} %" if isinstance(whole, (int, float)) and whole > 0 else ""
    return f"{number(out)} ms{share}"


def _cell(value: str) -> str:
    """A cell that cannot break the table."""
    return value.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
