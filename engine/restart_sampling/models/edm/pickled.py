r"""EDM and PFGM++ networks in the pickles of their authors: from a description of the file's modules to our config.

The arguments and the stored attributes of the outer network go through the same checks as every other config. What the
formulas depend on and the file says of itself is compared as well: the class and the arguments of the U-Net, and in
every block the skip scale, the heads, the eps and the groups. So a fork with other formulas is refused as far as its
data shows it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch import nn

from ..family import complete_config
from ..files.pickles.limits import Refused, shown
from ..files.pickles.modules import Found, Module
from .config import COMMON, EARLY, unet_arguments
from .layers import Block, GroupNorm

OLD_NAMES = {"pfgmv2": "pfgmpp"}  # arguments of early PFGM++ sources
# Arguments of the outer network that some forks pass on. The outer network has refused those that matter, and the U-Net
# does not use them.
PASSED_ON = ("pfgmpp", "D", *OLD_NAMES, *EARLY)


def config_of(found: Found, own: Collection[str], outputs: int) -> dict[str, Any]:
    """Return the complete config of the described network.

    Args:
        own: entries of its preconditioning. outputs: output channels of its U-Net over img_channels.

    Raises:
        CheckpointError, Refused: it is not one of our networks.
    """
    root = found.modules[""]
    given = _renamed(root.kwargs, root)
    names = (*COMMON, *own, "pfgmpp", *OLD_NAMES, *EARLY)
    stored = {name: root.value(name) for name in names}
    stored = _renamed({n: v for n, v in stored.items() if v is not None and v is not ...}, root)
    for name in sorted(given.keys() & stored.keys() - {"use_fp16"}):
        if given[name] != stored[name]:
            raise Refused(f"the network says two different things about its {name}", root.at)
    merged = given | stored
    if not merged.get("pfgmpp"):  # some forks store both in every network, where they mean nothing
        merged = {n: v for n, v in merged.items() if n not in ("pfgmpp", "D") or n in own}
    if type(merged.get("D")) is float and merged["D"].is_integer():
        merged["D"] = int(merged["D"])
    config = complete_config({"class_name": root.class_name, **merged})
    _compare_unet(found.modules.get("model"), config, outputs, root)
    return config


def _renamed(values: dict[str, Any], module: Module) -> dict[str, Any]:
    """Return arguments or attributes under their present names."""
    result = dict(values)
    for old, new in OLD_NAMES.items():
        if old in result:
            value = result.pop(old)
            if result.setdefault(new, value) != value:
                raise Refused(f"the network says two different things about its {new}", module.at)
    return result


def _compare_unet(model: Module | None, config: dict[str, Any], outputs: int, root: Module) -> None:
    """Raise Refused unless class and arguments of the inner network are those that the outer one's config means."""
    if model is None:
        raise Refused("the network has no inner network under the name model", root.at)
    if model.class_name != config["model_type"]:
        raise Refused(
            f"the inner network is a {shown(model.class_name)}, but a {config['model_type']} is due", model.at
        )
    C = config["img_channels"]
    sizes = {name: config[name] for name in ("img_resolution", "label_dim")}
    due = {"in_channels": C, "out_channels": C * outputs, **sizes, **unet_arguments(config)}
    for name, value in model.kwargs.items():
        if name in due and due[name] != value:
            raise Refused(f"inner and outer network say different things about {name}", model.at)
        if name not in due and name not in PASSED_ON and value:
            raise Refused(f"the inner network has the argument {shown(name)}, which is not supported", model.at)


def compare_blocks(network: nn.Module, found: Found) -> None:
    """Raise Refused where a block or a norm of the file says of itself what ours does not do."""
    for path, module in network.named_modules():
        said = found.attributes.get(path, {})
        due: dict[str, float] = {}
        if isinstance(module, Block):
            due = {"skip_scale": module.w, "num_heads": module.heads, "adaptive_scale": module.adm}
        elif isinstance(module, GroupNorm):
            due = {"eps": module.eps, "num_groups": module.groups}
        for name, value in due.items():
            if name not in said:
                continue
            given = said[name]
            if type(given) not in (int, float, bool) or not math.isclose(given, value, rel_tol=1e-6):
                raise Refused(f"{name} of {path} is not that of this kind of network", found.modules[path].at)
