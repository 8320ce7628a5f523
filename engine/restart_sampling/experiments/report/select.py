r"""What may stand in one picture.

Rows of different models, feature sets, references, precisions, sample counts or seeds are never compared: a Fréchet
distance falls with the number of samples, and moves with the seeds by more than good samplers differ. So a mean over
blocks of seeds is taken over the same blocks for all that stand together (`shared_blocks`). Nor are speeds of two
machines, or of two rotations: the machine may have changed in between.
Distances of two machines are: the noise bits are the same, and what a network rounds otherwise moves them by less than
    their
last printed digit (benchmarks/machines.py). `groups` separates what may not stand together. A measurement that was made
again
replaces the older one: files are appended to, so the later row is the newer.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...common.checks import is_number
from ..measure.rows import other_latents

Row = Mapping[str, Any]
TRAIN = ("train set", "train-set", "train")
CONTENDER = ("sampler", "by", "nfe", "plan", "restart")
JUDGED = ("model", "model_sha256", "features", "reference", "dtype")
QUALITY_GROUP = (*JUDGED, "basis", "seeds")
SPEED_GROUP = ("model", "model_sha256", "device", "threads", "batch", "dtype", "rotation")
SPEED_QUALITY_GROUP = (*SPEED_GROUP, "features", "reference", "basis", "seeds")
METRICS = ("fd_balanced", "kid", "precision", "recall", "density", "coverage", "accuracy")


@dataclass(frozen=True)
class Group:
    """Rows that may be compared, and what they have in common."""

    key: tuple[Any, ...]
    label: str
    short: str  # what sets it apart from the other groups
    rows: tuple[Row, ...]


def of_kind(rows: Iterable[Row], *kinds: str) -> list[Row]:
    return [row for row in rows if row.get("kind") in kinds]


def key_of(row: Row, names: Sequence[str]) -> tuple[Any, ...]:
    """Values of these fields, hashable."""
    return tuple(_plain(row.get(name, "")) for name in names)


def latest(rows: Iterable[Row], names: Sequence[str]) -> list[Row]:
    """The last row of each key, at the place of the first."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        found[key_of(row, names)] = row
    return list(found.values())


