r"""UniPC, a predictor and a corrector of one family (arXiv 2302.04867, Algorithms 5 to 8, data prediction).

The predictor UniP-p integrates D, a polynomial in λ through its last p values, from t to s. When D at s is known, the
corrector UniC-p integrates again with that value among them, which is of order p + 1; its evaluation is the one that
the next step makes anyway, so a step corrects the state that it begins with. A state that noise was added to is not
corrected, since the evaluation it would need is never made.

`variant` is B(h), "bh1" for h and "bh2" for e^h − 1. It cancels but in the predictor of p = 2 and the corrector of p =
1, which are simplified there. p is lower at the start and, with `lower_final`, on the last steps of the main grid.
Limiting cases: a fresh history is Euler; s = 0 is D.
"""

from __future__ import annotations

import math

from .integrals import combined, leap
from .option import Option
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and D's for the next step."""
    process, o, variant = position.process, position.options, position.options["variant"]
    D_0, history, levels = D(x, t), position.history, position.levels
    if s == 0:
        return Update(D_0)
    if history:
        b = _weights(process, levels[0], t, levels[: position.note], variant)
        first, *c = _weights(process, levels[0], t, (t, *levels[: position.note]), variant)
        x = x + first * D_0 + combined([new - old for new, old in zip(c, b, strict=True)], history[: len(b)])
    p = min(position.lowered(o["order"]) if o["lower_final"] else o["order"], len(history) + 1)
    kept = (D_0, *history[: o["order"] - 1])
    w = _weights(process, t, s, (t, *levels)[:p], variant)
    return Update((s / t) * x + combined(w, kept[:p]), keep=kept, note=p)


def _weights(process: str, t: float, s: float, levels: tuple[float, ...], variant: str) -> list[float]:
    """Return the weights of D at `levels` in the step from t to s, which may be among them: UniC, else UniP."""
    to_s = leap(process, t, s)
    if len(levels) != 2:
        return to_s.weights(levels)
    return to_s.halved((to_s.h if variant == "bh1" else -math.expm1(-to_s.h)) / 2, levels)


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
