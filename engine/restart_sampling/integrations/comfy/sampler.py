"""The sampler function that ComfyUI calls: `sample_restart` on what ComfyUI's model says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..k_diffusion import sample_restart


def sample_restart_in_comfyui(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    s_noise: float = 1.0,
    **options: Any,
) -> Tensor:
    """Run `sample_restart` with the process of the model: flow models (SD3, Flux, …) have levels t in (0, 1].

    Noise is seeded by ComfyUI's seed, sample by sample (`extra_args["seed"]`). Some models ask for noise of another
    scale; that is a factor on `s_noise`. `options` are those of `sample_restart`.
    """
    sampling = model_sampling(model)
    return sample_restart(
        model,
        x,
        sigmas,
        extra_args,
        callback,
        disable,
        process=process_of(sampling),
        s_noise=s_noise * float(getattr(sampling, "noise_scale", 1.0)),
        **options,
    )


def model_sampling(model: Any) -> Any:
    """Return ComfyUI's model_sampling object behind a sampler's `model`, or None if there is none."""
    guider = getattr(model, "inner_model", None)
    patcher = getattr(guider, "model_patcher", None)
    if patcher is not None:
        return patcher.get_model_object("model_sampling")
    return getattr(getattr(guider, "inner_model", None), "model_sampling", None)


def process_of(sampling: Any) -> str:
    """Return "flow" for models with the state (1 − t)·x₀ + t·ε, which are of ComfyUI's class CONST, else "ve"."""
    return "flow" if any(base.__name__ == "CONST" for base in type(sampling).__mro__) else "ve"
