r"""Points: the mean distance of a candidate over blocks of seeds, and which blocks compare.

Rows of different models, features, references, precisions or numbers of samples are never compared. A Fréchet distance
falls with the number of samples, and it moves with the seeds by more than good samplers differ. So a mean over blocks
of seeds is taken over the same blocks for all candidates that stand together (:func:`shared_blocks`). Distances from
two machines do compare: the noise bits are the same, and what a network rounds differently moves a distance by less
than its last printed digit (benchmarks/machines.py).

A measurement that was made again replaces the older one. Files are appended to, so the later row is the newer.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...common.errors import SeedError
from ...sampler.seeds import Seeds
from ..measure.rows import other_latents

Row = Mapping[str, Any]
Key = tuple[Any, ...]
TRAIN = ("train set", "train-set", "train")
CANDIDATE = ("sampler", "by", "nfe", "plan", "restart")
EVALUATED = ("model", "model_sha256", "features", "reference", "dtype")
METRICS = ("fd_balanced", "kid", "precision", "recall", "density", "coverage", "accuracy")


def of_kind(rows: Iterable[Row], *kinds: str) -> list[Row]:
    """Return the rows of these kinds."""
    return [row for row in rows if row.get("kind") in kinds]


def key_of(row: Row, names: Sequence[str]) -> Key:
    """Return the values of these fields, hashable; a field that the row lacks is ""."""
    return tuple(_hashable(row.get(name, "")) for name in names)


def latest(rows: Iterable[Row], names: Sequence[str]) -> list[Row]:
    """Return the last row of each key, in the order in which the keys first occur."""
    return list({key_of(row, names): row for row in rows}.values())


def newest_alike(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return the rows that agree with the last one in these fields."""
    return [row for row in rows if key_of(row, names) == key_of(rows[-1], names)]


def is_train(row: Row) -> bool:
    """Return whether a row measures the training images: the distance of a sampler without any error."""
    return str(row.get("sampler", "")).lower() in TRAIN


def is_finite(value: object) -> bool:
    """Return whether a field holds a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def shared_blocks(measured: Mapping[Any, Mapping[Any, Row]]) -> list[tuple[list[Any], list[Any]]]:
    """Return sets of blocks of seeds, each with the candidates that may be compared on it.

    `measured` has the rows of each candidate by block. A set is either what some candidate was drawn on, or what all
    candidates share; with it come the candidates that were drawn on all of it. A set with a single candidate is left
    out if that candidate stands beside others on fewer blocks. The sets with the most candidates come first.
    """
    own = [frozenset(blocks) for blocks in measured.values()]
    sets = dict.fromkeys([*own, frozenset.intersection(*own)] if own else [])
    found = [(some, [key for key, blocks in measured.items() if some <= set(blocks)]) for some in sets if some]
    compared = {key for _, members in found if len(members) > 1 for key in members}
    shown = [(some, members) for some, members in found if len(members) > 1 or members[0] not in compared]
    shown.sort(key=lambda item: (-len(item[1]), -len(item[0])))
    return [(sorted(some, key=lambda block: (block is None, block)), members) for some, members in shown]


def quality_points(rows: Iterable[Row], shared: bool = True) -> list[dict[str, Any]]:
    """Return a point for each candidate, NFE and basis.

    A point is a row with `fd`, `std` (over blocks of seeds; None for one block), `blocks`, `seeds`, `n_block`, and
    `basis`, which says how many samples each distance was taken over. A pooled row of several blocks is a point by
    itself; the mean over the blocks of a candidate is another. It is taken over blocks that others have too, once for
    each such set (:func:`shared_blocks`). If rows have `fd_balanced`, each point has a twin whose `fd` is that
    distance; its `fd_drawn` and `std_drawn` are the distance without weights.

    Args:
        rows: rows of kinds "quality" and "pooled"; others are ignored.
        shared: False takes the mean over all blocks of a candidate, which then compares with no other.
    """
    rows = [row for row in rows if is_finite(row.get("fd"))]
    identity = (*CANDIDATE, *EVALUATED)
    blocks: dict[Key, dict[Any, Row]] = {}
    for row in of_kind(rows, "quality"):
        blocks.setdefault(key_of(row, (*identity, "n")), {})[row.get("first_seed")] = row
    comparable: dict[Key, dict[Any, dict[Any, Row]]] = {}
    for key, some in blocks.items():
        alone = key if is_train(next(iter(some.values()))) or not shared else ()
        comparable.setdefault((alone, key[len(CANDIDATE) :]), {})[key] = some
    points = _means_over_blocks(comparable.values())
    for row in latest(of_kind(rows, "pooled"), (*identity, "n", "first_seed")):
        drawn = blocks.get(key_of(row, (*identity, "n")))
        if (row.get("blocks") or 0) < 2 and drawn is not None:
            continue  # the block itself is a point already
        every = [r for key, some in blocks.items() if key[:-1] == key_of(row, identity) for r in some.values()]
        points.append(_pooled(row, every))
    return _with_balanced(points)


def ablation_points(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return a point for each experiment and value, its mean over the blocks that the experiment's values share."""
    what, where = ("value", "sampler", "nfe", "plan"), ("experiment", *EVALUATED, "n")
    experiments: dict[Key, dict[Any, dict[Any, Row]]] = {}
    for row in of_kind(rows, "ablation"):
        if is_finite(row.get("fd")):
            measured = experiments.setdefault(key_of(row, where), {})
            measured.setdefault(key_of(row, what), {})[row.get("first_seed")] = row
    return _with_balanced(_means_over_blocks(experiments.values()))


