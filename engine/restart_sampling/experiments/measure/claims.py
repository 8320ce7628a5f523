r"""The paper's claim as a number: the share of the best SDE's evaluations with which Restart reaches its quality.

The goal is the SDE row with the lowest mean FD over the blocks of seeds. The claim is the measured Restart row with the
fewest evaluations whose mean FD is no higher. An interpolated number stands beside it and is named as such: Restart's
curve is the lowest mean FD among its samplers at each NFE, made monotone (evaluations may always be left unused), and
between two measured points FD is taken as linear in ln NFE. The spread is that of the interpolated number, computed
block by block. "Not reached" is a possible answer.

Plain PyTorch loops are left out: they are the engine's samplers once more, with other noise.

The distance is `fd_balanced` if all these rows have it, else `fd` (evaluator.py).

`pairs` compares two candidates block by block: they drew the same seeds, so most of the noise of a distance drops out.

Rows are compared on seeds that all of them drew: those of both families that have the most blocks. The claim in words,
and how many sets of features have to agree on it, are in agreement.py.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .rows import ranking

GROUP = ("features", "reference", "dtype", "n")
Row = Mapping[str, Any]
Key = tuple[str, str, int, str]  # a candidate in a table: family, sampler, NFE, and the key of what is drawn
Table = dict[Key, dict[int, Row]]  # then by first seed


@dataclass(frozen=True)
class Fraction:
    """The result of :func:`fraction`.

    Attributes:
        nfe_sde, fd_sde, sampler: of the best SDE row. fd_restart: Restart's lowest distance.
        nfe_restart: evaluations with which Restart is as good, None if never.
        fraction: nfe_restart / nfe_sde. low, high: its range over blocks of seeds; None if no block, or not every
            block, reaches the SDE.
        reached: in how many of `blocks` blocks of `n` samples Restart reaches the SDE.
        metric: the distance of all these numbers, "fd" or "fd_balanced".
        between: the measured NFE that `nfe_restart` is interpolated between, None if it was measured itself.
        as_good: the Restart candidates whose mean FD is no higher than the SDE's, with that mean; fewest evaluations
            first.
    """

    nfe_sde: int
    fd_sde: float
    sampler: str
    fd_restart: float
    nfe_restart: float | None
    fraction: float | None
    low: float | None
    high: float | None
    reached: int
    blocks: int
    n: int
    metric: str
    between: tuple[int, int] | None
    as_good: tuple[tuple[Key, float], ...]


def fraction(rows: Iterable[Row]) -> Fraction | None:
    """Return the claim of rows of kind "quality" of one group (model, device, features, reference, dtype, n).

    Only blocks that every row of both families has are used, so that all see the same seeds. Returns None if there is
    no SDE or no Restart row.
    """
    return fraction_of(table_of(rows))


@dataclass(frozen=True)
class Pair:
    """Two candidates on the same blocks of seeds.

    Attributes:
        one, other: a row of each.
        mean: FD of `one` minus FD of `other`, mean over the blocks. error: the standard error of the mean.
        lower: in how many of `blocks` blocks of `n` samples `one` is lower. metric: "fd" or "fd_balanced".
    """

    one: Row
    other: Row
    mean: float
    error: float
    lower: int
    blocks: int
    n: int
    metric: str


def pairs(rows: Iterable[Row]) -> list[Pair]:
    """Return every Restart candidate beside its own solver without Restart, at the nearest NFE, and the best SDE.

    Rows of kind "quality" are compared within their group, if they share two blocks of seeds or more. The best SDE is
    the one that is furthest below the candidate on the blocks that both have: means over different blocks cannot be
    compared.
    """
    return [pair for group in _groups(rows) for pair in _pairs(table_of(group, ("ode", "sde", "restart")))]


def _pairs(table: Table) -> list[Pair]:
    found = []
    for key, mine in sorted(table.items()):
        family, _, nfe, _ = key
        if family != "restart":
            continue
        shared = {k: sorted(set(mine) & set(theirs)) for k, theirs in table.items() if k != key}
        several = [k for k, blocks in shared.items() if len(blocks) > 1]
        plain = [k for k in several if k[0] == "ode" and _solver(table[k]) == _solver(mine)]
        sde = [k for k in several if k[0] == "sde"]
        rivals = [min(plain, key=lambda k: abs(math.log(k[2] / nfe)))] if plain else []
        if sde:
            metric = _metric((mine, *(table[k] for k in sde)))
            rivals.append(max(sde, key=lambda k: _pair(mine, table[k], shared[k], metric).mean))
        found += [_pair(mine, table[k], shared[k]) for k in rivals]
    return found


def _solver(blocks: Mapping[int, Row]) -> str:
    """Return a candidate's solver: that of its configuration, else its name."""
    row = next(iter(blocks.values()))
    return str((row.get("config") or {}).get("solver") or row["sampler"].removesuffix("+restart"))


def _pair(mine: Mapping[int, Row], theirs: Mapping[int, Row], blocks: Sequence[int], metric: str | None = None) -> Pair:
    metric = metric or _metric((mine, theirs))
    less = [mine[block][metric] - theirs[block][metric] for block in blocks]
    one, other = mine[blocks[0]], theirs[blocks[0]]
    error = statistics.stdev(less) / math.sqrt(len(less))
    return Pair(one, other, statistics.fmean(less), error, sum(d < 0 for d in less), len(less), one["n"], metric)