def newest_alike(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows that agree with the last one in these fields."""
    return [row for row in rows if key_of(row, names) == key_of(rows[-1], names)]


def groups(rows: Iterable[Row], names: Sequence[str]) -> list[Group]:
    """Rows by equal values of `names`, the largest group first (of equal ones the one met last: it is the newest)."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(key_of(row, names), []).append(row)
    place = {key: n for n, key in enumerate(found)}
    ordered = sorted(found, key=lambda key: (-len(found[key]), -place[key]))
    differ = [i for i in range(len(names)) if len({key[i] for key in ordered}) > 1]

    def make(key: tuple[Any, ...]) -> Group:
        common = dict(zip(names, key, strict=True))
        short = describe({names[i]: key[i] for i in differ}) if differ else ""
        return Group(key, describe(common), short, tuple(found[key]))

    return [make(key) for key in ordered]


def describe(common: Mapping[str, Any]) -> str:
    """What a group has in common, in words."""
    says: dict[str, Callable[[Any], str]] = {
        "model": str,
        "model_sha256": lambda v: f"weights {str(v)[:12]}",
        "device": str,
        "threads": lambda v: f"{v} thread{'s' if v != 1 else ''}",
        "batch": lambda v: f"batch {v}",
        "nfe_asked": lambda v: f"budget {v} NFE",
        "dtype": lambda v: f"network {v}",
        "features": lambda v: f"features {v}",
        "reference": lambda v: f"reference {v}",
        "basis": str,
        "seeds": lambda v: f"seeds {v}",
        "experiment": str,
        "rotation": lambda v: f"rotation {v}",
    }
    parts = [says[name](value) for name, value in common.items() if name in says and value not in ("", None)]
    return ", ".join(parts) or "not described"


def is_train(row: Row) -> bool:
    """A row that measures the training images themselves: what a perfect sampler would reach."""
    return str(row.get("sampler", "")).lower() in TRAIN


def shared_blocks(measured: Mapping[Any, Mapping[Any, Row]]) -> list[tuple[list[Any], list[Any]]]:
    """Sets of blocks of seeds, and who may be compared on each: (blocks, contenders that were drawn on all of them).

    `measured` has for each contender its rows by block. A set is what some contender was drawn on, or what all share. A set that
    leaves its contender alone is left out where the contender stands beside others on fewer blocks. Most contenders
    come first."""
    own = [frozenset(blocks) for blocks in measured.values()]
    sets = dict.fromkeys([*own, frozenset.intersection(*own)] if own else [])
    found = [(some, [key for key, blocks in measured.items() if some <= set(blocks)]) for some in sets if some]
    compared = {key for _, members in found if len(members) > 1 for key in members}
    kept = [(some, members) for some, members in found if len(members) > 1 or members[0] not in compared]
    kept.sort(key=lambda item: (-len(item[1]), -len(item[0])))
    return [(sorted(some, key=lambda block: (block is None, block)), members) for some, members in kept]


def quality_points(rows: Iterable[Row], shared: bool = True) -> list[dict[str, Any]]:
    """One point for each contender, NFE and way to count: `fd`, `std` over seed blocks (None for one block), `blocks`,
    `seeds`, and `basis`, which says how many samples each distance was taken over.

    A pooled row of several blocks is a point by itself; the blocks of a contender are another one, their mean. It is
    taken over the blocks that others have too, as often as there are such sets (`shared_blocks`), or with `shared` =
    False over all its own blocks, which then compares with no other. Where rows have `fd_balanced` there is a second
    point of each, whose `fd` it is;
    `fd_drawn` and `std_drawn` are then the distance without weights.
    """
    rows = [row for row in rows if _finite(row.get("fd"))]
    identity = (*CONTENDER, *JUDGED)
    blocks: dict[tuple[Any, ...], dict[Any, Row]] = {}
    for row in of_kind(rows, "quality"):
        blocks.setdefault(key_of(row, (*identity, "n")), {})[row.get("first_seed")] = row
    comparable: dict[tuple[Any, ...], dict[Any, dict[Any, Row]]] = {}
    for key, some in blocks.items():
        alone = key if is_train(_any(some)) or not shared else ()
        comparable.setdefault((alone, key[len(CONTENDER) :]), {})[key] = some
    points: list[dict[str, Any]] = []
    for measured in comparable.values():
        for chosen, members in shared_blocks(measured):
            points += [_mean_point([measured[key][block] for block in chosen]) for key in members]
    for row in latest(of_kind(rows, "pooled"), (*identity, "n", "first_seed")):
        drawn = blocks.get(key_of(row, (*identity, "n")))
        if (row.get("blocks") or 0) < 2 and drawn is not None:
            continue  # the block says the same
        every = [r for key, some in blocks.items() if key[:-1] == key_of(row, identity) for r in some.values()]
        std, std_balanced = (
            row.get(f"{name}_block_std") if (row.get("blocks") or 0) > 1 else None for name in ("fd", "fd_balanced")
        )
        means = {name: row[f"{name}_mean"] for name in METRICS if row.get(f"{name}_mean") is not None}
        told = {"std": std, "fd_balanced_std": std_balanced, "basis": f"FD of n = {row.get('n') or 0:,} samples"}
        told |= {"seeds": row.get("seeds") or _seeds([row]) or _seeds(every), "n_block": None}
        points.append({**means, **row, **told})
    return points + [_balanced(point) for point in points if _finite(point.get("fd_balanced"))]


def _mean_point(rows: Sequence[Row]) -> dict[str, Any]:
    """The mean over these blocks of one contender."""
    n = rows[0].get("n") or 0
    point = {**rows[-1], "blocks": len(rows), "seeds": _seeds(rows)}
    point["fd"], point["std"] = _mean_std([row["fd"] for row in rows])
    point |= _means(rows, METRICS)
    point["n_block"], point["n"] = n, n * len(rows)
    point["basis"] = (
        f"FD of one block of n = {n:,} samples"
        if len(rows) == 1
        else f"mean FD of {len(rows)} blocks of n = {n:,} samples"
    )
    return point


def _any(blocks: Mapping[Any, Row]) -> Row:
    return next(iter(blocks.values()))


def _balanced(point: dict[str, Any]) -> dict[str, Any]:
    """The point with the distance in which all classes count alike."""
    other = {"fd_drawn": point["fd"], "std_drawn": point["std"], "equal_classes": True}
    basis = point["basis"].replace("FD of", "FD, equal classes, of")
    return {**point, **other, "fd": point["fd_balanced"], "std": point.get("fd_balanced_std"), "basis": basis}


def quality_groups(rows: Iterable[Row]) -> list[Group]:
    """Points that may be compared, samplers only. Groups with more samplers come first."""
    return groups([p for p in quality_points(rows) if not is_train(p)], QUALITY_GROUP)


def train_row(rows: Iterable[Row], group: Group) -> Row | None:
    """The training images measured as in this group, over as many samples if there is such a row."""
    here = group.rows[0]
    found = [
        point
        for point in quality_points(rows, shared=False)
        if is_train(point) and all(point.get(name, "") == here.get(name, "") for name in ("features", "reference"))
    ]

    def differs(point: Row) -> tuple[bool, bool]:
        size = point.get("n_block") if here.get("n_block") else point.get("n")
        return (
            size != (here.get("n_block") or here.get("n")),
            bool(point.get("equal_classes")) != bool(here.get("equal_classes")),
        )

    return min(found, key=differs, default=None)


def panels(found: Sequence[Group]) -> list[Group]:
    """The groups for one picture: the one with most contenders, then for each set of features the one with most blocks
    of seeds.

    The first shows every sampler on the blocks that all have, the others the few that were drawn often, with their
    spread."""
    if not found:
        return []
    first = found[0].rows[0]
    chosen: dict[tuple[Any, ...], Group] = {}
    for group in found:
        row = group.rows[0]
        if all(row.get(name) == first.get(name) for name in ("model", "model_sha256", "dtype", "rotation", "n_block")):
            by = key_of(row, ("features", "reference"))
            best = chosen.setdefault(by, group)
            if len(group.rows) > 1 and _worth(group, first) > _worth(best, first):
                chosen[by] = group
    return [found[0], *(group for group in chosen.values() if group is not found[0])]


def _worth(group: Group, first: Row) -> tuple[bool, int, int]:
    """Distances that count classes as the first group's do come first, then more blocks, then more contenders."""
    row = group.rows[0]
    alike = bool(row.get("equal_classes")) == bool(first.get("equal_classes"))
    return alike, row.get("blocks") or 0, len(group.rows)


def front(points: Iterable[Row], x: str = "nfe", y: str = "fd", more_is_better: bool = False) -> list[Row]:
    """The points that no other beats in both x and y (lower is better; for x `more_is_better` turns it), along x."""
    sign = -1 if more_is_better else 1
    best: list[Row] = []
    for point in sorted(points, key=lambda p: (sign * p[x], p[y])):
        if not best or point[y] < best[-1][y]:
            best.append(point)
    return best


def speed_rows(rows: Iterable[Row]) -> list[Row]:
    """The newest speed row of each contender, budget and machine."""
    known = [row for row in of_kind(rows, "speed") if _finite(row.get("samples_per_s"))]
    return latest(known, (*SPEED_GROUP, "sampler", "by", "nfe_asked", "nfe"))


def speed_at_quality(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Speed rows with the quality of the same sampler, plan, network and precision, wherever that was measured."""
    rows = list(rows)
    names = ("sampler", "by", "nfe", "plan", "model_sha256", "dtype")
    points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for point in quality_points(rows):
        points.setdefault(key_of(point, names), []).append(point)
    joined = []
    for row in latest(speed_rows(rows), (*SPEED_GROUP, *names)):
        for p in points.get(key_of(row, names), []):
            told = {
                k: p.get(k)
                for k in (
                    "fd",
                    "std",
                    "features",
                    "reference",
                    "basis",
                    "seeds",
                    "n",
                    "n_block",
                    "blocks",
                    "equal_classes",
                )
            }
            joined.append({**row, **told})
    return joined


def ablation_points(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One point for each experiment and value: mean and std over the blocks of seeds that the experiment's values
    share.
    """
    what, where = ("value", "sampler", "nfe", "plan"), ("experiment", *JUDGED, "n")
    experiments: dict[tuple[Any, ...], dict[Any, dict[Any, Row]]] = {}
    for row in of_kind(rows, "ablation"):
        if _finite(row.get("fd")):
            measured = experiments.setdefault(key_of(row, where), {})
            measured.setdefault(key_of(row, what), {})[row.get("first_seed")] = row
    points = [
        _mean_point([measured[key][block] for block in chosen])
        for measured in experiments.values()
        for chosen, members in shared_blocks(measured)
        for key in members
    ]
    return points + [_balanced(point) for point in points if _finite(point.get("fd_balanced"))]


def _means(rows: Sequence[Row], names: Iterable[str]) -> dict[str, Any]:
    """Mean and std over rows of what all of them have, as `name` and `name`_std; what some lack is None."""
    found: dict[str, Any] = {}
    for name in names:
        known = [row[name] for row in rows if _finite(row.get(name))]
        if known:
            found[name] = found[f"{name}_std"] = None
        if len(known) == len(rows):
            found[name], found[f"{name}_std"] = _mean_std(known)
    return found


def _mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _seeds(rows: Iterable[Row]) -> str:
    """The seeds of these blocks, "1000000-1002999"; empty where the rows do not say.

    Plain loops once began from latents of their own, so equal seeds were not equal starts; those rows say so, and
    compare with no others."""
    from ...common.errors import SeedError
    from ...sampler.seeds import Seeds

    parts = []
    for row in rows:
        first, n = row.get("first_seed"), row.get("n")
        if not isinstance(first, int) or not isinstance(n, int) or n < 1:
            return ""
        parts.append(range(first, first + n))
    try:
        told = str(Seeds(sorted(parts, key=lambda part: part.start)))
    except SeedError:
        return ""
    return told + " from other latents" * any(map(other_latents, rows))


def _finite(value: object) -> bool:
    return is_number(value)


def _plain(value: Any) -> Any:
    """A value that can be a dictionary key."""
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
