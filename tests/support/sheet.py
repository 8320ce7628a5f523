"""Solvers of the field as their papers and libraries define them, and a tiny problem that their published
implementations were run on in float64: what the machine must be able to say, whether it ships them or not.

The problem: data 0.3·N(−1, ¼²) + 0.7·N(0.6, ¼²) with its exact denoiser, levels 10, 4, 1.6, 0.7, 0.3, 0.1, 0, a start
at x = 9, and given draws. GOLDEN has the results of k-diffusion, ComfyUI and diffusers on it (float64).
"""

from __future__ import annotations

import math

import numpy as np

from restart_sampling.solvers.trace import Update

LEVELS = (10.0, 4.0, 1.6, 0.7, 0.3, 0.1, 0.0)
START = 9.0
DRAWS = (0.4, -1.1, 0.7, 1.3, -0.6, 0.2, -0.9, 1.6, -0.3, 0.8, -1.4, 0.5, 1.0, -0.2, -0.7)


def denoiser(x, t):
    """E[x₀ | x] of the problem's data."""
    weights, means, var = (0.3, 0.7), (-1.0, 0.6), 0.25**2
    logs = [math.log(w) - (x - m) ** 2 / (2 * (var + t * t)) for w, m in zip(weights, means, strict=True)]
    top = max(logs)
    shares = [math.exp(v - top) for v in logs]
    posterior = [m + var / (var + t * t) * (x - m) for m in means]
    return sum(s * p for s, p in zip(shares, posterior, strict=True)) / sum(shares)


def lam(t):
    """λ = −ln σ, +∞ at 0."""
    return -math.log(t) if t > 0 else math.inf


def moments(h, c, n):
    """M_p = ∫₀^h c·e^(−c(h−v))·v^p dv for p < n, by the series below z = 1 and by recursion above."""
    z, found = c * h, []
    for p in range(n):
        if z < 1:
            series = sum((-1) ** k * z ** (k + 1) * math.factorial(p) / math.factorial(p + k + 1) for k in range(30))
            found.append(h**p * series)
        else:
            found.append(-math.expm1(-z) if p == 0 else h**p - p / c * found[-1])
    return found


def exponential(c, t, s, nodes):
    """The weights of D at the levels `nodes` in the step t → s of an exponential integrator with decay c."""
    h, v = lam(s) - lam(t), np.array([lam(n) - lam(t) for n in nodes])
    return list(np.linalg.solve(np.vander(v, increasing=True).T, moments(h, c, len(nodes))))


def ancestral(t, s, eta=1.0):
    """(σ_up, σ_down) of an ancestral step."""
    up = min(s, eta * s * math.sqrt(1 - (s / t) ** 2))
    return up, math.sqrt(s * s - up * up)


def polynomial(t, s, nodes):
    """∫_t^s of the Lagrange polynomials of `nodes`: the weights of an Adams step in σ."""
    powers = np.arange(len(nodes))
    right = [(s ** (p + 1) - t ** (p + 1)) / (p + 1) for p in powers]
    return list(np.linalg.solve(np.vander(nodes, increasing=True).T, right))


def slope(x, t, D):
    return (x - D(x, t)) / t


def rest(position, n=3):
    return position.history[: n - 1]


def combine(weights, forms):
    total = weights[0] * forms[0]
    for w, f in zip(weights[1:], forms[1:], strict=True):
        total = total + w * f
    return total


def dpmpp_2s_ancestral(x, t, s, D, position):
    d = D(x, t)
    if s == 0:
        return Update(d)
    up, dn = ancestral(t, s)
    m = math.sqrt(t * dn)
    u = (m / t) * x + (1 - m / t) * d
    return Update((dn / t) * x + (1 - dn / t) * D(u, m), noise=up)


def dpmpp_sde(x, t, s, D, position, eta=1.0, r=0.5):
    d = D(x, t)
    if s == 0:
        return Update(d)
    first = D.draw()
    m = math.exp(-(lam(t) + r * (lam(s) - lam(t))))
    up, dn = ancestral(t, m, eta)
    u = (dn / t) * x + (1 - dn / t) * d + up * first
    d_m = D(u, m)
    up, dn = ancestral(t, s, eta)
    f = 1 / (2 * r)
    k = math.sqrt((t - m) / (t - s))  # the Brownian tree: the step's draw holds a part of the first one
    new = (dn / t) * x + (1 - dn / t) * ((1 - f) * d + f * d_m) + up * k * first
    return Update(new, noise=up * math.sqrt(1 - k * k))


def dpmpp_sde_low(x, t, s, D, position):
    return dpmpp_sde(x, t, s, D, position, eta=0.5, r=0.4)


