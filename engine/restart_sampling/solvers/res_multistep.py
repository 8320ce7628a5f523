r"""RES, a multistep exponential integrator of second order (refined exponential solver, arXiv 2308.02157, eq. 12).

D is linear in λ = −ln t through its last two values, integrated exactly from t to the level dn of ancestral.py; the
earlier value stands at ln(dn_last/t_last) before the new one, dn_last being where the step before it went. In a flow λ
is still −ln t, as in ComfyUI.

Limiting cases: without noise, in ve, this is DPM-Solver++(2M) of the variant "heun"; a fresh history is Euler, or Euler
ancestral with `sde`; s = 0 is D.
"""

from __future__ import annotations

import math

from .ancestral import split
from .integrals import combined, exponential
from .option import Option
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, the std of the noise, and D for the next step."""
    dn, k, up = split(position.process, t, s, position.eta if position.options["sde"] else 0.0)
    D_0 = D(x, t)
    if dn == 0:
        return Update(k * D_0, up)
    if not position.history:
        return Update(k * ((dn / t) * x + (1 - dn / t) * D_0), up, keep=(D_0,), note=dn)
    h, last = math.log(t / dn), math.log(position.note / position.levels[0])
    w = exponential(1.0, h, (0.0, last))
    return Update(k * ((dn / t) * x + combined(w, (D_0, position.history[0]))), up, keep=(D_0,), note=dn)


SOLVER = Solver(
    "res-multistep",
    step,
    order=2,
    title="RES multistep",
    source="Refined exponential solver, arXiv 2308.02157, eq. 12",
    processes=("ve", "flow"),
    aliases=("res_multistep", "res_multistep_ancestral:sde=true"),
    options=(Option("sde", False, "add ancestral noise of scale eta"),),
    rank=25,
)
