r"""diffusers' schedulers as candidates, called as its pipelines call them.

Each runs the same network with the same EDM preconditioning on the same levels as the engine: n points from 80 down to
0.002 with rho 7, and then 0. How the levels are given depends on the scheduler:

* The two EDM schedulers take sigma_min, sigma_max and rho, precondition by themselves and call the raw network.
* Heun, DPM-Solver and UniPC know discrete VP levels, given by their betas. `trained_betas` puts these between 0.002 and
  80, and `use_karras_sigmas` spaces n points between the two ends. They hold betas in float32, which moves the lowest
  level by up to half a percent.
* DDIM steps along the levels of its betas: it gets the n points themselves as betas, and `clip_sample=False`.

VP schedulers hold x_vp = x/√(1 + σ²) and are given D(x; σ) as a "sample" prediction. Heun holds x and is given
(x − D)/σ as epsilon. The initial latent is draw 0 of the seed times the scheduler's own `init_noise_sigma`; noise of
the SDE variant comes from one torch generator for each seed. `step` and `scale_model_input` are the library's, and its
scalars stay on the CPU as they do there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.errors import BackendError
from ...models.denoiser import Denoiser
from ...plan.schedule import get_schedule
from ...sampler.noise import normal
from . import loops
from .candidate import Candidate, Runner
from .eager import EagerRunner

LEVELS = 1000  # of the VP schedulers, between the ends
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0


@dataclass(frozen=True)
class _Scheduler:
    """One scheduler.

    Attributes:
        name: of the candidate, after "diffusers/". class_name: of the scheduler. title: the name that is shown.
        kind: how levels are given, see the module: "edm", "karras" (trained betas, then spaced) or "levels" (DDIM).
        family: "ode" or "sde". heun: two network calls a step, one in the last. options: of the scheduler's class.
    """

    name: str
    class_name: str
    title: str
    kind: str
    family: str = "ode"
    heun: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def points(self, nfe: int) -> int:
        """Return the most points of the grid that `nfe` network calls pay for."""
        return (nfe + 1) // 2 if self.heun else nfe

    def calls(self, points: int) -> int:
        """Return the network calls of a grid of `points`."""
        return 2 * points - 1 if self.heun else points

    def make(self, points: int, low: float, high: float, sigma_data: float) -> Any:
        """Return the scheduler with `points` levels from `high` down to `low`."""
        diffusers = _library()
        cls = getattr(diffusers, self.class_name)
        if self.kind == "edm":
            made = cls(sigma_min=low, sigma_max=high, rho=RHO, sigma_data=sigma_data, **self.options)
        elif self.kind == "karras":
            made = cls(LEVELS, trained_betas=betas(_grid(LEVELS, low, high)), use_karras_sigmas=True, **self.options)
        else:
            made = cls(points, trained_betas=betas(_grid(points, low, high)), **self.options)
        return made


_SAMPLE: dict[str, Any] = {"prediction_type": "sample"}
SCHEDULERS = (
    _Scheduler("heun", "HeunDiscreteScheduler", "Heun", "karras", heun=True),
    _Scheduler("edm-euler", "EDMEulerScheduler", "EDM Euler", "edm"),
    _Scheduler("edm-dpm++2m", "EDMDPMSolverMultistepScheduler", "EDM DPM-Solver++(2M)", "edm"),
    _Scheduler(
        "edm-sde-dpm++2m",
        "EDMDPMSolverMultistepScheduler",
        "EDM SDE-DPM-Solver++(2M)",
        "edm",
        "sde",
        options={"algorithm_type": "sde-dpmsolver++"},
    ),
    _Scheduler("dpm++2m", "DPMSolverMultistepScheduler", "DPM-Solver++(2M)", "karras", options=_SAMPLE),
    _Scheduler("unipc", "UniPCMultistepScheduler", "UniPC", "karras", options=_SAMPLE),
    _Scheduler("ddim", "DDIMScheduler", "DDIM", "levels", options={**_SAMPLE, "clip_sample": False}),
)
_HOW = {
    "edm": "sigma_min, sigma_max and rho as in EDM",
    "karras": f"{LEVELS} trained_betas that reach from 0.002 to 80, use_karras_sigmas",
    "levels": "trained_betas on EDM's own grid",
}


def candidates() -> tuple[Candidate, ...]:
    """Return `diffusers/heun` and the others. Only their runners import diffusers itself."""
    return tuple(
        Candidate(
            f"diffusers/{s.name}",
            s.family,
            "diffusers",
            f"{s.title} (diffusers)",
            f"diffusers.{s.class_name}: {_HOW[s.kind]}",
            partial(_make, s),
        )
        for s in SCHEDULERS
    )


def betas(levels: np.ndarray) -> list[float]:
    """Return the betas whose discrete VP process has the noise levels `levels`: ᾱ_i = 1/(1 + σ_i²), lowest first."""
    alphas_cumprod = 1 / (1 + np.sort(levels) ** 2)
    before = np.concatenate([[1.0], alphas_cumprod[:-1]])
    return [float(b) for b in 1 - alphas_cumprod / before]


class SchedulerRunner(EagerRunner):
    """Draws with a scheduler on a grid of `points`.

    `set_timesteps` resets the scheduler before each batch, as in a pipeline's call.
    """

    def __init__(
        self, denoiser: Denoiser, which: _Scheduler, points: int, key: str, batch_size: int, dtype: str
    ) -> None:
        super().__init__(denoiser, which.calls(points), key, batch_size, dtype)
        self.which, self.points = which, points
        known = denoiser.parameterization
        self.low, self.high = max(SIGMA_MIN, known.sigma_min), min(SIGMA_MAX, known.sigma_max)
        _library()

    @cached_property
    def scheduler(self) -> Any:
        """The scheduler, made at the first draw: Heun with a thousand levels takes a quarter of a second."""
        return self.which.make(self.points, self.low, self.high, loops.sigma_data_of(self.denoiser))

    def _batch(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        scheduler = self.scheduler
        scheduler.set_timesteps(self.points, device=self.device)
        x = normal(seeds, 0, self.denoiser.shape, device=self.device) * scheduler.init_noise_sigma
        if self.which.kind == "edm":
            return self._edm(scheduler, x, seeds, labels)
        draw = _heun if self.which.heun else _ddim if self.which.kind == "levels" else _vp
        return draw(scheduler, x, self._D(labels))

    def _edm(self, scheduler: Any, x: Tensor, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """Draw a batch with the raw network: c_noise is the timestep, and the scheduler preconditions."""
        hot, more = self._hot(labels), {}
        if self.which.family == "sde":
            more["generator"] = [torch.Generator(self.device).manual_seed(int(seed)) for seed in seeds]
        scheduler.set_begin_index(0)
        for t in scheduler.timesteps:
            net_in = scheduler.scale_model_input(x, t)
            F = self._F(net_in, t.reshape(1), hot).float()
            x = scheduler.step(F, t, x, return_dict=False, **more)[0]
        return x


def _heun(scheduler: Any, x: Tensor, D: loops.D) -> Tensor:
    """Draw with x in VE scale and epsilon predictions; D scales its input by itself."""
    sigmas = scheduler.sigmas.to(x.device)
    scheduler.set_begin_index(0)
    for i, t in enumerate(scheduler.timesteps):
        sigma = sigmas[i]
        scheduler.scale_model_input(x, t)
        x = scheduler.step((x - D(x, sigma)) / sigma, t, x, return_dict=False)[0]
    return x


def _vp(scheduler: Any, x: Tensor, D: loops.D) -> Tensor:
    """Draw with x in VP scale and the levels in scheduler.sigmas."""
    sigmas = scheduler.sigmas.to(x.device)
    scheduler.set_begin_index(0)
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(D(x * (1 + sigmas[i] ** 2).sqrt(), sigmas[i]), t, x, return_dict=False)[0]
    return x


def _ddim(scheduler: Any, x: Tensor, D: loops.D) -> Tensor:
    """Draw with x in VP scale and the levels in scheduler.alphas_cumprod."""
    alphas_cumprod = scheduler.alphas_cumprod.to(x.device)
    for t in scheduler.timesteps:
        root = alphas_cumprod[t].sqrt()
        x = scheduler.step(D(x / root, (1 / alphas_cumprod[t] - 1).sqrt()), t, x, return_dict=False)[0]
    return x


def _make(which: _Scheduler, denoiser: Denoiser, nfe: int, batch_size: int, dtype: str, restart: Any) -> Runner | None:
    points = which.points(nfe)
    if points < 2:
        return None
    key = f"diffusers-{which.name}-{which.calls(points)}-{dtype}"
    return SchedulerRunner(denoiser, which, points, key, batch_size, dtype)


def _grid(points: int, low: float, high: float) -> np.ndarray:
    return get_schedule("edm", rho=RHO).grid(points, low, high)


def _library() -> Any:
    """Import diffusers. Raises BackendError, which says how to install it."""
    try:
        import diffusers
    except ImportError:
        raise BackendError(
            "diffusers is not installed, so its samplers cannot be measured; pip install 'restart-sampling[bench]'"
        ) from None
    return diffusers
