r"""AdaSDE, a single-step solver whose parameters are learned for each step (arXiv 2510.23285).

Step i raises the state from t to t̂ = (1 + γ_i)t by fresh noise and goes through a middle level, where the network is
told another one:

    d = (x̂ − D(x̂; t̂))/t̂        m = s^r t̂^(1−r)        x_m = x̂ + (m − t̂)d
    x' = x̂ + w·c·(s − t̂)(x_m − D(x_m; a·m))/m

The authors can leave out the evaluation at the first level (AFS); here it is always made. r, w, c, a and γ have one
value for each step of the main grid; steps beyond them, the one to 0 and those inside intervals are Euler's. The noise
that raises the first level is part of the initial latent. Limiting case: without values, r = ½ and γ = 0 with
w = c = a = 1 is `dpm2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .option import Option
from .trace import Form, Position, Solver, Tracer, Update

PLAIN = {"r": 0.5, "w": 1.0, "c": 1.0, "a": 1.0}


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after two evaluations, or one; t is t̂, see `lift`."""
    i, o = position.index, position.options
    learned = max(len(o[name]) for name in (*PLAIN, "gamma"))  # steps; 0: every step is plain
    if s == 0 or position.restart or 0 < learned <= i:
        return Update((s / t) * x + (1 - s / t) * D(x, t))
    r, w, c, a = (o[name][i] if i < len(o[name]) else plain for name, plain in PLAIN.items())
    d = (x - D(x, t)) / t
    m = s**r * t ** (1 - r)
    x_m = x + (m - t) * d
    return Update(x + (w * c * (s - t) / m) * (x_m - D(x_m, m, asked=a * m if a != 1 else None)))


def lift(o: Mapping[str, Any], i: int) -> float:
    """Return γ_i."""
    return o["gamma"][i] if i < len(o["gamma"]) else 0.0


SOLVER = Solver(
    "ada-sde",
    step,
    order=2,
    title="AdaSDE",
    source="AdaSDE, arXiv 2510.23285",
    aliases=("ada_sde",),
    lift=lift,
    options=(
        Option("r", (), "where the middle level lies, for each step", low=0.0, high=1.0, per_step=True),
        Option("w", (), "weight of the slope, for each step", per_step=True),
        Option("c", (), "factor on the slope, for each step", per_step=True),
        Option("a", (), "factor on the level that the network is told, for each step", low=0.0, per_step=True),
        Option("gamma", (), "γ, for each step", low=0.0, per_step=True),
    ),
    rank=29.5,
)
