r"""The papers' algorithms, literally: plain float64 loops on tensors, the oracle of tests, docs and benchmarks.

* :func:`restart`: Restart, Algorithm 2 of arXiv 2306.14878, with EDM's churn on the main grid and inside intervals;
* :func:`edm_stochastic`: EDM's stochastic sampler, Algorithm 2 of arXiv 2206.00364.

They share no code with the plan compiler, the table or the kernels. D(x, σ) takes float64 x [B, …] and a float σ and
returns the denoised x; draw(k) returns the standard normals ε of draw k, shaped like x. With

    D = lambda x, sigma: …                                            # as given to `Denoiser.from_function`
    draw = lambda k: rs.noise.normal(seeds, k, shape).double()

they give what `Sampler.run(seeds)` gives, up to rounding. One convention is ours, since the papers leave it open: noise
injected twice at one point without an evaluation between (the initial latent and churn, a jump and churn) is one
Gaussian whose variance is the sum, and takes one draw. :class:`State` does that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

D = Callable[[Tensor, float], Tensor]
Draw = Callable[[int], Tensor]
Step = Callable[[D, Tensor, float, float], Tensor]


def karras(n: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """Return `n` levels float64 [n] from `high` down to `low` (EDM, eq. 5; Restart, Algorithm 1)."""
    i = torch.arange(n, dtype=torch.float64) / (n - 1)
    return (high ** (1 / rho) + i * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def heun_step(D: D, x: Tensor, t: float, s: float) -> Tensor:
    """One step of Heun's method from t to s (Restart, Algorithm 3); s = 0 is one Euler step."""
    d = (x - D(x, t)) / t
    p = x + (s - t) * d
    if s == 0:
        return p
    return x + (s - t) * (d + (p - D(p, s)) / s) / 2


def euler_step(D: D, x: Tensor, t: float, s: float) -> Tensor:
    """One step of Euler's method from t to s; s = 0 returns D(x; t)."""
    return x + (s - t) * (x - D(x, t)) / t


class State:
    """x, with the noise that waits for the next evaluation; the initial latent is draw 0 of a zero state."""

    def __init__(self, draw: Draw, sigma_max: float) -> None:
        self.draw, self.count, self.variance = draw, 0, sigma_max**2
        self._x = torch.zeros_like(draw(0))

    def inject(self, std: float) -> None:
        """Add noise of this standard deviation."""
        self.variance += std * std

    @property
    def x(self) -> Tensor:
        """The state, all noise added."""
        if self.variance > 0:
            self._x = self._x + math.sqrt(self.variance) * self.draw(self.count)
            self.count, self.variance = self.count + 1, 0.0
        return self._x

    @x.setter
    def x(self, x: Tensor) -> None:
        self._x = x


def restart(
    D: D,
    draw: Draw,
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    intervals: Sequence[tuple[int, int, float, float]] = (),
    s_noise: float = 1.0,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    restart_gamma: float = 0.0,
    step: Step = heun_step,
    on_collision: str = "both",
    schedule: Callable[[int, float, float, float], Tensor] = karras,
) -> Tensor:
    """Return a sample by Restart (arXiv 2306.14878, Algorithm 2), float64.

    Args:
        intervals: (N, K, t_min, t_max) each. t_min snaps to the nearest point of the main grid.
        s_churn, s_min, s_max: EDM's churn on the main grid; restart_gamma: γ inside intervals.
        step: the solver.
        on_collision: "both" runs all intervals that snap to one point, in the given order; "last" the last one alone,
            as the official code does.
        schedule: (number, low, high, rho) → levels from high down to low.
    """
    grid = [*schedule(steps, sigma_min, sigma_max, rho).tolist(), 0.0]
    attached: dict[int, list[tuple[int, int, float, float]]] = {}
    for interval in intervals:
        m = min(range(len(grid)), key=lambda i: abs(grid[i] - interval[2]))
        attached[m] = [*(attached.get(m, ()) if on_collision == "both" else ()), interval]
    state = State(draw, grid[0])

    def backward(t: float, s: float, gamma: float) -> None:
        t_hat = t * (1 + gamma)
        if t_hat > t:
            state.inject(s_noise * math.sqrt(t_hat**2 - t**2))
        state.x = step(D, state.x, t_hat, s)

    for i, (t, s) in enumerate(pairwise(grid)):
        backward(t, s, min(s_churn / steps, math.sqrt(2) - 1) if s_min <= t <= s_max else 0.0)
        for N, K, _, t_max in attached.get(i + 1, ()):
            t_min = grid[i + 1]
            levels = [t_max, *schedule(N, t_min, t_max, rho).tolist()[1:-1], t_min]
            for _ in range(K):
                state.inject(s_noise * math.sqrt(t_max**2 - t_min**2))
                for t_j, s_j in pairwise(levels):
                    backward(t_j, s_j, restart_gamma if s_min <= t_j <= s_max else 0.0)
    return state.x


def edm_stochastic(
    D: D,
    draw: Draw,
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Tensor:
    """Return a sample by EDM's stochastic sampler (arXiv 2206.00364, Algorithm 2), float64.

    Limiting case: S_churn = 0 is Algorithm 1, Heun.
    """
    t = [*karras(steps, sigma_min, sigma_max, rho).tolist(), 0.0]
    N = steps
    state = State(draw, t[0])
    for i in range(N):
        gamma = min(s_churn / N, math.sqrt(2) - 1) if s_min <= t[i] <= s_max else 0.0
        t_hat = t[i] + gamma * t[i]
        state.inject(s_noise * math.sqrt(t_hat**2 - t[i] ** 2))
        x_hat = state.x
        d = (x_hat - D(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_prime = (x - D(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d + d_prime) / 2
        state.x = x
    return state.x
