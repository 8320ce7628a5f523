r"""FlowMatchRestartScheduler: Restart for flow-matching models, Stable Diffusion 3 and Flux.

The state is x_t = (1 − t)x₀ + tε and the network predicts ε − x₀. A jump from t to t' > t is x ← a·x + √(t'² − a²t²)·ε with
a = (1 − t')/(1 − t), which has the law of x_{t'} (x_t scaled by a has signal 1 − t' and noise a·t). The Restart paper has no
flow model, so there are no published intervals: `restart=None`, the default, is the plain solver.

The main grid is v = 1 … 1/N, shifted: t = s·v/(1 + (s − 1)v) with s = `shift`, or s from μ, which the pipeline computes from
the size of the image: e^μ ("exponential", Flux) or μ ("linear"). Intervals walk the same rule.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from ...checks import integer
from ...errors import ConfigError
from ...parameterization import Parameterization, flow
from ...plan import Plan
from .adapter import STEPS_ARE, TapeScheduler, jsonable

SHIFT_TYPES = ("exponential", "linear")
REFUSED = (
    "invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling", "shift_terminal",
)  # fmt: skip


class FlowMatchRestartScheduler(TapeScheduler, SchedulerMixin, ConfigMixin):
    """Restart in a flow-matching pipeline: `FlowMatchRestartScheduler.from_config(pipe.scheduler.config, restart=…)`.

    Args:
        num_train_timesteps, shift, use_dynamic_shifting, base_shift, max_shift, base_image_seq_len, max_image_seq_len,
            time_shift_type: as in FlowMatchEulerDiscreteScheduler; they come from the model's config.
        invert_sigmas, use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, stochastic_sampling, shift_terminal: known, and
            refused when set: these grids are not supported.
        restart: intervals in any format `RestartConfig.parse` reads, with levels t in (0, 1]; None for none.
        solver: "heun" (default), "euler" or "dpm++2m". restart_solver: inside intervals.
        s_noise: factor on the std of every injected noise.
        steps_are: "nfe": num_inference_steps is the number of network calls; "main": it is N_main.
        seeds: noise of jumps from seeds, see `set_seeds`. These pipelines pass no generator to the scheduler, so without seeds
            the jumps draw from torch's global generator.
    """

    _compatibles = ["FlowMatchEulerDiscreteScheduler"]  # noqa: RUF012  # the name and type diffusers reads

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
    ) -> None:
        self.register_to_config(restart=jsonable(restart))
        if restart == "auto":
            raise ConfigError(
                "restart='auto' is the paper's recipe for Stable Diffusion; there is none for flow models: give intervals"
            )
        for name, value, allowed in (
            ("steps_are", steps_are, STEPS_ARE),
            ("time_shift_type", time_shift_type, SHIFT_TYPES),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        for name in REFUSED:
            if self.config[name]:
                raise ConfigError(f"{name} is not supported by FlowMatchRestartScheduler; leave it out")
        self._shift = float(shift)
        self._reset()
        self.set_seeds(seeds)

    @property
    def parameterization(self) -> Parameterization:
        return flow(float(self.config.num_train_timesteps))

    @property
    def shift(self) -> float:
        """The shift that is used unless use_dynamic_shifting is on."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """Another shift from the next `set_timesteps` on."""
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
            sigmas: the main grid before the shift, descending; intervals come on top. Flux always passes 1 … 1/N, which is
                read as N steps asked for.
            mu: the pipeline's dynamic shift; needed when use_dynamic_shifting is on.
            timesteps: num_train_timesteps·sigmas, instead of sigmas.

        Raises:
            ConfigError: a plan that cannot run as written; the message says what to change.
        """
        s = self._shift_of(mu)
        if timesteps is not None:
            levels = np.asarray(timesteps, dtype=np.float64) / self.config.num_train_timesteps
            if sigmas is not None and not np.allclose(levels, np.asarray(sigmas, dtype=np.float64)):
                raise ConfigError("timesteps and sigmas disagree; give one of the two")
            sigmas = levels.tolist()
        asked = num_inference_steps
        if sigmas is not None:
            given = np.asarray(sigmas, dtype=np.float64)
            if len(given) and np.allclose(given, np.linspace(1, 1 / len(given), len(given)), atol=1e-6):
                asked, sigmas = len(given), None
        if sigmas is not None:
            levels = shifted(np.asarray(sigmas, dtype=np.float64), s)
            plan = Plan.build(sigmas=tuple(levels.tolist()), **self._schedule(s), **self._options())
            self._load(plan, device, None)
            return
        asked = integer("num_inference_steps", asked, 1)

        def build(n: int) -> Plan:
            levels = shifted(np.array([1 / n, 1.0]), s)
            return Plan.build(
                steps=n, sigma_min=float(levels[0]), sigma_max=1.0, **self._schedule(s), **self._options()
            )

        self._load(self._fitted(build, asked, self.config.solver or "heun"), device, asked)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """(1 − t)·sample + t·noise at the levels of `timestep` [B] or [1], as image-to-image pipelines ask."""
        t = (
            torch.as_tensor(timestep).reshape(-1).to(sample.device, torch.float64)
            / self.config.num_train_timesteps
        )
        t = t.view((-1,) + (1,) * (sample.ndim - 1))
        return (1 - t).to(sample.dtype) * sample + t.to(sample.dtype) * noise

    def _shift_of(self, mu: float | None) -> float:
        if not self.config.use_dynamic_shifting:
            return self._shift
        if mu is None:
            raise ConfigError(
                "use_dynamic_shifting is on: set_timesteps needs mu, the shift for the size of the image"
            )
        return math.exp(mu) if self.config.time_shift_type == "exponential" else float(mu)

    def _schedule(self, s: float) -> dict[str, Any]:
        return {"schedule": "flow", "schedule_options": {"shift": s, "segment": "own"}}


def shifted(v: np.ndarray, s: float) -> np.ndarray:
    """t = s·v/(1 + (s − 1)v) (SD3, arXiv 2403.03206, eq. 23)."""
    return s * v / (1 + (s - 1) * v)
