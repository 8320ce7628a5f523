"""RePaint in numbers: diffusers' own scheduler, fed with the noise of the scheme, ends at the same samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import restart_sampling as rs
from restart_sampling.sampler.table import PASTE_DRAWS

diffusers = pytest.importorskip("diffusers")
repaint = pytest.importorskip("diffusers.schedulers.scheduling_repaint")
SHAPE, SEEDS = (2, 4, 4), range(3)
T = 12


def denoised(x, sigma):
    """E[x₀ | x] of elements N(m_i, 0.3²)."""
    s = sigma.to(x.dtype).view(-1, 1, 1, 1)
    mean = torch.linspace(-0.8, 0.8, 32, dtype=x.dtype).view(1, *SHAPE)
    return mean + 0.09 / (0.09 + s * s) * (x - mean)


def scheduler(j, r):
    made = repaint.RePaintScheduler(num_train_timesteps=T, beta_start=0.02, beta_end=0.4, eta=1.0, clip_sample=False)
    made.set_timesteps(T, jump_length=j, jump_n_sample=r)
    return made


@pytest.mark.parametrize(("j", "r"), [(3, 2), (2, 3), (4, 1)])
def test_diffusers_scheduler_ends_at_the_same_samples(j, r, monkeypatch):
    """At t the state of diffusers is x/√(1 + σ²). One noise of a step serves both of its parts, on different elements;
    the noises of a jump's steps are chosen so that they add up to ours."""
    made = scheduler(j, r)
    alphas = made.alphas_cumprod.double()
    levels = ((1 - alphas) / alphas).sqrt()
    sigmas = levels.flip(0).tolist()
    plan = rs.Plan.build(sigmas=sigmas, solver="ddpm", restart=f"repaint:j={j},r={r}")
    generator = torch.Generator().manual_seed(3)
    known = torch.randn(SHAPE, generator=generator)
    mask = (torch.rand(1, 4, 4, generator=generator) > 0.5).float()
    den = rs.Denoiser.from_function(denoised, SHAPE)
    sampler = rs.Sampler(den, plan, batch_size=3, register_dtype=torch.float64)
    ours = sampler.run(SEEDS, known=known.double(), mask=mask.double(), paste="fresh")

    def normal(draw):
        return rs.noise.normal(SEEDS, draw, SHAPE).double()

    free, kept = mask.double(), 1 - mask.double()
    queue = []
    monkeypatch.setattr(repaint, "randn_tensor", lambda *_, **__: queue.pop(0))
    x = sigmas[0] * normal(0) * alphas[-1].sqrt()
    steps, rows = iter(plan.steps), 0
    times, last = made.timesteps.tolist(), T
    for place, t in enumerate(times):
        if t >= last:  # a step up, done with the others of its jump
            last = t
            continue
        step = next(steps)
        rows += 1
        D = denoised(x / alphas[t].sqrt(), levels[t].view(1))
        noise = (x - alphas[t].sqrt() * D) / (1 - alphas[t]).sqrt()
        s = float(levels[t - 1]) if t else 0.0
        up = step.lift_to > step.s
        own = s * np.sqrt(1 - (s / float(levels[t])) ** 2)
        fresh = normal(step.draw) if step.draw else torch.zeros(3, *SHAPE, dtype=torch.float64)
        pasted = normal(PASTE_DRAWS + rows)
        # The solver's noise and the jump's are one draw of ours: where the solver has noise, it takes the whole of it.
        queue.append(free * fresh * (step.noise / own if up and own else 1.0) + kept * pasted)
        x = made.step(noise, t, x, known.double().expand(3, *SHAPE), kept.expand(3, *SHAPE)).prev_sample
        last = t
        if up:
            ups = times[place + 1 : place + 1 + j]
            betas = made.betas.double()[[u - 1 for u in ups]]
            coefficients = [float(b.sqrt() * torch.prod(1 - betas[i + 1 :]).sqrt()) for i, b in enumerate(betas)]
            size = float(np.linalg.norm(coefficients))
            top = alphas[ups[-1] - 1]
            ratio = float(top / alphas[t - 1]) if t else float(top)
            # On kept elements the known image is to be at the upper level with `pasted`, in diffusers' scale.
            below = float((1 - alphas[t - 1]).sqrt()) if t else 0.0
            rest = (float((1 - top).sqrt()) - np.sqrt(ratio) * below) * kept * pasted
            total = rest + (0.0 if own else size * free * fresh)
            for c in coefficients:
                queue.append(total * c / size**2)
            for u in ups:
                x = made.undo_step(x, u - 1)
    assert not queue
    assert torch.allclose(x, ours, atol=2e-5)
