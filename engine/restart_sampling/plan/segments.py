r"""Named segments of a plan: stretches of the main grid and each Restart iteration, for captures, profiles, progress.

A span is a stretch of the main grid or one iteration of one Restart interval. The K iterations of an interval are K
spans of one length, so a graph captured once is replayed K times.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from .plan import Plan


class Span(NamedTuple):
    """`rows` consecutive evaluations under one name: "main" or "restart i iteration k"."""

    name: str
    rows: int


def spans(plan: Plan) -> tuple[Span, ...]:
    """Return the spans of a plan in running order; their rows add up to its NFE."""
    steps = groupby(plan.steps, key=lambda step: (step.interval, step.iteration))
    return tuple(
        Span(
            "main" if interval is None else f"restart {interval} iteration {iteration}",
            sum(len(step.stages) for step in group),
        )
        for (interval, iteration), group in steps
    )
