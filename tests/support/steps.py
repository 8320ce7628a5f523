"""Steps of DPM-Solver for `restart_sampling.sampler.reference.restart`, in the notation of its paper, and the steps of
any plan, run literally."""

from __future__ import annotations

import math

from restart_sampling.sampler.reference import euler_step


def dpm2_step(D, x, t, s):
    """DPM-Solver-2 with r₁ = 1/2 (arXiv 2206.00927, Algorithm 1)."""
    if s == 0:
        return euler_step(D, x, t, s)
    m = math.sqrt(t * s)
    u = x + (m - t) * (x - D(x, t)) / t
    return x + (s - t) * (u - D(u, m)) / m


def dpm3_step(D, x, t, s):
    """DPM-Solver-3 in its own (α = 1, λ = −ln σ) notation (arXiv 2206.00927, Algorithm 2)."""

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


def states(steps, D, x, draw):
    """Yield the state after each solver step, from its forms alone: no table, no lowering. x is a number or an array.

    Args:
        D: D(x, level). draw: number → the standard normal of that number.
    """
    history = []

    def value(form, found, shared):
        parts = ((form.history, history), (form.D, found), (form.noise, shared))
        terms = [(form.x, x), *(pair for weights, values in parts for pair in zip(weights, values, strict=False))]
        return sum(weight * v for weight, v in terms if weight)

    for step in steps:
        found, shared = [], [draw(number) if number else 0.0 for number in step.draws]
        for stage in step.stages:
            found.append(D(value(stage.z, found, shared), stage.network))
        result, kept = value(step.result, found, shared), [value(form, found, shared) for form in step.keep]
        x, history = result + (step.noise * draw(step.draw) if step.noise else 0.0), kept
        yield x


def run_steps(plan, D, draw):
    """The evaluations of a plan's solver steps in float64, (x, sigma, D) each, and the sample."""
    evaluations = []

    def recorded(z, level):
        evaluations.append((z, level, D(z, level)))
        return evaluations[-1][2]

    *_, x = states(plan.steps, recorded, plan.initial_noise * draw(0), draw)
    return evaluations, x
