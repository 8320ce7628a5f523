r"""Named segments of a plan: stretches of the main grid and each Restart iteration, for captures, profiles, progress.

A span is a stretch of the main grid or one iteration of one Restart interval, or a part of it where guidance acts or
does not. The K iterations of an interval are K
spans of one length, so a graph captured once is replayed K times.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from .guidance import ONE, kinds
from .plan import Plan


class Span(NamedTuple):
    """`rows` consecutive evaluations of one kind under one name: "main" or "restart i iteration k".

    `kind` says what they ask of the network, see guidance.py.
    """

    name: str
    rows: int
    kind: int = ONE


def spans_of(name: str, kinds: Iterable[int]) -> tuple[Span, ...]:
    """Return spans of one name for rows of these kinds, one for each run of equal ones."""
    return tuple(Span(name, len(list(group)), int(kind)) for kind, group in groupby(kinds))


def spans(plan: Plan) -> tuple[Span, ...]:
    """Return the spans of a plan in running order; their rows add up to its NFE."""
    rows = (step for step in plan.steps for _ in step.stages)
    keys = [(step.interval, step.iteration, int(kind)) for step, kind in zip(rows, kinds(plan), strict=True)]
    return tuple(
        Span("main" if interval is None else f"restart {interval} iteration {iteration}", len(list(group)), kind)
        for (interval, iteration, kind), group in groupby(keys)
    )