def _means_over_blocks(groups: Iterable[Mapping[Any, Mapping[Any, Row]]]) -> list[dict[str, Any]]:
    """Return a point for each candidate of each group and set of blocks; a group has rows by candidate and block."""
    return [
        _mean_point([measured[key][block] for block in chosen])
        for measured in groups
        for chosen, members in shared_blocks(measured)
        for key in members
    ]


def _mean_point(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the mean over these blocks of one candidate."""
    n = rows[0].get("n") or 0
    point = {**rows[-1], "blocks": len(rows), "seeds": seeds_of(rows)}
    point["fd"], point["std"] = _mean_std([row["fd"] for row in rows])
    point |= _means(rows, METRICS)
    point["n_block"], point["n"] = n, n * len(rows)
    point["basis"] = (
        f"FD of one block of n = {n:,} samples"
        if len(rows) == 1
        else f"mean FD of {len(rows)} blocks of n = {n:,} samples"
    )
    return point


def _pooled(row: Row, blocks: Sequence[Row]) -> dict[str, Any]:
    """Return the point of a pooled row; `blocks` are the rows of the blocks that it pools, if they are there."""
    several = (row.get("blocks") or 0) > 1
    means = {name: row[f"{name}_mean"] for name in METRICS if row.get(f"{name}_mean") is not None}
    told = {
        "std": row.get("fd_block_std") if several else None,
        "fd_balanced_std": row.get("fd_balanced_block_std") if several else None,
        "basis": f"FD of n = {row.get('n') or 0:,} samples",
        "seeds": row.get("seeds") or seeds_of([row]) or seeds_of(blocks),
        "n_block": None,
    }
    return {**means, **row, **told}


def _with_balanced(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points, and after them those with the distance in which all classes count alike."""
    return points + [_balanced(point) for point in points if is_finite(point.get("fd_balanced"))]


def _balanced(point: dict[str, Any]) -> dict[str, Any]:
    """Return the point with the distance in which all classes count alike."""
    other = {"fd_drawn": point["fd"], "std_drawn": point["std"], "equal_classes": True}
    basis = point["basis"].replace("FD of", "FD, equal classes, of")
    return {**point, **other, "fd": point["fd_balanced"], "std": point.get("fd_balanced_std"), "basis": basis}


def _means(rows: Sequence[Row], names: Iterable[str]) -> dict[str, Any]:
    """Return mean and std of fields over the rows, as `name` and `name`_std; None if only some rows have the field."""
    found: dict[str, Any] = {}
    for name in names:
        known = [row[name] for row in rows if is_finite(row.get(name))]
        if known:
            found[name] = found[f"{name}_std"] = None
        if len(known) == len(rows):
            found[name], found[f"{name}_std"] = _mean_std(known)
    return found


def _mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the standard deviation; a single value has no standard deviation."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def seeds_of(rows: Iterable[Row]) -> str:
    """Return the seeds of these blocks, as "1000000-1002999"; "" if a row does not say.

    Plain loops once started from latents of their own, so equal seeds were not equal starts. The seeds of such rows
    end with "from other latents", which keeps them out of comparisons.
    """
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


def _hashable(value: Any) -> Any:
    """Return a value that can be part of a dictionary key."""
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
