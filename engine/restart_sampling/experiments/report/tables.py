"""Tables of rows: those that stand under the pictures of the page, and those of the documentation in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..measure import claims
from .columns import CALLS, ENVIRONMENT, PAIRS, Column, Table, field, table
from .points import CANDIDATE, Key, is_train, key_of, latest
from .select import EVALUATED, SPEED_GROUP, Group, Row, groups, quality_groups, quality_points, speed_rows, train_row
from .series import intervals_of, options_of, title_of
from .style import family_of, maker_rank, number, rank

Points = dict[Key, Row]  # by candidate


def by_family(rows: Iterable[Row]) -> list[Row]:
    """Return rows in reading order: the engine first, ODE, SDE, Restart, then by sampler and NFE."""
    return sorted(
        rows,
        key=lambda row: (maker_rank(row.get("by")), rank(family_of(row)), str(row.get("sampler")), row.get("nfe") or 0),
    )


def environments(rows: Iterable[Row]) -> Table:
    """Return where the rows were measured, a line for each environment."""
    names = ("device", "threads", "torch", "python", "restart_sampling", "git")
    lines = []
    for group in groups(rows, names):
        kinds = ", ".join(dict.fromkeys(str(row.get("kind", "?")) for row in group.rows))
        lines.append(dict(zip(names, group.key, strict=True)) | {"rows": len(group.rows), "kinds": kinds})
    return table(lines, ENVIRONMENT)


def quality_table(rows: Iterable[Row], by: str | None = None) -> str:
    """Return the table of quality in Markdown: the largest group of points that compare, the training images first.

    The first FD is over the seeds that all candidates share, so it compares. Beside it stands the FD over all blocks of
    a candidate, if some have more blocks, and the FD on other features. A FD has its standard deviation over blocks of
    seeds. The result is "" if there are no rows.

    Args:
        by: a maker, such as "engine"; candidates of other makers are left out. None leaves out none.
    """
    rows = list(rows)
    found = quality_groups(rows)
    if not found:
        return ""
    group = found[0]
    first = group.rows[0]
    own = _own_points(rows, group)
    more = any((point.get("blocks") or 1) != (first.get("blocks") or 1) for point in own.values())

    def whole(row: Row) -> Row:
        return own.get(key_of(row, CANDIDATE), row)

    columns: list[Column] = [
        ("sampler", title_of),
        ("restart [N, K, t_min, t_max]", intervals_of),
        ("NFE", field("nfe")),
        CALLS,
        (str(first["basis"]).removeprefix("mean "), lambda row: None if more and is_train(row) else _fd(row)),
        ("over all its blocks", lambda row: _fd(whole(row)) if more else None),
        ("as drawn", lambda row: _fd(whole(row), "fd_drawn", "std_drawn")),
        *((f"FD on {name}", _looked_up(points)) for name, points in _further(rows, first).items()),
        ("right class", lambda row: _percent(whole(row).get("accuracy"))),
        ("blocks", lambda row: whole(row).get("blocks")),
    ]
    train = train_row(rows, group)
    lines: list[Row] = [{**train, "title": "train set", "nfe": None}] if train else []
    shown = [row for row in group.rows if by in (None, row.get("by"))]
    lines += sorted(shown, key=lambda row: (row.get("nfe") or 0, row["fd"]))
    return table(lines, columns).markdown()


def features_table(rows: Iterable[Row]) -> Table:
    """Return the FD of every candidate on each set of features, with the number of blocks in brackets.

    The table is empty if there is a single set of features.
    """
    rows = list(rows)
    found = quality_groups(rows)
    first = found[0].rows[0] if found else {}
    further = _further(rows, first) if found else {}
    if not further:
        return Table((), ())
    columns: list[Column] = [
        ("sampler", title_of),
        ("by", field("by")),
        ("NFE", field("nfe")),
        CALLS,
        ("restart [N, K, t_min, t_max]", intervals_of),
        (f"{first.get('features')} (blocks)", _looked_up(_own_points(rows, found[0]))),
        *((f"{name} (blocks)", _looked_up(points)) for name, points in further.items()),
    ]
    return table(by_family(found[0].rows), columns)


def _own_points(rows: Sequence[Row], group: Group) -> Points:
    """Return the points of a group's candidates over all their own blocks."""
    first = group.rows[0]
    names = (*EVALUATED, "n_block", "equal_classes")
    return {
        key_of(point, CANDIDATE): point
        for point in quality_points(rows, shared=False)
        if first.get("n_block") and key_of(point, names) == key_of(first, names)
    }


