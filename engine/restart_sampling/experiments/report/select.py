"""What may stand in one picture: points and speeds, grouped so that the rows of a group compare.

Distances compare as points.py says. Speeds of two machines do not compare, nor do those of two rotations, because the
machine may have changed in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .points import CANDIDATE, Key, is_finite, is_train, key_of, latest, of_kind
from .points import EVALUATED as EVALUATED
from .points import Row as Row
from .points import ablation_points as ablation_points
from .points import quality_points as quality_points

QUALITY_GROUP = (*EVALUATED, "basis", "seeds")
ENSEMBLE_GROUP = ("model", "model_sha256", "dtype", "conditions", "reference", "inputs", "members", "first_seed")
SPEED_GROUP = ("model", "model_sha256", "device", "threads", "batch", "dtype", "rotation")
SPEED_QUALITY_GROUP = (*SPEED_GROUP, "features", "reference", "basis", "seeds")
OF_QUALITY = ("fd", "std", "features", "reference", "basis", "seeds", "n", "n_block", "blocks", "equal_classes")


@dataclass(frozen=True)
class Group:
    """Rows that may be compared.

    Attributes:
        key: the values of the fields that they share. label: the same in words.
        short: what sets it apart from the other groups, "" if there is no other.
        rows: the rows.
    """

    key: Key
    label: str
    short: str
    rows: tuple[Row, ...]


def groups(rows: Iterable[Row], names: Sequence[str]) -> list[Group]:
    """Group rows by equal values of `names`, the largest group first; of equal ones the newest, which begins last."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(key_of(row, names), []).append(row)
    place = {key: n for n, key in enumerate(found)}
    ordered = sorted(found, key=lambda key: (-len(found[key]), -place[key]))
    differ = [i for i in range(len(names)) if len({key[i] for key in ordered}) > 1]

    def make(key: Key) -> Group:
        common = dict(zip(names, key, strict=True))
        short = describe({names[i]: key[i] for i in differ}) if differ else ""
        return Group(key, describe(common), short, tuple(found[key]))

    return [make(key) for key in ordered]


def describe(common: Mapping[str, Any]) -> str:
    """Return what a group has in common, in words."""
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
        "conditions": lambda v: f"conditions {v}",
        "inputs": lambda v: f"{v:,} inputs",
        "members": lambda v: f"{v} members of each",
        "first_seed": lambda v: f"seeds from {v:,}",
        "basis": str,
        "seeds": lambda v: f"seeds {v}",
        "experiment": str,
        "rotation": lambda v: f"rotation {v}",
    }
    parts = [says[name](value) for name, value in common.items() if name in says and value not in ("", None)]
    return ", ".join(parts) or "not described"


def quality_groups(rows: Iterable[Row]) -> list[Group]:
    """Return groups of points that may be compared, without the training images; the largest group comes first."""
    return groups([p for p in quality_points(rows) if not is_train(p)], QUALITY_GROUP)


def train_row(rows: Iterable[Row], group: Group) -> Row | None:
    """Return the point of the training images by the group's features; None if they were not measured.

    If there are several, one with as many samples as the group's points is preferred.
    """
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
    """Return the groups for the panels of one picture.

    The first is the group with the most candidates, which shows all on the blocks of seeds that they share. After it
    comes, for each set of features, the group with the most blocks, which shows the few that were drawn often, with
    their spread.
    """
    if not found:
        return []
    first = found[0].rows[0]
    chosen: dict[Key, Group] = {}
    for group in found:
        row = group.rows[0]
        if all(row.get(name) == first.get(name) for name in ("model", "model_sha256", "dtype", "rotation", "n_block")):
            by = key_of(row, ("features", "reference"))
            best = chosen.setdefault(by, group)
            if len(group.rows) > 1 and _preference(group, first) > _preference(best, first):
                chosen[by] = group
    return [found[0], *(group for group in chosen.values() if group is not found[0])]


def _preference(group: Group, first: Row) -> tuple[bool, int, int]:
    """Return what is preferred for a panel: classes weighted as in `first`, then more blocks, then more candidates."""
    row = group.rows[0]
    alike = bool(row.get("equal_classes")) == bool(first.get("equal_classes"))
    return alike, row.get("blocks") or 0, len(group.rows)


def speed_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the newest speed row of each candidate, budget and machine."""
    known = [row for row in of_kind(rows, "speed") if is_finite(row.get("samples_per_s"))]
    return latest(known, (*SPEED_GROUP, "sampler", "by", "nfe_asked", "nfe"))


def ensemble_rows(rows: Iterable[Row]) -> list[Row]:
    """Return the newest row of each candidate that drew ensembles of the same inputs."""
    return latest(of_kind(rows, "ensemble"), (*ENSEMBLE_GROUP, *CANDIDATE))


def speed_at_quality(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return speed rows joined with the quality of the same sampler, plan, network and precision on any machine."""
    rows = list(rows)
    names = ("sampler", "by", "nfe", "plan", "model_sha256", "dtype")
    points: dict[Key, list[dict[str, Any]]] = {}
    for point in quality_points(rows):
        points.setdefault(key_of(point, names), []).append(point)
    return [
        {**row, **{name: point.get(name) for name in OF_QUALITY}}
        for row in latest(speed_rows(rows), (*SPEED_GROUP, *names))
        for point in points.get(key_of(row, names), [])
    ]
