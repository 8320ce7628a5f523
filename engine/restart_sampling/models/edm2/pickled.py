r"""EDM2 networks in the pickles of their authors: from a description of the file's modules to our config.

As for EDM, arguments and stored attributes go through the checks of every config, and what the formulas depend on and
the file says of itself is compared: the arguments of the U-Net, the class of every module, and in every block its side,
its resampling, its heads and its balances.

Files store everything in float16, gains too. The authors' code divides a gain by √fan_in while it is a float16 scalar,
which rounds it again before it meets the float32 weight; D changes by some 1e-4. :func:`restored` does the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...common.errors import CheckpointError
from ..files.pickles.limits import Refused, shown
from ..files.pickles.modules import Found, Module
from ..files.pickles.sources import Source
from .config import INNER, OUTER, complete_config, unet_arguments
from .layers import Block, MPConv, MPFourier
from .unet import UNet

SOURCES: dict[str, Source] = {}  # no version's text has been seen
FILTER = "resample_filter"  # an argument with one value that is supported, [1, 1]
CLASSES = {UNet: "UNet", Block: "Block", MPConv: "MPConv", MPFourier: "MPFourier"}  # ours → the name in a file
GAINS = {"emb_gain": "emb_linear", "out_gain": "out_conv"}  # a gain → the layer whose weight it multiplies
STORED = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data")  # attributes of Precond


def config_of(found: Found) -> dict[str, Any]:
    """Return the complete config of the described network. Raises CheckpointError, Refused if it is not EDM2's."""
    root = found.modules[""]
    given = _supported(root)
    stored = {name: root.value(name) for name in STORED}
    for name, value in stored.items():
        if value is ... or (name != "use_fp16" and value is not None and given.get(name, value) != value):
            raise Refused(f"the network says two different things about its {name}", root.at)
    config = complete_config(
        {"class_name": root.class_name, **given, **{n: v for n, v in stored.items() if v is not None}}
    )
    unet = found.modules.get("unet")
    if unet is None or unet.class_name != "UNet":
        raise Refused("the network has no inner network of the class UNet under the name unet", root.at)
    due = unet_arguments(config)
    for name, value in _supported(unet).items():
        if name not in due or due[name] != value:
            raise Refused(f"inner and outer network say different things about {shown(name)}", unet.at)
    return config


def _supported(module: Module) -> dict[str, Any]:
    """Return the arguments of a module without the filter. Raises Refused for another filter than [1, 1]."""
    given = module.kwargs
    if given.pop(FILTER, [1, 1]) != [1, 1]:
        raise Refused(f"{FILTER} must be [1, 1], the only one that is supported", module.at)
    unknown = sorted(given.keys() - {**OUTER, **INNER}.keys())
    if unknown:
        raise Refused(f"the network has the argument {shown(unknown[0])}, which is not supported", module.at)
    return {name: None if value == math.inf else value for name, value in given.items()}


def compare_blocks(network: nn.Module, found: Found) -> None:
    """Raise Refused where a module of the file says of itself what ours does not do."""
    ours = {path: module for path, module in network.named_modules() if type(module) in CLASSES}
    for path, file in found.modules.items():
        if path and path not in ours:
            raise Refused(
                f"the network has a {shown(file.class_name)} called {shown(path)}, which ours has not", file.at
            )
    for path, module in ours.items():
        file = found.modules.get(path, found.modules[""])
        if file.class_name != CLASSES[type(module)]:
            raise Refused(f"{path} is not of the class {CLASSES[type(module)]}", file.at)
        due: dict[str, Any] = {}
        if isinstance(module, Block):
            due = {
                "flavor": "dec" if module.decoder else "enc",
                "resample_mode": module.mode,
                "num_heads": module.heads,
                FILTER: [1, 1],
                **{name: getattr(module, name) for name in ("res_balance", "attn_balance", "clip_act")},
            }
        elif isinstance(module, UNet):
            due = {name: getattr(module, name) for name in ("label_balance", "concat_balance")}
        for name, value in due.items():
            said = file.value(name)
            if name in file.state and not _equal(said, value):
                raise Refused(f"{name} of {path} is not that of this kind of network", file.at)


def _equal(said: Any, value: Any) -> bool:
    if isinstance(value, float) and type(said) in (int, float):
        return math.isclose(said, value, rel_tol=1e-6)
    return bool(said == value) or (value is None and said == math.inf)


def restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's tensors in float32, half-precision gains rounded as the authors' code rounds them.

    Raises:
        CheckpointError: a gain has no layer.
    """
    found: dict[str, Tensor] = {}
    gains: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found[name] = tensor.float()
        if tensor.dtype in (torch.float16, torch.bfloat16) and name.rpartition(".")[2] in GAINS:
            gains[name] = tensor
    for name, tensor in gains.items():
        path, _, last = name.rpartition(".")
        weight = found.get(f"{path}.{GAINS[last]}.weight")
        if weight is None:
            raise CheckpointError(f"{name} has no {GAINS[last]}")
        root = math.sqrt(weight[0].numel())
        found[name] = (tensor / root).float() * root
    return found
