r"""The config of a diffusers scheduler: what becomes of each of its keys.

A pipeline's scheduler config mixes three things: what the network was trained on (betas, shift, prediction), how a
scheduler places its steps (spacing, Karras levels), and settings of that scheduler's own solver. `KEYS` says for every
key what each of the two schedulers here does with it: the key is honoured, it is refused unless it is neutral, or it
does not alter noise levels. A key that is not in the table gives a warning, because its effect is unknown.

Defaults: what belongs to the model (`MODEL`) is taken from the config even if that scheduler had it by default, so a
model always keeps its betas. What places steps has the default of the scheduler that runs, as everywhere in diffusers.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...common.errors import ConfigError
from .kinds import BETAS, KINDS, refuse_other_kinds


@dataclass(frozen=True)
class Honoured:
    """The key alters levels, and is followed; `how` says in which way."""

    how: str


@dataclass(frozen=True)
class Refused:
    """The key alters levels, and is an error unless it is None or one of `neutral`; `why` ends the sentence."""

    neutral: tuple[Any, ...]
    why: str


# The key is of another scheduler's solver, of clipping, or of no meaning for this kind of model.
NO_EFFECT = None

_FLOW_GRID = "levels of this rule are not drawn for flow models"
_EDM = "it belongs to models with continuous EDM noise levels"
_OTHER_FLOW = "it belongs to flow models that are sampled in another way"

# key: (what RestartScheduler does, what FlowMatchRestartScheduler does)
KEYS: dict[str, tuple[Honoured | Refused | None, Honoured | Refused | None]] = {
    # the model
    "num_train_timesteps": (Honoured("number of the model's levels"), Honoured("the network is told this times t")),
    "beta_start": (Honoured("first β"), NO_EFFECT),
    "beta_end": (Honoured("last β"), NO_EFFECT),
    "beta_schedule": (Honoured("linear, scaled_linear, squaredcos_cap_v2, sigmoid, laplace, exp"), NO_EFFECT),
    "trained_betas": (Honoured("the β themselves"), NO_EFFECT),
    "rescale_betas_zero_snr": (Honoured("last ᾱ is 0 (2⁻²⁴)"), NO_EFFECT),
    "snr_shift_scale": (Honoured("every σ times its root"), NO_EFFECT),
    "prediction_type": (
        Honoured("epsilon, v_prediction, sample"),
        Refused(("flow_prediction",), "a flow model predicts ε − x₀, which is 'flow_prediction'"),
    ),
    "shift": (NO_EFFECT, Honoured("of the grid, and of its lowest level, as in FlowMatchEulerDiscreteScheduler")),
    "flow_shift": (NO_EFFECT, Honoured("with use_flow_sigmas: shift of the grid 1 … 1/N")),
    "use_flow_sigmas": (
        Refused((False,), "it makes the model a flow-matching one"),
        Honoured("flow_shift is the shift"),
    ),
    "use_dynamic_shifting": (NO_EFFECT, Honoured("the pipeline's mu is the shift")),
    "time_shift_type": (NO_EFFECT, Honoured("shift e^mu (exponential) or mu (linear)")),
    "base_shift": (NO_EFFECT, Honoured("read by the pipeline, which computes mu")),
    "max_shift": (NO_EFFECT, Honoured("read by the pipeline, which computes mu")),
    "base_image_seq_len": (NO_EFFECT, Honoured("read by the pipeline, which computes mu")),
    "max_image_seq_len": (NO_EFFECT, Honoured("read by the pipeline, which computes mu")),
    # places of the steps
    "timestep_spacing": (Honoured("leading, linspace, trailing"), NO_EFFECT),
    "steps_offset": (Honoured("with leading"), NO_EFFECT),
    "use_karras_sigmas": (Honoured("grid 'karras'"), Refused((False,), _FLOW_GRID)),
    "use_exponential_sigmas": (Honoured("grid 'exponential'"), Refused((False,), _FLOW_GRID)),
    "use_beta_sigmas": (Honoured("grid 'beta'"), Refused((False,), _FLOW_GRID)),
    "use_lu_lambdas": (Honoured("grid 'exponential', the same levels"), Refused((False,), _FLOW_GRID)),
    "interpolation_type": (
        Honoured("linear: the model's timesteps; log_linear: N of N + 1 levels even in ln σ"),
        NO_EFFECT,
    ),
    "sigma_min": (Honoured("lower end of a karras, exponential or beta grid"), NO_EFFECT),
    "sigma_max": (Honoured("upper end of a karras, exponential or beta grid"), NO_EFFECT),
    "lambda_min_clipped": (Honoured("the model's timesteps begin where ln(1/σ) is not below it"), NO_EFFECT),
    "final_sigmas_type": (
        Honoured("zero: the last step gives D; sigma_min: it ends at the model's lowest level"),
        Refused(("zero",), "a run ends at 0 here"),
    ),
    "shift_terminal": (NO_EFFECT, Refused((), "levels stretched to a last level are not drawn")),
    "invert_sigmas": (NO_EFFECT, Refused((False,), "levels that rise from data to noise are not walked")),
    "stochastic_sampling": (
        NO_EFFECT,
        Refused((False,), "noise at every step is another solver, 'lcm' (solver='config' takes it)"),
    ),
    # models of another kind
    "timestep_type": (Refused(("discrete",), _EDM), Refused(("discrete",), _EDM)),
    "sigma_data": (Refused((), _EDM), Refused((), _EDM)),
    "sigma_schedule": (Refused((), _EDM), Refused((), _EDM)),
    "rho": (Refused((), _EDM), Refused((), _EDM)),
    "scale_factors": (NO_EFFECT, Refused((), _OTHER_FLOW)),
    "stages": (NO_EFFECT, Refused((), _OTHER_FLOW)),
    "stage_range": (NO_EFFECT, Refused((), _OTHER_FLOW)),
    "num_policy_substeps": (NO_EFFECT, Refused((), _OTHER_FLOW)),
    "final_step_size_scale": (NO_EFFECT, Refused((), _OTHER_FLOW)),
}
KEYS |= dict.fromkeys(
    (
        # clipping of the predicted sample, and the learned variance
        "clip_sample",
        "clip_sample_range",
        "thresholding",
        "dynamic_thresholding_ratio",
        "sample_max_value",
        "variance_type",
        # where DDIM's and PNDM's last step ends: a run here ends at 0, as with Euler and DPM-Solver++
        "set_alpha_to_one",
        # other schedulers' solvers and their noise, which solver="config" reads (solvers.py)
        "algorithm_type",
        "solver_order",
        "solver_type",
        "solver_p",
        "lower_order_final",
        "euler_at_final",
        "predict_x0",
        "disable_corrector",
        "predictor_order",
        "corrector_order",
        "tau_func",
        "skip_prk_steps",
        "noise_sampler_seed",
        "eta",
        "original_inference_steps",
        "timestep_scaling",
        "upscale_mode",
    ),
    (NO_EFFECT, NO_EFFECT),
)

MODEL = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "snr_shift_scale",
    "prediction_type",
    "shift",
    "flow_shift",
    "use_flow_sigmas",
    "use_dynamic_shifting",
    "time_shift_type",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
)


def read(config: Mapping[str, Any], target: type, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of any scheduler as the scheduler class `target`, for models of `kind`, has to read it.

    Args:
        given: keys that replace those of the config.

    Raises:
        ConfigError: the model is of another kind, and the message names the right class; or a key asks for what
            `target` does not do.

    Warns:
        UserWarning: a key that is not in the table.
    """
    own = set(inspect.signature(target.__init__).parameters)  # type: ignore[misc]
    full = {**_defaults_of(config.get("_class_name")), **config}
    stated = {**full, **given}
    refuse_other_kinds(stated, target, kind)
    unstated = set(config.get("_use_default_values", ())) - set(given)
    refuse_keys({k: v for k, v in stated.items() if not (k == "prediction_type" and k in unstated)}, target, kind)
    for key in stated:
        if key not in KEYS and key not in own and not key.startswith("_"):
            warnings.warn(
                f"{target.__name__} does not know the config key {key!r}, so it is not honoured; if it alters noise "
                "levels, images will be wrong",
                UserWarning,
                stacklevel=4,
            )
    if "_use_default_values" in full:
        full["_use_default_values"] = [k for k in full["_use_default_values"] if k not in MODEL]
    return full


def refuse_keys(config: Mapping[str, Any], target: type, kind: str) -> None:
    """Raise ConfigError for the first key of `config` that the scheduler for models of `kind` cannot honour."""
    for key, value in config.items():
        use = KEYS.get(key, (NO_EFFECT, NO_EFFECT))[0 if kind == BETAS else 1]
        if isinstance(use, Refused) and value is not None and value not in use.neutral:
            raise ConfigError(f"{key} is not supported by {target.__name__}, got {value!r}: {use.why}; leave it out")


def _defaults_of(name: Any) -> dict[str, Any]:
    """Return the defaults of the model's keys in diffusers' class `name`; configs in files leave defaults out."""
    import diffusers

    source = getattr(diffusers, name, None) if isinstance(name, str) and name in KINDS else None
    if source is None:
        return {}
    parameters = inspect.signature(source.__init__).parameters
    return {k: p.default for k, p in parameters.items() if k in MODEL and p.default is not inspect.Parameter.empty}
