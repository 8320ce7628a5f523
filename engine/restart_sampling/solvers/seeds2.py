r"""SEEDS-2, a stochastic exponential solver of two stages (SEEDS, arXiv 2305.14267, Algorithm 2).

With m at λ_t + r·h the first-order SDE step to m gives u, with noise n₁ = std·ε₁, and the step to s is

    x' = (s/t)·e^(−ηh)·x + Σ w·D + (s/m)·e^(−η(1−r)h)·n₁ + s·√(1 − e^(−2η(1−r)h))·ε₂,

so that the noise of both is that of one path. `weights` says what stands for Σ w·D: "phi1" is α(1 − e^(−ch))·((1 − f)·D
+ f·D_m) with f = 1/(2r), "phi2" the exact integral of a D that is linear in λ.

Limiting cases: η = 0 is an ODE solver of order 2; r = 1 with "phi2" is `exp-heun`; s = 0 is D.
"""

from __future__ import annotations

from .integrals import combined, leap
from .option import Option
from .process import lam, length, level
from .trace import Form, Position, Solver, Tracer, Update


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the mean at level s after two evaluations, at t and m, and the std of the fresh noise."""
    process, r = position.process, position.options["r"]
    D_0 = D(x, t)
    if s == 0:
        return Update(D_0)
    first = D.draw()
    m = s if r == 1 else level(process, lam(process, t) + r * length(process, t, s))
    to_m, to_s, rest = (leap(process, *ends, position.eta) for ends in ((t, m), (t, s), (m, s)))
    D_m = D(to_m.x * x + to_m.first * D_0 + to_m.std * first, m)
    f = 1 / (2 * r)
    w = to_s.weights((t, m)) if position.options["weights"] == "phi2" else (to_s.first * (1 - f), to_s.first * f)
    return Update(to_s.x * x + combined(w, (D_0, D_m)) + rest.x * to_m.std * first, rest.std)


SOLVER = Solver(
    "seeds2",
    step,
    order=2,
    title="SEEDS-2",
    source="SEEDS, arXiv 2305.14267, Algorithm 2",
    processes=("ve", "flow"),
    aliases=("seeds_2", "seeds-2"),
    options=(
        Option("r", 0.5, "place of the second evaluation, as a share of the step in λ", low=0.05, high=1.0),
        Option("weights", "phi1", "weights of the two evaluations", ("phi1", "phi2")),
    ),
    rank=28,
)