def table_of(rows: Iterable[Row], families: Sequence[str] = ("sde", "restart")) -> Table:
    """Return the rows of these families by candidate and block of seeds; the later of two rows of one block counts."""
    table: Table = {}
    for row in rows:
        if (
            row.get("kind") == "quality"
            and row.get("family") in families
            and row.get("by") != "torch"
            and all(row.get(name) is not None for name in ("fd", "sampler", "nfe", "first_seed", "n"))
        ):
            key = (row["family"], row["sampler"], row["nfe"], str(row.get("key", "")))
            table.setdefault(key, {})[row["first_seed"]] = row
    return table


def _metric(blocks: Iterable[Mapping[int, Row]]) -> str:
    return ranking([row for found in blocks for row in found.values()])


def most_blocks(table: Table) -> Table:
    """Return the candidates that were drawn on the most blocks that an SDE and a Restart candidate share.

    Of equally many blocks those count that most candidates have. The result is empty if they share none.
    """
    sde, restart = (
        {frozenset(found) for key, found in table.items() if key[0] == family} for family in ("sde", "restart")
    )

    def drawn_on(blocks: frozenset[int]) -> Table:
        return {key: found for key, found in table.items() if blocks <= set(found)}

    shared = {one & other for one in sde for other in restart if one & other}
    best = max(shared, key=lambda some: (len(some), len(drawn_on(some)), sorted(some)), default=None)
    return {} if best is None else drawn_on(best)


def fraction_of(table: Table) -> Fraction | None:
    """Return :func:`fraction` of the candidates in a table, on the blocks that all of them have."""
    if {family for family, *_ in table} != {"sde", "restart"}:
        return None
    blocks = sorted(set.intersection(*(set(found) for found in table.values())))
    if not blocks:
        return None
    metric = _metric(table.values())
    sde, restart = (
        {key: {b: found[b][metric] for b in blocks} for key, found in table.items() if key[0] == family}
        for family in ("sde", "restart")
    )
    sampler, nfe, fd = _best(sde, blocks)
    curve = _curve(restart, blocks)
    at, between = _reached(curve, fd)
    each = []
    for block in blocks:
        _, nfe_b, fd_b = _best(sde, [block])
        found, _ = _reached(_curve(restart, [block]), fd_b)
        if found is not None:
            each.append(found / nfe_b)
    whole = len(each) == len(blocks)
    (n, *_) = (row["n"] for found in table.values() for row in found.values())
    means = {key: _mean(found, blocks) for key, found in restart.items()}
    as_good = sorted((key for key, mean in means.items() if mean <= fd), key=lambda key: (key[2], means[key]))
    return Fraction(
        nfe,
        fd,
        sampler,
        min(value for _, value in curve),
        at,
        None if at is None else at / nfe,
        min(each) if each else None,
        max(each) if whole else None,
        len(each),
        len(blocks),
        n,
        metric,
        between,
        tuple((key, means[key]) for key in as_good),
    )


def model_of(row: Row) -> str:
    """Return what tells models apart: the hash of the weights, else the name."""
    return str(row.get("model_sha256") or row.get("model") or "")


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Return the quality rows in groups that may be compared."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.get("kind") == "quality":
            groups.setdefault((model_of(row), *(row.get(name) for name in GROUP)), []).append(row)
    return list(groups.values())


def _mean(found: Mapping[int, float], blocks: Sequence[int]) -> float:
    return statistics.fmean(found[block] for block in blocks)


def _best(family: Mapping[Key, Mapping[int, float]], blocks: Sequence[int]) -> tuple[str, int, float]:
    """Return (sampler, NFE, mean FD) of the candidate with the lowest mean."""
    (_, sampler, nfe, _), found = min(family.items(), key=lambda item: _mean(item[1], blocks))
    return sampler, nfe, _mean(found, blocks)


def _curve(family: Mapping[Key, Mapping[int, float]], blocks: Sequence[int]) -> list[tuple[int, float]]:
    """Return (NFE, lowest FD with at most so many evaluations), ascending."""
    lowest: dict[int, float] = {}
    for (_, _, nfe, _), found in family.items():
        lowest[nfe] = min(lowest.get(nfe, math.inf), _mean(found, blocks))
    curve: list[tuple[int, float]] = []
    for nfe in sorted(lowest):
        curve.append((nfe, min(lowest[nfe], curve[-1][1] if curve else math.inf)))
    return curve


def _reached(curve: Sequence[tuple[int, float]], goal: float) -> tuple[float | None, tuple[int, int] | None]:
    """Return the NFE at which the curve reaches `goal`, and the two measured NFE that it is interpolated between.

    Both are None if the goal is not reached; only the second is None if that NFE was measured.
    """
    before: tuple[int, float] | None = None
    for nfe, fd in curve:
        if fd <= goal:
            if before is None or before[1] <= fd or fd == goal:
                return float(nfe), None
            share = (before[1] - goal) / (before[1] - fd)
            return math.exp(math.log(before[0]) + share * (math.log(nfe) - math.log(before[0]))), (before[0], nfe)
        before = (nfe, fd)
    return None, None
