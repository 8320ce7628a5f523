r"""Spans: a plan's evaluations cut where a person would cut them, for captures, profiles and progress.

A span is a stretch of the main grid or one iteration of one Restart interval. The K iterations of an interval are K
spans of one length, which is what lets a graph captured once be replayed K times."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from .plan import Plan


class Span(NamedTuple):
    """`rows` consecutive evaluations under one name: "main" or "restart i iteration k"."""

    name: str
    rows: int


def spans(plan: Plan) -> tuple[Span, ...]:
    """The plan's evaluations in running order; the rows add up to its NFE."""
    steps = groupby(plan.steps, key=lambda step: (step.interval, step.iteration))
    return tuple(
        Span(
            "main" if interval is None else f"restart {interval} iteration {iteration}",
            sum(len(step.stages) for step in group),
        )
        for (interval, iteration), group in steps
    )
