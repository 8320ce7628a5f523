r"""AdaSDE, a single-step solver whose parameters are learned for each step (arXiv 2510.23285).

Step i raises the state from t to t̂ = (1 + γ_i)t by fresh noise and goes through a middle level, where the network is
told another one:

    d = (x̂ − D(x̂; t̂))/t̂        m = s^r t̂^(1−r)        x_m = x̂ + (m − t̂)d
    x' = x̂ + w·c·(s − t̂)(x_m − D(x_m; a·m))/m

With `afs` the first step has d = x̂/√(1 + t̂²) and no evaluation at t̂. r, w, c, a and γ have one value for each step of
the main grid; steps beyond them, the one to 0 and those inside intervals are Euler's. Limiting case: without values, r =
½ and γ = 0 with w = c = a = 1 is the midpoint method in ln t, `dpm2`.
"""

from __future__ import annotations

import math

from .option import Option
from .trace import Form, Position, Solver, Tracer, Update

PLAIN = {"r": 0.5, "w": 1.0, "c": 1.0, "a": 1.0, "gamma": 0.0}


def step(x: Form, t: float, s: float, D: Tracer, position: Position) -> Update:
    """Return the state at level s after two evaluations, or one."""
    i, o = position.index, position.options
    learned = max(len(o[name]) for name in PLAIN)
    if s == 0 or position.restart or 0 < learned <= i:
        return Update((s / t) * x + (1 - s / t) * D(x, t))
    r, w, c, a, gamma = (o[name][i] if i < len(o[name]) else plain for name, plain in PLAIN.items())
    t_hat = t * (1 + gamma)
    x_hat = x + math.sqrt(t_hat**2 - t**2) * D.draw() if gamma else x
    d = x_hat / math.sqrt(1 + t_hat**2) if i == 0 and o["afs"] else (x_hat - D(x_hat, t_hat)) / t_hat
    m = s**r * t_hat ** (1 - r)
    x_m = x_hat + (m - t_hat) * d
    D_m = D(x_m, m, asked=a * m if a != 1 else None)
    return Update(x_hat + (w * c * (s - t_hat) / m) * (x_m - D_m))


SOLVER = Solver(
    "ada-sde",
    step,
    order=2,
    title="AdaSDE",
    source="AdaSDE, arXiv 2510.23285",
    aliases=("ada_sde",),
    options=(
        Option("r", (), "where the middle level lies, for each step", low=0.0, high=1.0),
        Option("w", (), "weight of the slope, for each step"),
        Option("c", (), "factor on the slope, for each step"),
        Option("a", (), "factor on the level that the network is told, for each step", low=0.0),
        Option("gamma", (), "γ, for each step", low=0.0),
        Option("afs", False, "leave out the first evaluation"),
    ),
)
