r"""Which solver here does the steps of a diffusers scheduler: `solver="config"` of `from_config`.

    RestartScheduler.from_config(pipe.scheduler, solver="config")

takes the solver of the scheduler that the config is of, with its settings, or of the one that is named, with the
config's settings: `solver="UniPCMultistepScheduler"`. The steps are those of that scheduler on the same levels. The
levels are placed as always (keys.py), and a run ends at 0 unless final_sigmas_type says otherwise, so the orders on the
last steps above 0 are those of a run that goes on to 0. What is not done here is an error, never something similar.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...common.checks import either
from ...common.errors import ConfigError
from ...plan.levels import sd_sigmas
from ...solvers import get_solver
from .betas import model_sigmas, sigma_of
from .kinds import KINDS

FROM_CONFIG = "config"  # as `solver`: that of the config
SAID_BY_SOLVER = ("stochastic_sampling", "eta")  # keys of a config that a solver stands for


class Chosen(NamedTuple):
    """A solver as `--solver` reads it, and the scale of its noise."""

    solver: str
    eta: float = 1.0


# Schedulers whose steps no setting alters. The eta of DDIM and TCD is an argument of `step`, by default 0 and 0.3.
PLAIN = {
    "DDIMScheduler": Chosen("euler"),
    "DDIMParallelScheduler": Chosen("euler"),
    "CogVideoXDDIMScheduler": Chosen("euler"),
    "EulerDiscreteScheduler": Chosen("euler"),
    "EulerAncestralDiscreteScheduler": Chosen("euler-ancestral"),
    "HeunDiscreteScheduler": Chosen("heun"),
    "KDPM2DiscreteScheduler": Chosen("dpm2"),
    "KDPM2AncestralDiscreteScheduler": Chosen("dpm2-ancestral"),
    "LMSDiscreteScheduler": Chosen("lms:to_zero=k-diffusion"),
    "DPMSolverSDEScheduler": Chosen("dpm++sde"),
    "FlowMatchHeunDiscreteScheduler": Chosen("heun"),
    "FlowMatchLCMScheduler": Chosen("lcm"),
}


def solver_of(config: Mapping[str, Any], scheduler: str | None = None) -> Chosen:
    """Return the solver whose steps are those of a scheduler of diffusers.

    Args:
        config: of any scheduler; what it leaves out has that scheduler's defaults.
        scheduler: name of the scheduler; default: the one that the config is of.

    Raises:
        ConfigError: there is no such solver; says what to ask for instead.
    """
    name = scheduler or config.get("_class_name")
    if not isinstance(name, str):
        raise ConfigError(
            "solver='config' needs to know what scheduler the config is of, and it has no _class_name; give the "
            "scheduler itself to from_config, or name a solver"
        )
    if name in PLAIN:
        return PLAIN[name]
    if name not in RULES:
        raise _none(name, "name a solver, such as 'heun' or 'unipc'")
    return RULES[name](_Config(name, {**_defaults(name), **config}))


def is_scheduler(name: Any) -> bool:
    """Return whether `name`, as a solver, is that of a scheduler of diffusers."""
    return isinstance(name, str) and name in KINDS


@dataclass(frozen=True)
class _Config:
    """The settings of a scheduler, every one of them."""

    name: str
    values: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def allow(self, **allowed: tuple[Any, ...]) -> None:
        """Raise ConfigError unless each key is None or one of the values allowed."""
        for key, values in allowed.items():
            value = self.values.get(key)
            if value is not None and value not in values:
                what = f"it may be {either(map(repr, values))}" if values else f"leave out {key}"
                raise _none(f"{self.name} with {key}={value!r}", what)


def _none(what: str, advice: str) -> ConfigError:
    return ConfigError(f"no solver here makes the steps of {what}: {advice}")


def _defaults(name: str) -> dict[str, Any]:
    import diffusers

    source = getattr(diffusers, name, None)
    parameters = {} if source is None else inspect.signature(source.__init__).parameters
    return {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}


def _with(name: str, **options: Any) -> str:
    return get_solver(name, options).spec


def _dpm(config: _Config) -> Chosen:
    config.allow(algorithm_type=("dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver", "deis"))
    config.allow(solver_order=(1, 2, 3), solver_type=("midpoint", "heun", "logrho", "bh1", "bh2"))
    algorithm, order, lower = config["algorithm_type"], config["solver_order"], bool(config["lower_order_final"])
    kind = "heun" if config["solver_type"] == "heun" else "midpoint"  # as the others are read there
    sde = algorithm.startswith("sde")
    if sde and order == 3:
        raise _none(
            f"{config.name} with algorithm_type={algorithm!r} and solver_order=3",
            "its third order diverges, because of a sign; name 'dpm++3m-sde'",
        )
    if algorithm.endswith("dpmsolver"):
        return Chosen(_with("dpm-solver", order=order, variant="diffusers", second=kind, lower_final=lower, sde=sde))
    if order == 1:
        return Chosen(_with("sa-solver", predictor=1, corrector=0) if sde else "euler")
    if order == 2 and (sde or kind == "heun"):
        return Chosen(_with("dpm++2m-sde", variant=kind), 1.0 if sde else 0.0)
    if order == 2:
        return Chosen("dpm++2m")
    variant = "k-diffusion" if kind == "heun" else "diffusers"
    return Chosen(_with("dpm++3m", variant=variant, lower_final=lower))


def _unipc(config: _Config) -> Chosen:
    config.allow(solver_order=(1, 2, 3), solver_type=("bh1", "bh2", "midpoint", "heun", "logrho"))
    config.allow(predict_x0=(True,), disable_corrector=([], ()), solver_p=())
    variant = "bh1" if config["solver_type"] == "bh1" else "bh2"  # as the others are read there
    lower = bool(config["lower_order_final"])
    return Chosen(_with("unipc", order=config["solver_order"], variant=variant, lower_final=lower))


def _deis(config: _Config) -> Chosen:
    config.allow(solver_order=(1, 2, 3))
    order, lower = config["solver_order"], bool(config["lower_order_final"])
    return Chosen("euler" if order == 1 else _with("deis", order=order, variant="log-rho", lower_final=lower))


def _sa(config: _Config) -> Chosen:
    config.allow(tau_func=(), algorithm_type=("data_prediction",), lower_order_final=(True,))
    config.allow(predictor_order=(1, 2, 3), corrector_order=(1, 2, 3, 4))
    low, high = (0.2, 0.8) if config.values.get("use_flow_sigmas") else sigma_of(_levels(config), [200, 800])
    orders = {"predictor": config["predictor_order"], "corrector": config["corrector_order"]}
    window = {"tau_at": "start", "tau_min": float(low), "tau_max": float(high)}  # the default of tau_func
    return Chosen(_with("sa-solver", simple=True, **orders, **window))


def _ddpm(config: _Config) -> Chosen:
    config.allow(variance_type=("fixed_small", "fixed_small_log"))
    return Chosen("ddpm")


def _lcm(config: _Config) -> Chosen:
    config.allow(timestep_scaling=(10.0,))
    return _of_stable_diffusion(config, Chosen("lcm:boundary=true"))


def _of_stable_diffusion(config: _Config, chosen: Chosen) -> Chosen:
    """Return `chosen`, a solver that knows the timesteps of Stable Diffusion alone."""
    levels, known = _levels(config), sd_sigmas()
    if len(levels) != len(known) or not np.allclose(levels, known, rtol=1e-6):
        raise _none(f"{config.name} for betas other than Stable Diffusion's", "name another solver")
    return chosen


def _levels(config: _Config) -> np.ndarray:
    return model_sigmas({"snr_shift_scale": 1.0, "rescale_betas_zero_snr": False, **config.values})


RULES: dict[str, Callable[[_Config], Chosen]] = {
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _unipc,
    "DEISMultistepScheduler": _deis,
    "SASolverScheduler": _sa,
    "DDPMScheduler": _ddpm,
    "DDPMParallelScheduler": _ddpm,
    "LCMScheduler": _lcm,
    "TCDScheduler": lambda config: _of_stable_diffusion(config, Chosen("tcd", 0.3)),
    "FlowMatchEulerDiscreteScheduler": lambda config: Chosen("lcm" if config["stochastic_sampling"] else "euler"),
    "LTXEulerAncestralRFScheduler": lambda config: Chosen("euler-ancestral", float(config["eta"])),
}
