"""Snapshots of EDM2 by Python's own pickler, from live torch modules and NumPy arrays.

The modules compute nothing. They have the class names, attributes and tensors of EDM2's, and pickle as its persistent
objects do, so every opcode around them is the pickler's, torch's and NumPy's of this machine.
"""

from __future__ import annotations

import pickle
import sys
import types
from typing import Any

import numpy as np
from torch import nn

from .edm2_forge import BIAS, SCALE, VAE, Forge
from .pickle_forge import SOURCE, tree


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("a persistent object was made")


class Persistent:
    """Pickles as a call of `torch_utils.persistence._reconstruct_persistent_obj` with one dict."""

    class_name = ""

    def __reduce__(self) -> Any:
        names = ("type", "version", "module_src", "class_name", "state")
        meta = dict(zip(names, ("class", 6, SOURCE, self.class_name, self.__dict__), strict=True))
        del self.__dict__["class_name"]
        return _reconstruct_persistent_obj, (meta,)


class Module(Persistent, nn.Module):
    pass


class EasyDict(dict):  # type: ignore[type-arg]
    pass


def modules(forge: Forge, node: Any, path: str = "") -> nn.Module:
    """The live modules of a forge's network."""
    held = nn.ModuleDict() if path in ("unet.enc", "unet.dec") else Module()
    for name, value in node.items():
        where = f"{path}.{name}" if path else name
        if not isinstance(value, str):
            held.add_module(name, modules(forge, value, where))
        elif value in forge.parameters:
            held.register_parameter(name, nn.Parameter(forge.tensors[value], requires_grad=False))
        else:
            held.register_buffer(name, forge.tensors[value])
    if isinstance(held, Module):
        held.class_name = forge.class_name(path)
        for name, value in {**forge.attributes(path), **forge.arguments(path)}.items():
            setattr(held, name, value)
    return held.eval()


def snapshot(network: Any, protocol: int = 4, vae: bool = False) -> bytes:
    """A snapshot of `network`, which is one of ours, in an EasyDict with an encoder and a loss."""
    forge = Forge(network)
    encoder, loss = Persistent(), Persistent()
    encoder.class_name = "StabilityVAEEncoder" if vae else "StandardRGBEncoder"
    if vae:
        arrays = {"scale": np.float32(SCALE), "bias": np.float32(BIAS)}
        encoder.__dict__.update({"vae_name": VAE, **arrays, "batch_size": 8, "_vae": None})
    loss.class_name = "EDM2Loss"
    loss.__dict__.update({"P_mean": -0.4, "P_std": 1.0, "sigma_data": 0.5})
    content = EasyDict(encoder=encoder, dataset_kwargs=EasyDict(path="data.zip"), loss_fn=loss)
    content["ema"] = modules(forge, tree(forge.tensors))
    names = {"torch_utils.persistence": _reconstruct_persistent_obj, "dnnlib.util": EasyDict}
    before = {name: sys.modules.get(name) for name in (*names, "torch_utils", "dnnlib")}
    kept = {thing: thing.__module__ for thing in names.values()}
    try:
        for name, thing in names.items():
            sys.modules[name.split(".")[0]] = types.ModuleType(name.split(".")[0])
            sys.modules[name] = types.ModuleType(name)
            setattr(sys.modules[name], thing.__name__, thing)
            thing.__module__ = name
        return pickle.dumps(content, protocol)
    finally:
        for thing, module in kept.items():
            thing.__module__ = module
        for name, old in before.items():
            sys.modules.pop(name)
            if old is not None:
                sys.modules[name] = old
