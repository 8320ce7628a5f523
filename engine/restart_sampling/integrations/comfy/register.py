"""Restart in the drop-down list of the ordinary KSampler node.

ComfyUI has no interface for that, so this is off by default.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ...common.errors import BackendError
from .sampler import sample_restart_in_comfyui


def register(name: str = "restart", **options: Any) -> bool:
    """Add a sampler called `name` with `options` of `sample_restart` to ComfyUI's lists.

    ComfyUI finds a sampler as the function sample_<name> of comfy.k_diffusion.sampling and shows the names in
    comfy.samplers. Both lists that its versions have are extended, once.

    Returns:
        Whether the sampler was not there yet.

    Raises:
        BackendError: ComfyUI is not here, has no such lists, or has a sampler of that name itself.
    """
    try:
        import comfy.k_diffusion.sampling as functions
        import comfy.samplers as samplers
    except ImportError:
        raise BackendError("ComfyUI is not here; call register() from a file in its custom_nodes") from None
    found = (getattr(samplers, "KSAMPLER_NAMES", None), getattr(samplers, "SAMPLER_NAMES", None))
    shown = getattr(getattr(samplers, "KSampler", None), "SAMPLERS", None)
    lists = [names for names in (*found, shown) if isinstance(names, list)]
    if not lists:
        raise BackendError("this ComfyUI has no list of samplers to add to; use the node Restart Sampler")
    before = getattr(functions, f"sample_{name}", None)
    new = before is None
    if not new and getattr(before, "func", None) is not sample_restart_in_comfyui:
        raise BackendError(f"ComfyUI has a sampler {name!r} already; choose another name")
    setattr(functions, f"sample_{name}", partial(sample_restart_in_comfyui, **options))
    for names in lists:
        if name not in names:
            names.append(name)
    return new
