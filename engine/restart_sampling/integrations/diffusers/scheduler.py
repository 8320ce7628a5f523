r"""RestartScheduler: Restart, and every solver of the engine, for diffusers models with DDPM-style betas.

The plan walks x₀ + σε with σ = √((1 − ᾱ)/ᾱ); jumps there are the paper's x ← x + √(t_max² − t_min²)·ε, which in the VP
scale √ᾱ·x of Stable Diffusion is √f·x + √(1 − f)·ε, f = ᾱ(t_max)/ᾱ(t_min) (Restart, arXiv 2306.14878, appendix C.2).

`restart="auto"` is the paper's recipe for Stable Diffusion 1.5: DDIM on the model's own timesteps, Heun inside the
intervals, which are linear in the timestep and depend on the guidance scale (Restart, Table 10):

| guidance scale | [N, K, t_min, t_max] |
|----------------|----------------------|
| 2              | [5, 2, 1, 9], [5, 2, 5, 10] |
| 3              | [10, 2, 0.1, 3]      |
| 5, 8           | [10, 2, 0.1, 2]      |
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from torch import Tensor

from ...common.checks import choice, integer
from ...common.errors import ConfigError
from ...models.parameterization import Parameterization, discrete
from ...plan.notation import RestartConfig, restart_of
from ...plan.plan import Plan
from .adapter import TapeScheduler
from .betas import model_sigmas, sigma_of
from .budget import DEFAULT_GUIDANCE, automatic, nearest_published
from .grids import FLAGS, GRIDS, ended_at, main_grid
from .keys import refuse_keys
from .kinds import refuse_other_kinds
from .options import STEPS_ARE, check_solvers, jsonable, without_repeats

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
STATES = ("vp", "ve")
STARTS = ("unit", "engine")
FINAL = ("zero", "sigma_min")
INTERPOLATIONS = ("linear", "log_linear")


class RestartScheduler(TapeScheduler, SchedulerMixin, ConfigMixin):
    """Restart sampling in a diffusers pipeline: `pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config)`.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type, timestep_spacing,
            steps_offset, rescale_betas_zero_snr, snr_shift_scale, use_karras_sigmas, use_exponential_sigmas,
            use_beta_sigmas, use_lu_lambdas, interpolation_type, lambda_min_clipped, final_sigmas_type: as in diffusers'
            schedulers; they come from the model's config (keys.py says what is done with each).
        restart: intervals in any format `RestartConfig.parse` reads, None for none, or "auto" (module docstring).
            `restart_list` is another name of it.
        solver: solver of the main grid, any of the engine's, as in "unipc:order=2"; default: heun, with restart="auto"
            euler (DDIM). In `from_config` also "config", or the name of a scheduler of diffusers (solvers.py).
        restart_solver: solver inside intervals; default: that of the main grid, with restart="auto" heun.
        grid: "model" (the model's own timesteps, by timestep_spacing), or a rule of plan/schedules between two levels,
            such as "karras", "exponential", "beta" (of diffusers) or "ays"; default: what
            use_karras_sigmas and the like say.
        sigma_min, sigma_max: ends of a grid that is not the model's; default: the model's levels. An end outside of
            those is moved to them, with a warning.
        s_noise: factor on the std of every injected noise.
        eta: scale of the noise of stochastic solvers; 0 is none.
        steps_are: "nfe": num_inference_steps is the number of network calls (the two halves of guidance in one batch
            count as one call); "main": it is N_main, and intervals come on top.
        state: "vp": the sample between two calls is what the network gets, unit scale; "ve": it is x₀ + σε, as with
            EulerDiscreteScheduler.
        initial_noise: "unit" (default): latents of std 1 are the start, as in diffusers (`init_noise_sigma`); "engine":
            they become σ·ε, as in `rs.Sampler` and `draw`, so that both give one image.
        guidance_scale: chooses the intervals of restart="auto", since a scheduler does not see that of the pipeline.
            Default 7.5.
        seeds: noise of jumps from seeds, see `set_seeds`.

    Raises:
        ConfigError: a value that is not allowed, or two that contradict each other.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012  # the name and type diffusers reads
    kind = "betas"

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        use_lu_lambdas: bool | None = False,
        interpolation_type: str = "linear",
        lambda_min_clipped: float | None = None,
        final_sigmas_type: str = "zero",
        snr_shift_scale: float = 1.0,
        restart: Any = "auto",
        solver: str | None = None,
        restart_solver: str | None = None,
        grid: str | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        s_noise: float = 1.0,
        steps_are: str = "nfe",
        state: str = "vp",
        guidance_scale: float | None = None,
        seeds: list[int] | None = None,
        initial_noise: str = "unit",
        restart_list: Any = None,
        eta: float = 1.0,
    ) -> None:
        restart = restart_of(restart, restart_list, "auto")
        self.register_to_config(restart=jsonable(restart), restart_list=None)
        if prediction_type == "flow_prediction":
            raise ConfigError(
                "prediction_type 'flow_prediction' is of a flow model; flow models take FlowMatchRestartScheduler"
            )
        for name, value, allowed in (
            ("prediction_type", prediction_type, tuple(PREDICTIONS)),
            ("grid", grid or "model", GRIDS),
            ("steps_are", steps_are, STEPS_ARE),
            ("state", state, STATES),
            ("initial_noise", initial_noise, STARTS),
            ("final_sigmas_type", final_sigmas_type, FINAL),
            ("interpolation_type", interpolation_type, INTERPOLATIONS),
        ):
            choice(name, value, allowed)
        check_solvers(solver, restart_solver)
        if rescale_betas_zero_snr and prediction_type == "epsilon":
            raise ConfigError(
                "rescale_betas_zero_snr needs a model that predicts v or the sample: at zero signal epsilon tells "
                "nothing; set it to False"
            )
        flags = [name for name in FLAGS if self.config[name]]
        if len(flags) > 1:
            raise ConfigError(f"{' and '.join(flags)} are two grids; set one of them")
        self._levels = model_sigmas(self.config)
        self.alphas_cumprod = torch.from_numpy(1 / (1 + self._levels**2)).float()
        self._reset()
        self.set_seeds(seeds)

    @property
    def init_noise_sigma(self) -> float:
        """What standard-normal latents are multiplied with to start this run.

        With initial_noise="unit" it is that of the diffusers schedulers with samples of this scale: 1 in VP scale
        (DDIM, DPM-Solver), and in VE scale (Euler) √(σ² + 1) with leading spacing, σ with the others.
        """
        if self.config.initial_noise == "engine":
            return super().init_noise_sigma
        if self.scaled:
            return 1.0
        sigma = self._running.plan.initial_noise
        return float(np.hypot(sigma, 1.0)) if self.config.timestep_spacing == "leading" else sigma

    @property
    def scaled(self) -> bool:  # type: ignore[override]
        """Whether the sample is in VP scale."""
        return bool(self.config.state == "vp")

    @property
    def parameterization(self) -> Parameterization:
        """The model's parameterization."""
        return discrete(self._levels, PREDICTIONS[self.config.prediction_type])

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        """Make the plan of the next run.

        Args:
            num_inference_steps: network calls, or N_main with steps_are="main".
            timesteps, sigmas: the main grid itself instead, descending; intervals come on top.
            guidance_scale: for restart="auto"; default: the config's.

        Raises:
            ConfigError: a plan that cannot run as written; the message says what to change.
        """
        self.refuse_other_models()
        given = [v is not None for v in (num_inference_steps, timesteps, sigmas)]
        if sum(given) != 1:
            raise ConfigError("give exactly one of num_inference_steps, timesteps and sigmas")
        if timesteps is not None:
            sigmas = sigma_of(self._levels, timesteps).tolist()
        if sigmas is not None:
            restart, auto = self._intervals(None, guidance_scale)
            plan = self._ended(sigmas=without_repeats(sigmas), **self._with(restart, auto))
            self._load(plan, device, None)
            return
        asked = integer("num_inference_steps", num_inference_steps, 1)
        restart, auto = self._intervals(asked if self.config.steps_are == "nfe" else None, guidance_scale)
        options = self._with(restart, auto)
        plan = self._fitted(lambda n: self._ended(**self._grid(n), **options), asked, options["solver"])
        self._load(plan, device, asked)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return `original_samples` with `noise` at the levels of `timesteps` [B] or [1], in this scheduler's scale."""
        t = torch.as_tensor(timesteps).reshape(-1).to("cpu", torch.float64).numpy()
        sigma = sigma_of(self._levels, t)
        scale = 1 / np.sqrt(1 + sigma**2) if self.scaled else np.ones_like(sigma)
        shape = (-1,) + (1,) * (original_samples.ndim - 1)
        a, b = (
            torch.from_numpy(v).to(original_samples.device, original_samples.dtype).view(shape)
            for v in (scale, scale * sigma)
        )
        return a * original_samples + b * noise

    def _intervals(self, budget: int | None, guidance_scale: float | None) -> tuple[Any, bool]:
        """Return the intervals, and whether they are the paper's for Stable Diffusion."""
        if self.config.restart != "auto":
            return self.config.restart, False
        w = guidance_scale if guidance_scale is not None else self.config.guidance_scale
        w = DEFAULT_GUIDANCE if w is None else float(w)
        found = automatic(w, budget)
        used = nearest_published(w)
        if used != w and (used, w) != (8, DEFAULT_GUIDANCE):
            self._warn(
                f"restart='auto': the paper has no intervals for guidance scale {w:g}; those for {used} are used"
            )
        if budget is not None and found != automatic(w, None):
            text = ", ".join(f"[{i.N}, {i.K}, {i.t_min:g}, {i.t_max:g}]" for i in found.intervals) or "none"
            self._warn(
                f"restart='auto': {budget} network calls do not hold the paper's intervals; used instead: {text}"
            )
        return found, True

    def _with(self, restart: RestartConfig | Any, auto: bool) -> dict[str, Any]:
        """Return the options of plans with the given intervals."""
        options = self._options(restart)
        options["restart"] = restart
        if auto:
            options["solver"] = self.config.solver or "euler"
            options["restart_solver"] = self.config.restart_solver or "heun"
        return options

    def _main_levels(self, n: int) -> tuple[float, ...]:
        return Plan.build(**self._grid(n)).grid[:-1]

    def _grid(self, n: int) -> dict[str, Any]:
        """Return the plan options of a main grid of n points."""
        return main_grid(self.config, self._levels, n, self._warn)

    def _ended(self, **options: Any) -> Plan:
        """Return the plan of `options`, which ends where final_sigmas_type says."""
        plan = Plan.build(**options)
        return plan if self.config.final_sigmas_type == "zero" else ended_at(float(self._levels[0]), plan, options)

    def refuse_other_models(self) -> None:
        """Raise ConfigError if the config is of a model of another kind, or asks for what is not supported."""
        refuse_other_kinds(self.config, type(self), self.kind)
        refuse_keys(self.config, type(self), self.kind)
