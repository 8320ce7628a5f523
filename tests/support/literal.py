"""A plan run literally: its solver steps in float64 tensors, one after the other, with the edits of a run.

No table, no register and no backend is involved; noise comes from the scheme. D is what `Denoiser.from_function` takes,
or, with `coefficients`, a raw network in float64.
"""

from __future__ import annotations

import torch

import restart_sampling as rs
from restart_sampling.solvers.process import alpha


def normals(seeds, shape, dtype=torch.float64):
    """draw → the scheme's normals of `seeds`, [B, *shape]."""
    return lambda draw: rs.noise.normal(seeds, draw, shape).to(dtype)


def weigh(c, u, w, config):
    """The guided output of a method, from its paper, sample by sample in float64."""
    if config.guidance == "zero-star":
        n = [1] * (c.ndim - 1)
        s = ((c * u).flatten(1).sum(1) / (u * u).flatten(1).sum(1)).view(-1, *n)
        return s * u + w * (c - s * u)
    if config.guidance == "apg":
        norm = (c - u).flatten(1).norm(dim=1).view(-1, *[1] * (c.ndim - 1))
        d = (c - u) * (config.apg_norm / norm).clamp(max=1) if config.apg_norm else c - u
        along = c / c.flatten(1).norm(dim=1).view(-1, *[1] * (c.ndim - 1))
        parallel = (d * along).flatten(1).sum(1).view(-1, *[1] * (c.ndim - 1)) * along
        return c + (w - 1) * (d - parallel + config.apg_eta * parallel)
    F = u + w * (c - u)
    if config.guidance_rescale:
        std = (c.flatten(1).std(1) / F.flatten(1).std(1)).view(-1, *[1] * (c.ndim - 1))
        F = config.guidance_rescale * std * F + (1 - config.guidance_rescale) * F
    return F


def run(
    plan,
    D,
    seeds,
    shape,
    *,
    D_u=None,
    weights=None,
    latents=None,
    start=None,
    known=None,
    mask=None,
    fresh=False,
    coefficients=None,
    dtype=torch.float64,
    draw=None,
):
    """The samples of `plan`, [B, *shape], and how often D and D_u were called for what the samples depend on.

    Args:
        D, D_u: D(x [B, *shape], sigma) → D, and the unconditional one under guidance.
        coefficients: σ → c_skip, c_out, c_in, c_noise, of a `Parameterization`; D and D_u are then F(net_in, c_noise).
        weights: W of each row, from `restart_sampling.plan.guidance`; `plan` must then be the plan as it runs.
        latents, start: what the run begins with instead of draw 0. known, mask: [B, *shape] each.
        dtype: float32 shows what rounding makes of a plan.
        draw: number → normals [B, *shape] instead of those of the seeds.
        fresh: a draw of its own for the known image in each row, from 2³⁰ + row on, and none in the first latent.
    """
    draw, process = draw or normals(seeds, shape, dtype), plan.process
    calls, row = [0, 0], 0

    def paste(x, level, after):
        if known is None or (fresh and after == 0):
            return x
        noise = draw(2**30 + after if fresh else 0)
        return mask * x + (1 - mask) * (alpha(process, level) * known + level * noise)

    def denoised(z, level, counts):
        nonlocal row
        w = 1.0 if weights is None else float(weights[row])
        c_skip, c_out, c_in, c_noise = (
            (0.0, 1.0, 1.0, level) if coefficients is None else map(float, coefficients(level))
        )
        row += 1
        if row <= plan.config.zero_init:
            return c_skip * z
        calls[0] += counts
        F = D(c_in * z, c_noise)
        if w != 1:
            calls[1] += counts
            F = weigh(F, D_u(c_in * z, c_noise), w, plan.config)
        return c_skip * z + c_out * F

    def matters(step, k):
        forms = (*(stage.z for stage in step.stages), step.result, *step.keep)
        return any(list(form.D)[k : k + 1] not in ([], [0.0]) for form in forms)

    levels = [stage.level for step in plan.steps for stage in step.stages] + [plan.steps[-1].s]
    x = plan.initial_noise * (draw(0) if latents is None else latents.to(dtype))
    if start is not None:
        x = alpha(process, plan.steps[0].t) * start + plan.initial_noise * draw(0)
    x, history = paste(x, levels[0], 0), []

    def value(form, found, shared):
        parts = ((form.history, history), (form.D, found), (form.noise, shared))
        total = form.x * x
        for factors, tensors in parts:
            for factor, tensor in zip(factors, tensors, strict=False):
                total = total + factor * tensor
        return total

    for step in plan.steps:
        found, shared = [], [draw(number) for number in step.draws]
        for k, stage in enumerate(step.stages):
            z = x if k == 0 else paste(value(stage.z, found, shared), stage.level, row)
            found.append(denoised(z, stage.level, matters(step, k)))
        kept = [value(form, found, shared) for form in step.keep]
        new = value(step.result, found, shared)
        if step.noise:
            new = new + step.noise * draw(step.draw)
        x, history = paste(new, levels[row], row), kept
    return x, calls