def seeds_2(x, t, s, D, position, r=0.5, eta=1.0):
    d = D(x, t)
    if s == 0:
        return Update(d)
    h = lam(s) - lam(t)
    m = math.exp(-(lam(t) + r * h))
    e_1 = D.draw()
    n_1 = math.sqrt(-math.expm1(-2 * r * eta * h)) * e_1
    u = (m / t) * math.exp(-eta * r * h) * x - math.expm1(-(1 + eta) * r * h) * d + m * n_1
    d_m = D(u, m)
    f = 1 / (2 * r)
    new = (s / t) * math.exp(-eta * h) * x - math.expm1(-(1 + eta) * h) * ((1 - f) * d + f * d_m)
    new = new + s * math.exp((r - 1) * eta * h) * n_1
    return Update(new, noise=s * math.sqrt(-math.expm1(2 * (r - 1) * eta * h)))


def exp_heun_sde(x, t, s, D, position):
    d = D(x, t)
    if s == 0:
        return Update(d)
    h = lam(s) - lam(t)
    e_1 = D.draw()
    noise = s * math.sqrt(-math.expm1(-2 * h)) * e_1
    u = (s / t) * math.exp(-h) * x - math.expm1(-2 * h) * d + noise
    w = exponential(2.0, t, s, (t, s))
    return Update((s / t) * math.exp(-h) * x + combine(w, (d, D(u, s))) + noise)


def seeds_3(x, t, s, D, position, r_1=1 / 3, r_2=2 / 3):
    d = D(x, t)
    if s == 0:
        return Update(d)
    h, c = lam(s) - lam(t), 2.0
    m_1, m_2 = (math.exp(-(lam(t) + r * h)) for r in (r_1, r_2))

    def std(a):
        return math.sqrt(-math.expm1(-2 * a * h))

    e_1, e_2 = D.draw(), D.draw()
    u_2 = (m_1 / t) * math.exp(-r_1 * h) * x - math.expm1(-c * r_1 * h) * d + m_1 * std(r_1) * e_1
    d_2 = D(u_2, m_1)
    w = exponential(c, t, m_2, (t, m_1))
    u_3 = (m_2 / t) * math.exp(-r_2 * h) * x + combine(w, (d, d_2))
    n = math.exp(-(r_2 - r_1) * h) * std(r_1) * e_1 + std(r_2 - r_1) * e_2
    u_3 = u_3 + m_2 * n
    d_3 = D(u_3, m_2)
    w = exponential(c, t, s, (t, m_2))
    new = (s / t) * math.exp(-h) * x + combine(w, (d, d_3)) + s * math.exp(-(1 - r_2) * h) * n
    return Update(new, noise=s * std(1 - r_2))


def dpmpp_2m_sde(x, t, s, D, position, heun=False):
    d = D(x, t)
    if s == 0:
        return Update(d)
    h = lam(s) - lam(t)
    new = (s / t) * math.exp(-h) * x - math.expm1(-2 * h) * d
    if position.history:
        r = (lam(t) - lam(position.levels[0])) / h
        g = 1 + math.expm1(-2 * h) / (2 * h) if heun else -0.5 * math.expm1(-2 * h)
        new = new + g * ((d - position.history[0]) / r)
    return Update(new, noise=s * math.sqrt(-math.expm1(-2 * h)), keep=(d,))


def dpmpp_2m_sde_heun(x, t, s, D, position):
    return dpmpp_2m_sde(x, t, s, D, position, heun=True)


def dpmpp_3m(x, t, s, D, position, eta=0.0, kappa=1.0):
    d = D(x, t)
    if s == 0:
        return Update(d)
    h, c = lam(s) - lam(t), 1 + eta
    z = c * h
    phi_2 = 1 + math.expm1(-z) / z
    phi_3 = phi_2 / z - 0.5
    new = (s / t) * math.exp(-eta * h) * x - math.expm1(-z) * d
    if len(position.history) == 1:
        r = (lam(t) - lam(position.levels[0])) / h
        new = new + phi_2 * ((d - position.history[0]) / r)
    elif len(position.history) == 2:
        r_0 = (lam(t) - lam(position.levels[0])) / h
        r_1 = (lam(position.levels[0]) - lam(position.levels[1])) / h
        a_0 = (d - position.history[0]) / r_0
        a_1 = (position.history[0] - position.history[1]) / r_1
        new = new + phi_2 * (a_0 + (r_0 / (r_0 + r_1)) * (a_0 - a_1)) - (kappa * phi_3 / (r_0 + r_1)) * (a_0 - a_1)
    noise = s * math.sqrt(-math.expm1(-2 * eta * h))
    return Update(new, noise=noise, keep=(d, *position.history[:1]))


