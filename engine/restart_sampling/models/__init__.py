"""From a file to a Denoiser. Loading by name is `restart_sampling.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .edm.networks import EDMNetwork as EDMNetwork
    from .edm.networks import build_network as build_network
    from .files.weights import load_safetensors as load_safetensors
    from .files.weights import save_safetensors as save_safetensors

_LAZY = {
    "EDMNetwork": "edm.networks",
    "build_network": "edm.networks",
    "load_safetensors": "files.weights",
    "save_safetensors": "files.weights",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
