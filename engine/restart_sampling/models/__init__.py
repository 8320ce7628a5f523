"""From a file to a Denoiser. Loading by name is `restart_sampling.load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.lazy import lazy

if TYPE_CHECKING:
    from .edm.networks import EDMNetwork as EDMNetwork
    from .family import Network as Network
    from .family import build_network as build_network
    from .files.weights import load_safetensors as load_safetensors
    from .files.weights import save_safetensors as save_safetensors

__getattr__, __dir__ = lazy(
    __name__,
    {
        "EDMNetwork": "edm.networks",
        "Network": "family",
        "build_network": "family",
        "load_safetensors": "files.weights",
        "save_safetensors": "files.weights",
    },
)
