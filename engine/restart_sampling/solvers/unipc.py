r"""UniPC, a predictor and a corrector of one family (arXiv 2302.04867, Algorithms 5 to 8, data prediction).

The predictor UniP-p integrates D, a polynomial in λ through its last p values, from t to s. When D at s is known, the
corrector UniC-p integrates again with that value among them, which is of order p + 1; its evaluation is the one that
the next step makes anyway, so a step corrects the state that it begins with. A state that noise was added to is not
corrected, since the evaluation it would need is never made.

`variant` is B(h) of the paper, "bh1" for h and "bh2" for e^h − 1. It cancels but in the predictor of p = 2 and the
corrector of p = 1, which are simplified there. p is lower at the start, and on the last steps of the main grid
(`lower_final`).

Limiting cases: a fresh history is Euler; s = 0 is D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from .integrals import combined, leap
from .option import Option
from .process import lam
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and D's for the next step."""
    options, process = position.options, position.process
    variant, order = options["variant"], options["order"]
    D_0, history, levels = D(x, t), position.history, position.levels
    if s == 0:
        return Update(D_0)
    if history:
        p = position.note
        predicted = _predictor(process, levels[0], t, levels[:p], variant)
        first, *corrected = _corrector(process, levels[0], t, levels[:p], variant)
        change = [c - b for c, b in zip(corrected, predicted, strict=True)]
        x = x + first * D_0 + combined(change, history[:p])
    p = min(order, len(history) + 1)
    if options["lower_final"] and not position.restart:
        p = min(p, position.remaining)
    kept = (D_0, *history[: order - 1])
    w = _predictor(process, t, s, (t, *levels)[:p], variant)
    return Update((s / t) * x + combined(w, kept[:p]), keep=kept, note=p)


def _predictor(process: str, t: float, s: float, levels: Sequence[float], variant: str) -> list[float]:
    """Return the weights of D at `levels`, t the first of them, in the step from t to s."""
    to_s = leap(process, t, s)
    if len(levels) != 2:
        return to_s.weights(levels)
    half = to_s.alpha * _B(to_s.h, variant) / (2 * (lam(process, t) - lam(process, levels[1])) / to_s.h)
    return [to_s.first + half, -half]


def _corrector(process: str, t: float, s: float, levels: Sequence[float], variant: str) -> list[float]:
    """Return the weights of D at s and at `levels` in the corrected step from t to s."""
    to_s = leap(process, t, s)
    if len(levels) > 1:
        return to_s.weights((s, *levels))
    half = to_s.alpha * _B(to_s.h, variant) / 2
    return [half, to_s.first - half]


def _B(h: float, variant: str) -> float:
    return h if variant == "bh1" else -math.expm1(-h)


SOLVER = Solver(
    "unipc",
    step,
    order=3,
    title="UniPC",
    source="UniPC, arXiv 2302.04867, Algorithms 5 to 8",
    processes=("ve", "flow"),
    aliases=("uni_pc:variant=bh1", "uni_pc_bh2", "UniPCMultistepScheduler:order=2"),
    options=(
        Option("order", 3, "p, values of D that the predictor uses", (1, 2, 3)),
        Option("variant", "bh2", "B(h)", ("bh1", "bh2")),
        Option("lower_final", True, "lower p on the last steps of the main grid"),
    ),
    rank=19,
)
