r"""RestartScheduler: Restart, and every solver of the engine, for diffusers models with DDPM-style betas.

The plan walks x₀ + σε with σ = √((1 − ᾱ)/ᾱ); jumps there are the paper's x ← x + √(t_max² − t_min²)·ε, which in the VP scale
√ᾱ·x of Stable Diffusion is √f·x + √(1 − f)·ε, f = ᾱ(t_max)/ᾱ(t_min) (Restart, arXiv 2306.14878, appendix C.2).

`restart="auto"` is the paper's recipe for Stable Diffusion 1.5: DDIM on the model's own timesteps, Heun inside the intervals,
which are linear in the timestep and depend on the guidance scale (Restart, Table 10):

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

from ...checks import integer
from ...errors import ConfigError
from ...parameterization import Parameterization, discrete
from ...plan import Plan
from ...restart import RestartConfig
from ...schedule import sd_sigmas
from .adapter import STEPS_ARE, TapeScheduler, jsonable
from .betas import model_range, model_sigmas, sigma_of, spaced
from .budget import DEFAULT_GUIDANCE, automatic, nearest_published

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
GRIDS = ("model", "karras", "exponential")
STATES = ("vp", "ve")


class RestartScheduler(TapeScheduler, SchedulerMixin, ConfigMixin):
    """Restart sampling in a diffusers pipeline: `pipe.scheduler = RestartScheduler.from_config(pipe.scheduler.config)`.

    Args:
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, prediction_type, timestep_spacing, steps_offset,
            rescale_betas_zero_snr, use_karras_sigmas: as in every diffusers scheduler; they come from the model's config.
        restart: intervals in any format `RestartConfig.parse` reads, None for none, or "auto" (module docstring).
        solver: solver of the main grid; default: heun, with restart="auto" euler (DDIM).
        restart_solver: solver inside intervals; default: that of the main grid, with restart="auto" heun.
        grid: "model" (the model's own timesteps, by timestep_spacing), "karras" or "exponential"; default: what
            use_karras_sigmas says.
        sigma_min, sigma_max: ends of a karras or exponential grid; default: the model's.
        s_noise: factor on the std of every injected noise.
        steps_are: "nfe": num_inference_steps is the number of network calls (of the two that guidance makes of each, one
            batch of both is counted); "main": it is N_main, and intervals come on top.
        state: "vp": the sample between two steps is what the network gets, unit scale; "ve": it is x₀ + σε, as with
            EulerDiscreteScheduler.
        guidance_scale: what restart="auto" goes by; a scheduler does not see the pipeline's. Default 7.5.
        seeds: noise of jumps from seeds, see `set_seeds`.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012  # the name and type diffusers reads

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
    ) -> None:
        self.register_to_config(restart=jsonable(restart))
        for name, value, allowed in (
            ("prediction_type", prediction_type, tuple(PREDICTIONS)),
            ("grid", grid or "model", GRIDS),
            ("steps_are", steps_are, STEPS_ARE),
            ("state", state, STATES),
        ):
            if value not in allowed:
                hint = "; flow models take FlowMatchRestartScheduler" if value == "flow_prediction" else ""
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{hint}")
        if rescale_betas_zero_snr and prediction_type == "epsilon":
            raise ConfigError(
                "rescale_betas_zero_snr needs a model that predicts v or the sample: at zero signal epsilon tells nothing; "
                "set it to False"
            )
        self._levels = model_sigmas(self.config)
        self._reset()
        self.set_seeds(seeds)

    @property
    def scaled(self) -> bool:  # type: ignore[override]
        """Whether the sample is in VP scale."""
        return bool(self.config.state == "vp")

    @property
    def parameterization(self) -> Parameterization:
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
            plan = Plan.build(sigmas=tuple(float(s) for s in sigmas), **self._with(restart, auto))
            self._load(plan, device, None)
            return
        asked = num_inference_steps
        asked = integer("num_inference_steps", asked, 1)
        restart, auto = self._intervals(asked if self.config.steps_are == "nfe" else None, guidance_scale)
        options = self._with(restart, auto)
        plan = self._fitted(lambda n: Plan.build(**self._grid(n, auto), **options), asked, options["solver"])
        self._load(plan, device, asked)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """`original_samples` at the levels of `timesteps` [B] or [1], in the scale of this scheduler's samples."""
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
        """(intervals, whether they are the paper's for Stable Diffusion)."""
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
        options = self._options(restart)
        options["restart"] = restart
        if auto:
            options["solver"] = self.config.solver or "euler"
            options["restart_solver"] = self.config.restart_solver or "heun"
        return options

    def _grid(self, n: int, auto: bool) -> dict[str, Any]:
        """Plan options of a main grid of n points."""
        c = self.config
        name = c.grid or ("karras" if c.use_karras_sigmas else "model")
        parameterization = self.parameterization
        if name != "model":
            low, high = model_range(parameterization, c.sigma_min, c.sigma_max)
            schedule = "edm" if name == "karras" else name
            return {"steps": n, "schedule": schedule, "sigma_min": low, "sigma_max": high}
        if self._is_stable_diffusion:
            # The same levels as below, and a schedule that knows the model's timesteps between them.
            options = {"spacing": c.timestep_spacing, "segment": "timestep"}
            if c.timestep_spacing == "leading":
                options["steps_offset"] = c.steps_offset
            low, high = parameterization.sigma_min, parameterization.sigma_max
            return {
                "steps": n, "schedule": "sd", "schedule_options": options, "sigma_min": low, "sigma_max": high
            }  # fmt: skip
        t = spaced(n, len(self._levels), c.timestep_spacing, c.steps_offset)
        return {"sigmas": tuple(sigma_of(self._levels, t).tolist())}

    @property
    def _is_stable_diffusion(self) -> bool:
        known = sd_sigmas()
        return len(known) == len(self._levels) and bool(np.allclose(known, self._levels, rtol=1e-9, atol=0))

    def refuse_other_models(self) -> None:
        """Settings of other schedulers that say that the model is of another kind."""
        c = self.config
        if c.get("sigma_data") is not None or c.get("timestep_type") == "continuous":
            raise ConfigError(
                "this config is of a model with continuous EDM noise levels, which RestartScheduler does not drive; "
                "make an rs.Denoiser of its network"
            )
        if c.get("use_flow_sigmas"):
            raise ConfigError("this config is of a flow-matching model; use FlowMatchRestartScheduler")
