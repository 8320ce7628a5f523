"""Levels of random configs against diffusers' own schedulers: all keys that are honoured, in combinations."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("diffusers")

import diffusers

from restart_sampling.common.errors import RestartError
from restart_sampling.integrations.diffusers import FlowMatchRestartScheduler, RestartScheduler

diffusers.utils.logging.set_verbosity_error()
GRIDS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
TRIALS = 60


def model(rng):
    """Betas and prediction, and how timesteps are placed."""
    return dict(
        num_train_timesteps=rng.choice([1000, 1000, 997, 500, 100]),
        beta_start=rng.choice([1e-4, 0.00085, 0.002]),
        beta_end=rng.choice([0.02, 0.012, 0.03]),
        beta_schedule=rng.choice(["linear", "scaled_linear", "squaredcos_cap_v2"]),
        prediction_type=rng.choice(["v_prediction", "sample"]),
        timestep_spacing=rng.choice(["leading", "linspace", "trailing"]),
        rescale_betas_zero_snr=rng.choice([True, False]),
    )


def ddim(rng):
    """The model's own timesteps; and CogVideoX's shift of its levels."""
    config = model(rng) | dict(steps_offset=rng.choice([0, 1]))
    if rng.random() < 0.5:
        return diffusers.DDIMScheduler(**config), {}
    return diffusers.CogVideoXDDIMScheduler(**config, snr_shift_scale=rng.choice([1.0, 2.0, 3.0])), {}


def grid(rng):
    """Levels of a rule, over all of the model's."""
    make = rng.choice([diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler])
    names = (*GRIDS, "use_lu_lambdas") if make is diffusers.DPMSolverMultistepScheduler else GRIDS
    return make(**model(rng), **{rng.choice(names): True}), {}


def flow(rng):
    """A static shift, or one for the size of the image."""
    dynamic = rng.random() < 0.5
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=rng.choice([1000, 500]),
        shift=rng.choice([0.5, 1.0, 3.0, 7.0]),
        use_dynamic_shifting=dynamic,
        time_shift_type=rng.choice(["exponential", "linear"]),
    )
    return theirs, dict(mu=rng.choice([0.5, 1.15, 2.0])) if dynamic else {}


def levels_of(theirs):
    """What a run of theirs asks the network at, without the final 0 and without repeats; of ᾱ = 0 infinity."""
    if hasattr(theirs, "sigmas"):
        levels = theirs.sigmas.double().numpy()
    else:
        alpha_bar = theirs.alphas_cumprod.double().numpy()[theirs.timesteps.long().numpy()]
        with np.errstate(divide="ignore"):
            levels = np.sqrt((1 - alpha_bar) / alpha_bar)
    return np.array([v for i, v in enumerate(levels) if v > 0 and (i == 0 or v != levels[i - 1])])


@pytest.mark.parametrize("kind", [ddim, grid, flow], ids=lambda kind: kind.__name__)
def test_levels_of_random_configs(kind):
    rng = random.Random(kind.__name__)
    target = FlowMatchRestartScheduler if kind is flow else RestartScheduler
    equal = refused = 0
    for _ in range(TRIALS):
        (theirs, more), n = kind(rng), rng.choice([2, 3, 5, 10, 17, 20, 50])
        try:
            theirs.set_timesteps(n, **more)
        except (ValueError, IndexError):
            continue  # not a config of theirs
        ours = target.from_config(theirs.config, restart=None, solver="euler", steps_are="main")
        try:
            ours.set_timesteps(n, **more)
        except RestartError:
            refused += 1
            continue
        want, got = levels_of(theirs), ours.sigmas[:-1].double().numpy()
        if kind is grid and theirs.config.rescale_betas_zero_snr and ours._levels[-2] > 4096:
            continue  # their highest level is below the next one
        assert len(want) == len(got), theirs.config
        known = np.isfinite(want)
        # Theirs are of float32 products: σ² = (1 − ᾱ)/ᾱ has errors of some 1e-7, which a rule's grid takes from its
        #     lowest level.
        spread = 5e-7 / got[-1] ** 2 if kind is grid else 0
        assert np.allclose(got[known] ** 2, want[known] ** 2, rtol=2e-4 + spread, atol=1e-6), theirs.config
        assert (got[~known] > 4095).all() and ours.sigmas[-1] == 0
        equal += 1
    assert equal >= 0.6 * TRIALS and refused <= 0.1 * TRIALS, (equal, refused)