def dpmpp_3m_sde(x, t, s, D, position):
    return dpmpp_3m(x, t, s, D, position, eta=1.0)


def dpmpp_3m_true(x, t, s, D, position):
    return dpmpp_3m(x, t, s, D, position, kappa=2.0)


def lms4(x, t, s, D, position):
    d = slope(x, t, D)
    kept = (d, *position.history[:3])
    nodes = (t, *position.levels[:3])
    return Update(x + combine(polynomial(t, s, nodes), kept), keep=kept[:3])


def ipndm4(x, t, s, D, position):
    d_0 = D(x, t)
    d = (x - d_0) / t
    kept = (d, *position.history[:3])
    if s == 0:
        return Update(d_0)
    weights = {1: (1,), 2: (1.5, -0.5), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
    return Update(x + (s - t) * combine(weights[len(kept)], kept), keep=kept[:3])


def gradient_estimation(x, t, s, D, position, gamma=2.0):
    d_0 = D(x, t)
    d = (x - d_0) / t
    if s == 0:
        return Update(d_0)
    used = gamma * d + (1 - gamma) * position.history[0] if position.history else d
    return Update(x + (s - t) * used, keep=(d,))


def unipc_predictor(p, t, s, nodes, b1):
    """(weight of x, weights of D at t and the nodes after it) of UniP-p."""
    h = lam(s) - lam(t)
    q, B = s / t, h if b1 else -math.expm1(-h)
    if p == 1:
        return q, [-math.expm1(-h)]
    if p == 2:
        r = (lam(t) - lam(nodes[1])) / h
        return q, [-math.expm1(-h) + B / (2 * r), -B / (2 * r)]
    return q, exponential(1.0, t, s, nodes[:p])


def unipc(order, b1=False):
    def step(x, t, s, D, position):
        d = D(x, t)
        if s == 0:
            return Update(d)
        i = len(position.history)
        if i:
            # The state arrived by the predictor; the evaluation there is what its corrector needs.
            t_0, p = position.levels[0], min(order, i, position.remaining + 1)
            _, b = unipc_predictor(p, t_0, t, position.levels, b1)
            h = lam(t) - lam(t_0)
            if p == 1:
                B = h if b1 else -math.expm1(-h)
                c = [B / 2, -math.expm1(-h) - B / 2]
            else:
                c = exponential(1.0, t_0, t, (t, *position.levels[:p]))
            x = x + c[0] * d
            for j in range(p):
                x = x + (c[1 + j] - b[j]) * position.history[j]
        kept = (d, *position.history[: order - 1])
        p = min(order, i + 1, position.remaining)
        q, b = unipc_predictor(p, t, s, (t, *position.levels), b1)
        return Update(q * x + combine(b, kept[:p]), keep=kept)

    return step


# name: (step, history registers, noise terms, result). The last three columns of the solvers' own names and orders are
# those of the libraries named in the docstring.
GOLDEN = {
    "dpmpp_2s_ancestral": (dpmpp_2s_ancestral, 1, 1, 0.6465955339),
    "dpmpp_sde": (dpmpp_sde, 1, 2, 0.5916827934),
    "dpmpp_sde, eta 0.5, r 0.4": (dpmpp_sde_low, 1, 2, 0.7469640315),
    "seeds_2": (seeds_2, 1, 2, 0.6898365855),
    "seeds_3": (seeds_3, 1, 2, 0.6559834845),
    "exp_heun_2_x0_sde": (exp_heun_sde, 1, 1, 0.3834688603),
    "dpmpp_2m_sde": (dpmpp_2m_sde, 1, 1, 0.8130057591),
    "dpmpp_2m_sde heun": (dpmpp_2m_sde_heun, 1, 1, 0.8948523155),
    "dpmpp_3m": (dpmpp_3m, 2, 1, 0.7445755204),
    "dpmpp_3m_sde": (dpmpp_3m_sde, 2, 1, 1.0814255503),
    "dpmpp_3m, third order": (dpmpp_3m_true, 2, 1, 0.7352434715),
    "lms4": (lms4, 3, 1, 0.7224309748),
    "ipndm4": (ipndm4, 3, 1, 0.7233442805),
    "gradient_estimation": (gradient_estimation, 1, 1, 0.7569550586),
    "unipc-1": (unipc(1), 1, 1, 0.7107842639),
    "unipc-2": (unipc(2), 2, 1, 0.7623464851),
    "unipc-3": (unipc(3), 3, 1, 0.7721057789),
    "unipc-3 bh1": (unipc(3, b1=True), 3, 1, 0.7922326212),
}
