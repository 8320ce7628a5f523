r"""DPM-Solver++(2M), a multistep solver of second order (DPM-Solver++, arXiv 2211.01095, Algorithm 2).

With λ = ln(α/σ), h = λ_s − λ_t and r = h_last/h

    D̄  = (1 + 1/(2r))·D(x; t) − (1/(2r))·D_previous
    x' = (σ_s/σ_t)·x − α_s·(e^(−h) − 1)·D̄

Its history is D of the step before. It is fresh at the start and after every Restart jump, where the first step is
Euler's. When the main grid goes on after an interval, the history goes on too, with the true spacing.

Limiting cases: a fresh history is Euler; s = 0 is Euler.
"""

from __future__ import annotations

import math

from .process import alpha, log_snr
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after one evaluation at t, and D(x; t) for the next step."""
    process = position.process
    D_0 = D(x, t)
    D_bar = D_0
    if position.history and s > 0:
        h = log_snr(process, s) - log_snr(process, t)
        r = (log_snr(process, t) - log_snr(process, position.levels[0])) / h
        D_bar = D_0 + (D_0 - position.history[0]) / (2 * r) if math.isfinite(r) else D_0
    ratio = s / t
    return Update(ratio * x + (alpha(process, s) - ratio * alpha(process, t)) * D_bar, keep=(D_0,))


SOLVER = Solver(
    "dpm++2m",
    step,
    order=2,
    title="DPM-Solver++(2M)",
    source="DPM-Solver++, arXiv 2211.01095, Algorithm 2",
    processes=("ve", "flow"),
    aliases=("dpmpp_2m", "dpmpp-2m"),
    rank=7,
)
