r"""The paper's claim as a number: the share of the best SDE's evaluations with which Restart reaches its quality.

Of the SDE family the row with the lowest mean FD over the blocks of seeds is the goal. The claim is the measured
Restart row with the fewest evaluations whose mean FD is no higher. Beside it stands an interpolated number, and is
called so: Restart's curve is the lowest mean FD among its samplers at each NFE, made monotone (more evaluations may
always be left unused), and between two measured points FD is taken as linear in ln NFE. The spread is that of the
interpolated number taken block by block. "Not reached" is an answer.

Plain PyTorch loops are left out: they are the engine's samplers once more, with other noise.

The distance is `fd_balanced` where all these rows have it, else `fd` (bench/judge.py).

`pairs` compares two contenders block by block: they drew the same seeds, so most of the noise of a distance drops out.

Rows are compared on seeds that all of them drew: those of both families that have the most blocks. What is said in
words, and by how many sets of features it has to be confirmed, is in witnesses.py."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .rows import ranking

GROUP = ("features", "reference", "dtype", "n")
Row = Mapping[str, Any]
Contender = tuple[str, str, int, str]  # family, sampler, NFE, and the key of what is drawn
Table = dict[Contender, dict[int, Row]]  # then by first seed


@dataclass(frozen=True)
class Fraction:
    """What `fraction` found.

    Attributes:
        nfe_sde, fd_sde, sampler: the best SDE row. nfe_restart: evaluations with which Restart is as good, None if
            never.
        fraction: their ratio; low, high: its range over blocks of seeds (None where a block does not reach it).
        reached: of `blocks` blocks, in how many Restart reaches the SDE. n: samples of a block. fd_restart: Restart's
            lowest.
        metric: "fd" or "fd_balanced", which all of it is of.
        between: the measured NFE that `nfe_restart` is interpolated between, None where it was measured itself.
        as_good: the Restart contenders whose mean FD is no higher than the SDE's, with that mean; fewest evaluations
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
    as_good: tuple[tuple[Contender, float], ...]


def fraction(rows: Iterable[Row]) -> Fraction | None:
    """From rows of kind "quality" of one group (model, device, features, reference, dtype, n); None where one side is
    missing.

    Only blocks that every row of both families has are used, so that all see the same seeds.
    """
    return fraction_of(table_of(rows))


@dataclass(frozen=True)
class Pair:
    """Two contenders on the same blocks of seeds.

    Attributes:
        one, other: a row of each. mean: FD of `one` less that of `other`, mean over the blocks; error: its standard
            error.
        lower: in how many of `blocks` blocks of n samples `one` is lower. metric: "fd" or "fd_balanced".
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
    """Every Restart contender beside its own solver without Restart, at the nearest NFE, and beside the best SDE.

    From rows of kind "quality", of each group by itself. Only what shares two blocks of seeds or more is compared. The
    best SDE is the one that is furthest below the contender on the blocks that both have: means over unlike blocks do
    not compare."""
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
    """The solver of a contender, as its configuration says, else its name."""
    row = next(iter(blocks.values()))
    return str((row.get("config") or {}).get("solver") or row["sampler"].removesuffix("+restart"))


def _pair(mine: Mapping[int, Row], theirs: Mapping[int, Row], blocks: Sequence[int], metric: str | None = None) -> Pair:
    metric = metric or _metric((mine, theirs))
    less = [mine[block][metric] - theirs[block][metric] for block in blocks]
    one, other = mine[blocks[0]], theirs[blocks[0]]
    error = statistics.stdev(less) / math.sqrt(len(less))
    return Pair(one, other, statistics.fmean(less), error, sum(d < 0 for d in less), len(less), one["n"], metric)


def table_of(rows: Iterable[Row], families: Sequence[str] = ("sde", "restart")) -> Table:
    """The rows of these families, by contender and block of seeds; the later of two rows of one block counts."""
    table: Table = {}
    for row in rows:
        if (
            row.get("kind") == "quality"
            and row.get("family") in families
            and row.get("by") != "torch"
            and all(row.get(name) is not None for name in ("fd", "sampler", "nfe", "first_seed", "n"))
        ):
            contender = (row["family"], row["sampler"], row["nfe"], str(row.get("key", "")))
            table.setdefault(contender, {})[row["first_seed"]] = row
    return table


def _metric(blocks: Iterable[Mapping[int, Row]]) -> str:
    return ranking([row for found in blocks for row in found.values()])


def most_blocks(table: Table) -> Table:
    """The contenders that were drawn on the most blocks that an SDE and a Restart contender share; empty where they
    share none.

    Of equally many blocks those count that most contenders have.
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
    """:func:`fraction` of the contenders in a table, on the blocks that all of them have."""
    if {contender[0] for contender in table} != {"sde", "restart"}:
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
    """What tells models apart: the hash of the weights, or the name where there is none."""
    return str(row.get("model_sha256") or row.get("model") or "")


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Quality rows that may be compared."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.get("kind") == "quality":
            groups.setdefault((model_of(row), *(row.get(name) for name in GROUP)), []).append(row)
    return list(groups.values())


def _mean(found: Mapping[int, float], blocks: Sequence[int]) -> float:
    return statistics.fmean(found[block] for block in blocks)


def _best(family: Mapping[Contender, Mapping[int, float]], blocks: Sequence[int]) -> tuple[str, int, float]:
    (_, sampler, nfe, _), found = min(family.items(), key=lambda item: _mean(item[1], blocks))
    return sampler, nfe, _mean(found, blocks)


def _curve(family: Mapping[Contender, Mapping[int, float]], blocks: Sequence[int]) -> list[tuple[int, float]]:
    """(NFE, lowest FD with at most so many evaluations), ascending."""
    lowest: dict[int, float] = {}
    for (_, _, nfe, _), found in family.items():
        lowest[nfe] = min(lowest.get(nfe, math.inf), _mean(found, blocks))
    curve: list[tuple[int, float]] = []
    for nfe in sorted(lowest):
        curve.append((nfe, min(lowest[nfe], curve[-1][1] if curve else math.inf)))
    return curve


def _reached(curve: Sequence[tuple[int, float]], goal: float) -> tuple[float | None, tuple[int, int] | None]:
    """The NFE at which the curve comes down to `goal`, and the two measured NFE it is interpolated between, if it is."""
    before: tuple[int, float] | None = None
    for nfe, fd in curve:
        if fd <= goal:
            if before is None or before[1] <= fd or fd == goal:
                return float(nfe), None
            share = (before[1] - goal) / (before[1] - fd)
            return math.exp(math.log(before[0]) + share * (math.log(nfe) - math.log(before[0]))), (before[0], nfe)
        before = (nfe, fd)
    return None, None