def _further(rows: Sequence[Row], first: Row) -> dict[str, Points]:
    """Return, for each other set of features, the points of the same model over all their blocks of as many seeds."""
    alike = ("model", "model_sha256", "dtype", "n_block")
    found: dict[str, Points] = {}
    for point in quality_points(rows, shared=False):
        name = str(point.get("features") or "")
        if name != str(first.get("features") or "") and key_of(point, alike) == key_of(first, alike):
            here = found.setdefault(name, {})
            key = key_of(point, CANDIDATE)
            if key not in here or bool(point.get("equal_classes")) == bool(first.get("equal_classes")):
                here[key] = point
    return found


def _looked_up(points: Mapping[Key, Row]) -> Callable[[Row], str]:
    """Return a function that writes the FD and the number of blocks of a row's candidate."""

    def shown(row: Row) -> str:
        point = points.get(key_of(row, CANDIDATE))
        return "–" if point is None else f"{_fd(point)} ({number(point.get('blocks'))})"

    return shown


def pairs_table(rows: Iterable[Row]) -> Table:
    """Return Restart compared with the same solver without it and with the best SDE, on the same blocks of seeds.

    A line is a pair of `claims.pairs`, with the mean difference and its standard error.
    """
    pairs = claims.pairs(rows)
    several = [name for name in ("model", "features", "n") if len({str(pair.one.get(name)) for pair in pairs}) > 1]
    told: list[Column] = [(name, _of_one(name)) for name in several]
    return table(pairs, (*told, *PAIRS))


def _of_one(name: str) -> Callable[[Any], Any]:
    return lambda pair: pair.one.get(name)


def speed_table(rows: Iterable[Row], batch: int | None = None) -> str:
    """Return the table of speeds in Markdown: the largest group of one model, machine, batch, precision and rotation.

    Args:
        batch: only speeds at this batch size count; None counts all.
    """
    known = [row for row in speed_rows(rows) if batch in (None, row.get("batch"))]
    found = groups(known, SPEED_GROUP)
    if not found:
        return ""
    columns: list[Column] = [
        ("sampler", title_of),
        ("NFE", field("nfe")),
        CALLS,
        ("samples/s (quartiles)", _rate),
        ("ratio to the fp64 loop", lambda row: _times(row.get("ratio"))),
        ("outside the network", _outside),
        ("launches there", field("launches_per_evaluation")),
        ("first result", lambda row: _seconds(row.get("first_result_s"))),
    ]
    ordered = sorted(found[0].rows, key=lambda row: row.get("nfe_asked") or row.get("nfe") or 0)
    budgets = list(dict.fromkeys(row.get("nfe_asked") for row in ordered))
    ordered.sort(key=lambda row: (budgets.index(row.get("nfe_asked")), -row["samples_per_s"]))
    return table(ordered, columns).markdown()


def tuned_table(rows: Iterable[Row]) -> str:
    """Return what a search found, in Markdown: a line for each budget of the largest group's newest search.

    FD is on fresh seeds, with its standard deviation over blocks. The result is "" if there are no rows.
    """
    found = groups([row for row in rows if row.get("kind") == "tuned"], (*EVALUATED, "n"))
    if not found:
        return ""
    columns: list[Column] = [
        ("budget, NFE", field("budget")),
        ("plan found", _found),
        ("NFE", field("nfe")),
        ("its FD", lambda row: _fd(row, "fd", "fd_std")),
        ("FD of the best preset", lambda row: _fd(row, "fd_best_preset", "fd_best_preset_std")),
        ("best preset", field("best_preset")),
        ("FD of Heun", lambda row: _fd(row, "fd_heun", "fd_heun_std")),
        ("lower than both in", lambda row: f"{number(row.get('better'))} of {number(row.get('blocks'))}"),
    ]
    newest = latest(found[0].rows, ("budget",))
    return table(sorted(newest, key=lambda row: row["budget"]), columns).markdown()


def _found(row: Row) -> str:
    """Return the plan of a row in words: solver, points, intervals and the solver inside them, noise and guidance."""
    config = row.get("config") or {}
    text = f"{config.get('solver', '?')}, {number(config.get('steps'))} points"
    intervals, inside = intervals_of(row), config.get("restart_solver")
    if intervals:
        text += f", {intervals}" + f" with {inside}" * bool(inside)
    more = options_of(config)
    return text + f", {more}" * bool(more)


def _fd(row: Row, name: str = "fd", spread: str = "std") -> str:
    if row.get(name) is None:
        return "–"
    std = row.get(spread)
    return f"{row[name]:.2f}" + (f" ± {std:.2f}" if isinstance(std, (int, float)) else "")


def _percent(value: Any) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, (int, float)) else "–"


def _times(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, (int, float)) else "–"


def _seconds(value: Any) -> str:
    return f"{number(value)} s" if isinstance(value, (int, float)) else "–"


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
