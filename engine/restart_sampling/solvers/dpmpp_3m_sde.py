r"""DPM-Solver++(3M) SDE: the stochastic form of `dpm++3m`, see dpmpp_3m.py (k-diffusion's 3M SDE; arXiv 2211.01095).

Limiting cases: η = 0 is `dpm++3m`; a fresh history is the first-order SDE step; s = 0 is D.
"""

from __future__ import annotations

from . import dpmpp_3m
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after one evaluation at t, the std of the noise, and two D's for the next step."""
    return dpmpp_3m.stochastic(x, t, s, D, position, position.eta)


SOLVER = Solver(
    "dpm++3m-sde",
    step,
    order=3,
    title="DPM-Solver++(3M) SDE",
    source="DPM-Solver++, arXiv 2211.01095, as a parabola in λ",
    processes=("ve", "flow"),
    aliases=("dpmpp_3m_sde:variant=k-diffusion",),
    options=dpmpp_3m.OPTIONS,
    rank=15,
)
