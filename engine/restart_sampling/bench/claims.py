r"""The paper's claim as a number: the share of the best SDE's evaluations with which Restart reaches its quality.

Of the SDE family the row with the lowest mean FD over the blocks of seeds is the goal. Restart's curve is the lowest mean FD
among its samplers at each NFE, made monotone (more evaluations may always be left unused); between two measured points FD is
taken as linear in ln NFE. The spread is that of the same number taken block by block. "Not reached" is an answer.

Plain PyTorch loops are left out: they are the engine's samplers once more, with other noise.

The distance is `fd_balanced` where all these rows have it, else `fd` (bench/judge.py).

Rows are compared on seeds that all of them drew. Where some were drawn on more blocks than others there are two statements: of
all rows on the blocks common to all, and of those rows of both families that have the most blocks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GROUP = ("model_sha256", "device", "features", "reference", "dtype", "n")
Row = Mapping[str, Any]
Table = dict[tuple[str, str, int], dict[int, Row]]  # by family, sampler and NFE, then by first seed


@dataclass(frozen=True)
class Fraction:
    """What `fraction` found.

    Attributes:
        nfe_sde, fd_sde, sampler: the best SDE row. nfe_restart: evaluations with which Restart is as good, None if never.
        fraction: their ratio; low, high: its range over blocks of seeds (None where a block does not reach it).
        reached: of `blocks` blocks, in how many Restart reaches the SDE. n: samples of a block. fd_restart: Restart's lowest.
        metric: "fd" or "fd_balanced", which all of it is of.
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


def fraction(rows: Iterable[Row]) -> Fraction | None:
    """From rows of kind "quality" of one group (model, device, features, reference, dtype, n); None where one side is missing.

    Only blocks that every row of both families has are used, so that all see the same seeds.
    """
    return _fraction(_table(rows))


def _table(rows: Iterable[Row]) -> Table:
    """The SDE and Restart rows, by contender and block of seeds; the later of two rows of one block counts."""
    table: Table = {}
    for row in rows:
        if (
            row.get("kind") == "quality"
            and row.get("family") in ("sde", "restart")
            and row.get("by") != "torch"
            and row.get("fd") is not None
        ):
            table.setdefault((row["family"], row["sampler"], row["nfe"]), {})[row["first_seed"]] = row
    return table


def _metric(table: Table) -> str:
    balanced = all(row.get("fd_balanced") is not None for found in table.values() for row in found.values())
    return "fd_balanced" if balanced else "fd"


def _most(table: Table) -> Table:
    """The contenders with the most blocks that still are of both families."""
    for count in sorted({len(found) for found in table.values()}, reverse=True):
        some = {key: found for key, found in table.items() if len(found) >= count}
        if {family for family, _, _ in some} == {"sde", "restart"}:
            return some
    return {}


def _fraction(table: Table) -> Fraction | None:
    if {family for family, _, _ in table} != {"sde", "restart"}:
        return None
    blocks = sorted(set.intersection(*(set(found) for found in table.values())))
    if not blocks:
        return None
    metric = _metric(table)
    sde, restart = (
        {key[1:]: {b: found[b][metric] for b in blocks} for key, found in table.items() if key[0] == family}
        for family in ("sde", "restart")
    )
    sampler, nfe, fd = _best(sde, blocks)
    curve = _curve(restart, blocks)
    at = _reached(curve, fd)
    each = []
    for block in blocks:
        _, nfe_b, fd_b = _best(sde, [block])
        found = _reached(_curve(restart, [block]), fd_b)
        if found is not None:
            each.append(found / nfe_b)
    whole = len(each) == len(blocks)
    (n, *_) = (row["n"] for found in table.values() for row in found.values())
    return Fraction(
        nfe, fd, sampler, min(value for _, value in curve), at, None if at is None else at / nfe,
        min(each) if each else None, max(each) if whole else None, len(each), len(blocks), n, metric,
    )  # fmt: skip


def sentences(rows: Iterable[Row]) -> list[str]:
    """The claim in a sentence for each group of rows that has both families, and in a second one where some have more blocks."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.get("kind") == "quality":
            groups.setdefault(tuple(row.get(name) for name in GROUP), []).append(row)
    result = []
    for group in groups.values():
        table = _table(group)
        most = _most(table)
        for some in (table, most) if len(most) < len(table) else (table,):
            found = _fraction(some)
            if found is not None:
                result.append(_sentence(found, contenders=None if some is table else len(some)))
    return result


def _sentence(found: Fraction, contenders: int | None) -> str:
    """`contenders`: how many were compared, where it is not all of them."""
    where = f"{found.blocks} block{'s' if found.blocks > 1 else ''} of {found.n:,} samples"
    where += ", equal classes" * (found.metric == "fd_balanced")
    if contenders is not None:
        where += f", the {contenders} SDE and Restart rows that were drawn on all of them"
    if found.nfe_restart is None or found.fraction is None:
        return (
            f"Restart does not reach the best SDE (FD {found.fd_sde:.3g} at {found.nfe_sde} NFE, {found.sampler}) here: its "
            f"lowest is FD {found.fd_restart:.3g} ({where}; reached in {found.reached} of {found.blocks})."
        )
    spread = ""
    if found.blocks > 1 and found.low is None:
        spread = ", reached in no single block"
    elif found.blocks > 1:
        high = f"{found.high:.2f}" if found.high is not None else "not reached"
        spread = f", from {found.low:.2f} to {high} over blocks"
        spread += f" (reached in {found.reached} of {found.blocks})" * (found.high is None)
    return (
        f"Restart is as good as the best SDE (FD {found.fd_sde:.3g} at {found.nfe_sde} NFE, {found.sampler}) with "
        f"{found.nfe_restart:.0f} NFE: a fraction of {found.fraction:.2f}{spread} ({where})."
    )


def _mean(found: Mapping[int, float], blocks: Sequence[int]) -> float:
    return statistics.fmean(found[block] for block in blocks)


def _best(
    family: Mapping[tuple[str, int], Mapping[int, float]], blocks: Sequence[int]
) -> tuple[str, int, float]:
    (sampler, nfe), found = min(family.items(), key=lambda item: _mean(item[1], blocks))
    return sampler, nfe, _mean(found, blocks)


def _curve(
    family: Mapping[tuple[str, int], Mapping[int, float]], blocks: Sequence[int]
) -> list[tuple[int, float]]:
    """(NFE, lowest FD with at most so many evaluations), ascending."""
    lowest: dict[int, float] = {}
    for (_, nfe), found in family.items():
        lowest[nfe] = min(lowest.get(nfe, math.inf), _mean(found, blocks))
    curve: list[tuple[int, float]] = []
    for nfe in sorted(lowest):
        curve.append((nfe, min(lowest[nfe], curve[-1][1] if curve else math.inf)))
    return curve


def _reached(curve: Sequence[tuple[int, float]], goal: float) -> float | None:
    """The NFE at which the curve comes down to `goal`."""
    before: tuple[int, float] | None = None
    for nfe, fd in curve:
        if fd <= goal:
            if before is None or before[1] <= fd:
                return float(nfe)
            share = (before[1] - goal) / (before[1] - fd)
            return math.exp(math.log(before[0]) + share * (math.log(nfe) - math.log(before[0])))
        before = (nfe, fd)
    return None
