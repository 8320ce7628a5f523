r"""FlowMatchRestartScheduler: Restart for flow-matching models, Stable Diffusion 3 and Flux.

The state is x_t = (1 − t)x₀ + tε and the network predicts ε − x₀. A jump from t to t' > t is x ← a·x + √(t'² − a²t²)·ε
with a = (1 − t')/(1 − t), which has the law of x_{t'} (x_t scaled by a has signal 1 − t' and noise a·t). The Restart
paper has no flow model, so there are no published intervals: `restart=None`, the default, is the plain solver.

The main grid is v linear from 1 to v_min, shifted: t = s·v/(1 + (s − 1)v) with s = `shift`, or s from μ, which the
pipeline computes from the size of the image: e^μ ("exponential", Flux) or μ ("linear"). Intervals follow the same rule.
v_min is that of the model's own scheduler, so that a swap keeps the levels:

| who places the steps                                         | v_min |
|--------------------------------------------------------------|-------|
| the pipeline, with sigmas 1 … 1/N (Flux)                     | 1/N   |
| UniPC, DPM-Solver++ and others with use_flow_sigmas (Wan)    | 1/N, s = flow_shift |
| FlowMatchEulerDiscreteScheduler, static shift (SD3)          | 1/T shifted by s, and shifted once more with the grid |
| the same, dynamic shift, no sigmas given                     | 1/T   |

Of the schedulers of the second row UniPC leaves out the lowest thousandth of v and the others the highest, 1/T; here
they have one grid, 1 … 1/N.

The second shift of the third row is how the model's authors sample it: with s = 3 and N = 10 the grid ends at
t = 0.0089, while one shift of 1 … 1/N would end at 0.25."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from ...common.checks import choice, integer, real
from ...common.errors import ConfigError
from ...models.parameterization import Parameterization, flow
from ...plan.notation import restart_of
from ...plan.plan import Plan
from .adapter import TapeScheduler
from .keys import refuse_keys
from .options import STEPS_ARE, check_solvers, jsonable, without_repeats

SHIFT_TYPES = ("exponential", "linear")


class FlowMatchRestartScheduler(TapeScheduler, SchedulerMixin, ConfigMixin):
    """Restart in a flow-matching pipeline: `FlowMatchRestartScheduler.from_config(pipe.scheduler.config, restart=…)`.

    Args:
        num_train_timesteps, shift, use_dynamic_shifting, base_shift, max_shift, base_image_seq_len, max_image_seq_len,
            time_shift_type: as in FlowMatchEulerDiscreteScheduler; they come from the model's config.
        use_flow_sigmas, flow_shift: as in UniPCMultistepScheduler and others: flow_shift takes the place of shift.
        invert_sigmas, use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, stochastic_sampling, shift_terminal:
            known, and refused when set: these grids are not supported.
        restart: intervals in any format `RestartConfig.parse` reads, with levels t in (0, 1]; None for none.
            `restart_list` is another name of it.
        solver: of the main grid, any that handles flows, as in "unipc:order=2"; default: heun. In `from_config` also
            "config", or the name of a scheduler of diffusers (solvers.py).
        restart_solver: inside intervals; default: that of the main grid.
        s_noise: factor on the std of every injected noise.
        eta: scale of the noise of stochastic solvers; 0 is none.
        steps_are: "nfe": num_inference_steps is the number of network calls; "main": it is N_main.
        seeds: noise of jumps from seeds, see `set_seeds`. These pipelines pass no generator to the scheduler, so
            without seeds the jumps draw from torch's global generator.

    Raises:
        ConfigError: a value that is not allowed, or a key that is refused.
    """

    _compatibles = [  # noqa: RUF012  # the name and type diffusers reads
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler",
        "SASolverScheduler",
    ]
    kind = "flow"

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        invert_sigmas: bool = False,
        shift_terminal: float | None = None,
        use_karras_sigmas: bool | None = False,
        use_exponential_sigmas: bool | None = False,
        use_beta_sigmas: bool | None = False,
        time_shift_type: str = "exponential",
        stochastic_sampling: bool = False,
        restart: Any = None,
        solver: str | None = None,
        restart_solver: str | None = None,
        s_noise: float = 1.0,
        steps_are: str = "nfe",
        seeds: list[int] | None = None,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        restart_list: Any = None,
        eta: float = 1.0,
    ) -> None:
        restart = restart_of(restart, restart_list, None)
        self.register_to_config(restart=jsonable(restart), restart_list=None)
        if restart == "auto":
            raise ConfigError(
                "restart='auto' is the paper's recipe for Stable Diffusion; there is none for flow models: "
                "give intervals"
            )
        check_solvers(solver, restart_solver)
        choice("steps_are", steps_are, STEPS_ARE)
        choice("time_shift_type", time_shift_type, SHIFT_TYPES)
        refuse_keys(self.config, type(self), self.kind)
        for name in ("shift", "flow_shift"):
            real(name, self.config[name], 0.0, open_low=True)
        self._shift = float(flow_shift if use_flow_sigmas else shift)
        self._reset()
        self.set_seeds(seeds)

    @property
    def parameterization(self) -> Parameterization:
        """The model's parameterization."""
        return flow(float(self.config.num_train_timesteps))

    @property
    def shift(self) -> float:
        """The shift that is used unless use_dynamic_shifting is on."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """Use another shift from the next `set_timesteps` on."""
        self._shift = float(shift)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: list[float] | None = None,
        mu: float | None = None,
        timesteps: list[float] | None = None,
    ) -> None:
        """Make the plan of the next run.

        Args:
            num_inference_steps: network calls, or N_main with steps_are="main".
            sigmas: the main grid before the shift, descending; intervals come on top. Flux always passes 1 … 1/N, which
                is read as N steps asked for.
            mu: the pipeline's dynamic shift; needed when use_dynamic_shifting is on.
            timesteps: num_train_timesteps·sigmas, instead of sigmas.

        Raises:
            ConfigError: a plan that cannot run as written; the message says what to change.
        """
        s = self._shift_of(mu)
        if timesteps is not None:
            levels = np.asarray(without_repeats(timesteps)) / self.config.num_train_timesteps
            if sigmas is not None and not (
                len(levels) == len(without_repeats(sigmas)) and np.allclose(levels, without_repeats(sigmas))
            ):
                raise ConfigError("timesteps and sigmas disagree; give one of the two")
            sigmas = levels.tolist()
        asked, by_pipeline = num_inference_steps, False
        if sigmas is not None:
            given = np.asarray(without_repeats(sigmas), dtype=np.float64)
            if asked not in (None, len(given)):
                raise ConfigError(f"{asked} steps were asked for and {len(given)} levels given; give one of the two")
            if len(given) and np.allclose(given, np.linspace(1, 1 / len(given), len(given)), atol=1e-6):
                asked, by_pipeline = len(given), True
            else:
                levels = shifted(given, s)
                plan = Plan.build(sigmas=levels, **self._schedule(s), **self._options())
                self._load(plan, device, None)
                return
        asked = integer("num_inference_steps", asked, 1)
        self._grid_rule = s, by_pipeline or bool(self.config.use_flow_sigmas)

        def build(n: int) -> Plan:
            return Plan.build(**self._grid(n), **self._options())

        self._load(self._fitted(build, asked, self.config.solver or "heun"), device, asked)

    def _main_levels(self, n: int) -> tuple[float, ...]:
        return Plan.build(**self._grid(n)).grid[:-1]

    def _grid(self, n: int) -> dict[str, Any]:
        """Return the plan options of a main grid of n points (module docstring)."""
        s, to_one_nth = self._grid_rule
        if n == 1:
            return {"sigmas": (1.0,), **self._schedule(s)}
        v_min = 1 / n if to_one_nth else 1 / self.config.num_train_timesteps
        if not to_one_nth and not self.config.use_dynamic_shifting:
            v_min = float(shifted(np.float64(v_min), float(self.config.shift)))
        low = float(shifted(np.float64(v_min), s))
        return {"steps": n, "sigma_min": low, "sigma_max": 1.0, **self._schedule(s)}

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Return (1 − t)·sample + t·noise at the levels of `timestep` [B] or [1], as image-to-image pipelines ask."""
        t = torch.as_tensor(timestep).reshape(-1).to(sample.device, torch.float64) / self.config.num_train_timesteps
        t = t.view((-1,) + (1,) * (sample.ndim - 1))
        return (1 - t).to(sample.dtype) * sample + t.to(sample.dtype) * noise

    def _shift_of(self, mu: float | None) -> float:
        if not self.config.use_dynamic_shifting:
            return self._shift
        if mu is None:
            raise ConfigError("use_dynamic_shifting is on: set_timesteps needs mu, the shift for the size of the image")
        return dynamic_shift(self.config, mu)

    def _schedule(self, s: float) -> dict[str, Any]:
        return {"schedule": "flow", "schedule_options": {"shift": s, "segment": "own"}}


def shifted(v: Any, s: float) -> Any:
    """Return t = s·v/(1 + (s − 1)v) (SD3, arXiv 2403.03206, eq. 23)."""
    return s * v / (1 + (s - 1) * v)


def dynamic_shift(config: Any, mu: float) -> float:
    """Return s of a pipeline's μ, by the config's time_shift_type: e^μ, or μ itself."""
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else float(mu)
