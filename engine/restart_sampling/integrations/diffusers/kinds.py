"""Which kind of model the config of a diffusers scheduler is of, by the class that wrote it and by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...common.errors import ConfigError

BETAS, FLOW = "betas", "flow"  # the kinds that schedulers here drive
CONTINUOUS = "models with continuous EDM noise levels"
_TOKENS, _PROTEIN = "models of discrete tokens", "models of proteins"
KINDS: dict[str, str] = {
    **dict.fromkeys(
        (
            "RestartScheduler",
            "CogVideoXDDIMScheduler",
            "CogVideoXDPMScheduler",
            "DDIMInverseScheduler",
            "DDIMParallelScheduler",
            "DDIMScheduler",
            "DDPMParallelScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepInverseScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSDEScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "LCMScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "RePaintScheduler",
            "SASolverScheduler",
            "TCDScheduler",
            "UnCLIPScheduler",
            "UniPCMultistepScheduler",
        ),
        BETAS,
    ),
    **dict.fromkeys(
        (
            "FlowMatchRestartScheduler",
            "FlowMatchEulerDiscreteScheduler",
            "FlowMatchHeunDiscreteScheduler",
            "FlowMatchLCMScheduler",
            "LTXEulerAncestralRFScheduler",
        ),
        FLOW,
    ),
    **dict.fromkeys(
        (
            "CosineDPMSolverMultistepScheduler",
            "EDMDPMSolverMultistepScheduler",
            "EDMEulerScheduler",
            "KarrasVeScheduler",
        ),
        CONTINUOUS,
    ),
    **dict.fromkeys(
        ("CMStochasticIterativeScheduler", "ConsistencyDecoderScheduler", "SCMScheduler"), "consistency models"
    ),
    **dict.fromkeys(
        (
            "AmusedScheduler",
            "BlockRefinementScheduler",
            "DiscreteDDIMScheduler",
            "EntropyBoundScheduler",
            "VQDiffusionScheduler",
        ),
        _TOKENS,
    ),
    **dict.fromkeys(
        (
            "FlowMapEulerDiscreteScheduler",
            "HeliosScheduler",
            "HeliosDMDScheduler",
            "MiniMaxH3Scheduler",
            "PiflowScheduler",
        ),
        "flow models that are sampled in another way",
    ),
    "ScoreSdeVeScheduler": "models of the VE SDE",
    "ScoreSdeVpScheduler": "models of the continuous VP SDE",
    "DDPMWuerstchenScheduler": "models with a continuous cosine schedule",
    "IPNDMScheduler": "models told an angle for the time",
    "RFD4ProteinaScheduler": _PROTEIN,
}


def kind_of(config: Mapping[str, Any]) -> str | None:
    """Return the kind of model that `config` is of: "betas", "flow", the name of another kind, or None if unknown.

    The class that wrote the config decides, except that use_flow_sigmas makes a flow model of any. Without the name of
    its class, the keys decide.
    """
    name = config.get("_class_name")
    known = KINDS.get(name) if isinstance(name, str) else None
    if known not in (None, BETAS, FLOW):
        return known
    if config.get("sigma_data") is not None or config.get("sigma_schedule") is not None:
        return CONTINUOUS
    if config.get("timestep_type") == "continuous":
        return CONTINUOUS
    if config.get("use_flow_sigmas"):
        return FLOW
    if known is not None:
        return known
    if any(k in config for k in ("beta_schedule", "beta_start", "beta_end")) or config.get("trained_betas") is not None:
        return BETAS
    if "shift" in config and "num_train_timesteps" in config:
        return FLOW
    return None


def refuse_other_kinds(config: Mapping[str, Any], target: type, kind: str) -> None:
    """Raise ConfigError unless `config` is of a model of `kind`; the sentence names the class that drives it."""
    found = kind_of(config)
    if found == kind:
        return
    if found == FLOW:
        raise ConfigError("this config is of a flow-matching model; use FlowMatchRestartScheduler")
    if found == BETAS:
        raise ConfigError("this config is of a model with DDPM betas; use RestartScheduler")
    if found is None:
        needs = "beta_schedule or trained_betas" if kind == BETAS else "shift and num_train_timesteps"
        raise ConfigError(
            f"this config does not say what the noise levels of its model are; {target.__name__} needs {needs}"
        )
    article = "of a model with" if found == CONTINUOUS else "of"
    what = found.removeprefix("models with ") if found == CONTINUOUS else found
    raise ConfigError(
        f"this config is {article} {what}, which {target.__name__} does not drive; make an rs.Denoiser of its network"
    )
