r"""A literal float64 reading of the papers' algorithms on tensors, independent of the plan compiler.

Restart (arXiv 2306.14878) Algorithms 1–3 with EDM's churn inside and outside intervals (arXiv 2206.00364 Algorithm 2).
Noise comes from `draw(k)` → ε of the k-th injection. Lifts at the same point without an evaluation between them (a jump
followed by churn, say) are one Gaussian with the sum of the variances, so they take one draw, as in our scheme."""

from __future__ import annotations

import math
from itertools import pairwise

import torch


def karras(n, low, high, rho=7.0):
    i = torch.arange(n, dtype=torch.float64) / (n - 1)
    return (high ** (1 / rho) + i * (low ** (1 / rho) - high ** (1 / rho))) ** rho


class State:
    """The state; the initial latent is draw 0 of a zero state, so churn at the first level adds to its variance too."""

    def __init__(self, latents, sigma_max, draw):
        self.x, self.draw, self.count, self.variance = torch.zeros_like(latents), draw, -1, sigma_max**2

    def inject(self, std):
        self.variance += std * std

    def settled(self):
        if self.variance > 0:
            self.count += 1
            self.x = self.x + math.sqrt(self.variance) * self.draw(self.count)
            self.variance = 0.0
        return self.x


def heun_step(D, x, t, s):
    d = (x - D(x, t)) / t
    p = x + (s - t) * d
    if s == 0:
        return p
    return x + (s - t) * (d + (p - D(p, s)) / s) / 2


def euler_step(D, x, t, s):
    return x + (s - t) * (x - D(x, t)) / t


def dpm2_step(D, x, t, s):
    if s == 0:
        return euler_step(D, x, t, s)
    m = math.sqrt(t * s)
    u = x + (m - t) * (x - D(x, t)) / t
    return x + (s - t) * (u - D(u, m)) / m


def dpm3_step(D, x, t, s):
    """DPM-Solver-3 in its own (α = 1, λ = −ln σ) notation, from the DPM-Solver paper's Algorithm 2."""

    def eps(y, level):
        return (y - D(y, level)) / level

    h = math.log(t / s)
    r1, r2 = 1 / 3, 2 / 3
    s1, s2 = t * math.exp(-r1 * h), t * math.exp(-r2 * h)
    e0 = eps(x, t)
    u1 = x - s1 * (math.exp(r1 * h) - 1) * e0
    d1 = eps(u1, s1) - e0
    u2 = x - s2 * (math.exp(r2 * h) - 1) * e0 - s2 * r2 / r1 * ((math.exp(r2 * h) - 1) / (r2 * h) - 1) * d1
    d2 = eps(u2, s2) - e0
    return x - s * (math.exp(h) - 1) * e0 - s / r2 * ((math.exp(h) - 1) / h - 1) * d2


def restart(
    D,
    draw,
    steps=18,
    low=0.002,
    high=80.0,
    rho=7.0,
    intervals=(),
    s_noise=1.0,
    s_churn=0.0,
    s_min=0.0,
    s_max=math.inf,
    restart_gamma=0.0,
    step=heun_step,
    both=True,
    schedule=karras,
):
    """`intervals`: (N, K, t_min, t_max). Returns the sample; counts nothing."""
    grid = torch.cat([schedule(steps, low, high, rho), torch.zeros(1, dtype=torch.float64)]).tolist()
    attached = {}
    for interval in intervals:
        m = min(range(len(grid)), key=lambda i: abs(grid[i] - interval[2]))
        if both:
            attached.setdefault(m, []).append(interval)
        else:
            attached[m] = [interval]
    state = State(draw(0), grid[0], draw)

    def walk(levels, gamma_of):
        for t, s in pairwise(levels):
            t_hat = t * (1 + gamma_of(t))
            if t_hat > t:
                state.inject(s_noise * math.sqrt(t_hat**2 - t**2))
            state.x = step(D, state.settled(), t_hat, s)

    def main_gamma(t):
        return min(s_churn / steps, math.sqrt(2) - 1) if s_min <= t <= s_max else 0.0

    for m in range(len(grid) - 1):
        walk(grid[m : m + 2], main_gamma)
        for N, K, _, t_max in attached.get(m + 1, []):
            t_m = grid[m + 1]
            levels = schedule(N, t_m, t_max, rho).tolist()
            levels[0], levels[-1] = t_max, t_m
            for _ in range(K):
                state.inject(s_noise * math.sqrt(t_max**2 - t_m**2))
                walk(levels, lambda t: restart_gamma if s_min <= t <= s_max else 0.0)
    return state.x
