r"""Heun with a third slope: `heunpp2` of ComfyUI, a weighted mean of slopes at t, s and the level s₂ after s.

With d(x; t) = (x − D(x; t))/t, σ₀ the first level and weights w₂ = s/(3σ₀), w₃ = s₂/(3σ₀)

    p = x + (s − t)·d(x; t),   p₂ = p + (s₂ − s)·d(p; s)
    x' = x + (s − t)·((1 − w₂ − w₃)·d(x; t) + w₂·d(p; s) + w₃·d(p₂; s₂)).

It has no paper; on a fine grid it is of first order, because the weights are not those of a quadrature. On the step
before the last one w₂ = s/(2σ₀) and w₃ = 0. Here an interval of Restart is a grid of its own.

Limiting cases: s = 0 is Euler.
"""

from __future__ import annotations

from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after three evaluations; after two on the step before the last, and one at s = 0."""
    s_2, top = position.after, max(position.first, t)
    d = (x - D(x, t)) / t
    p = x + (s - t) * d
    if s == 0:
        return Update(p)
    d_s = (p - D(p, s)) / s
    if s_2 == 0:
        w = s / (2 * top)
        return Update(x + (s - t) * ((1 - w) * d + w * d_s))
    p_2 = p + (s_2 - s) * d_s
    d_2 = (p_2 - D(p_2, s_2)) / s_2
    w_2, w_3 = s / (3 * top), s_2 / (3 * top)
    return Update(x + (s - t) * ((1 - w_2 - w_3) * d + w_2 * d_s + w_3 * d_2))


SOLVER = Solver(
    "heunpp2",
    step,
    order=1,
    title="Heun++ 2",
    source="Heun with a third slope on EDM's ODE, arXiv 2206.00364, eq. 1, as ComfyUI has it",
    processes=("ve", "flow"),
    rank=27,
)
