r"""From a description to our own network: the config, the weights, and what is to be said about them.

Nothing of the file's own code takes part. The class name picks one of our networks, the arguments go through the same
schema as every other config (`models/config.py`), and names, shapes and values of the tensors must be exactly those of
the network that results. What the formulas depend on and the file says of itself is compared as well: the arguments of
the inner network, the skip scale, the heads, the eps and the groups of every block. So a fork with other formulas is
refused as far as it shows in the data.

The network is built with weights that have shapes and no memory (torch's meta device). Only when names and shapes are
those in the file are its tensors made, and become the weights: a config cannot ask for more memory than the file has
bytes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ....common.errors import CheckpointError
from ...edm.config import CLASSES, MODEL_KEYS, MODELS, complete_config
from ...edm.layers import Block, GroupNorm
from ...edm.networks import EDMNetwork, build_network
from ..weights import load_weights, refuse_other_shapes
from .limits import Refused, shown
from .modules import Found, Module
from .sources import SOURCES

OLD_NAMES = {"pfgmv2": "pfgmpp"}  # arguments of early PFGM++ sources
SHARED = ("img_resolution", "img_channels", "label_dim", "use_fp16")
PASSED_ON = (
    "pfgmpp",
    "pfgmv2",
    "D",
    "pfgm",
    "small",
)  # the outer network's, which has refused what matters; the inner ignores them


def config_of(found: Found) -> dict[str, Any]:
    """The complete config of the described network. Raises CheckpointError or Refused if it is none of ours."""
    root = found.modules.get("")
    if root is None:
        raise Refused("the network is not a persistent object")
    if root.class_name in ("Precond", "UNet"):
        raise Refused("EDM2 networks are not supported, only those of EDM and PFGM++", root.at)
    if root.class_name not in CLASSES:
        names = ", ".join(CLASSES)
        raise Refused(f"a network of the class {shown(root.class_name)} is not supported, only {names}", root.at)
    given = _renamed(root.kwargs, root)
    stored = {n: root.value(n) for n in (*SHARED, *CLASSES[root.class_name], "pfgmpp", *OLD_NAMES, "pfgm", "small")}
    stored = _renamed({n: v for n, v in stored.items() if v is not None and v is not ...}, root)
    for name in sorted(given.keys() & stored.keys() - {"use_fp16"}):
        if given[name] != stored[name]:
            raise Refused(f"the network says two different things about its {name}", root.at)
    merged = given | stored
    allowed = CLASSES[root.class_name]
    if not merged.get("pfgmpp"):  # some forks store both in every network, where they mean nothing
        merged = {n: v for n, v in merged.items() if n not in ("pfgmpp", "D") or n in allowed}
    if type(merged.get("D")) is float and merged["D"].is_integer():
        merged["D"] = int(merged["D"])
    config = complete_config({"class_name": root.class_name, **merged})
    _compare_inner(found.modules.get("model"), config, root)
    return config


def _renamed(values: dict[str, Any], module: Module) -> dict[str, Any]:
    result = dict(values)
    for old, new in OLD_NAMES.items():
        if old in result:
            value = result.pop(old)
            if result.setdefault(new, value) != value:
                raise Refused(f"the network says two different things about its {new}", module.at)
    return result


def _compare_inner(model: Module | None, config: dict[str, Any], root: Module) -> None:
    """The inner network's class and arguments must be those that the outer one's config means."""
    if model is None:
        raise Refused("the network has no inner network under the name model", root.at)
    if model.class_name != config["model_type"]:
        raise Refused(
            f"the inner network is a {shown(model.class_name)}, but a {config['model_type']} is due", model.at
        )
    C = config["img_channels"]
    due = {
        "in_channels": C,
        "out_channels": C * (2 if config["class_name"] == "iDDPMPrecond" else 1),
        **{name: config[name] for name in ("img_resolution", "label_dim", *MODEL_KEYS, *MODELS[config["model_type"]])},
    }
    for name, value in model.kwargs.items():
        if name in due and due[name] != value:
            raise Refused(f"inner and outer network say different things about {name}", model.at)
        if name not in due and name not in PASSED_ON and value:
            raise Refused(f"the inner network has the argument {shown(name)}, which is not supported", model.at)


def build(found: Found, config: dict[str, Any], source: str) -> EDMNetwork:
    """The network with its weights, float32, on the CPU. Raises CheckpointError naming `source`, or Refused."""
    with _WeightsWithoutMemory():
        network = build_network(config)
    refuse_other_shapes(network.state_dict(), {n: t.size for n, t in found.tensors.items()}, source)
    whole = [n for n, t in found.tensors.items() if not getattr(torch, t.dtype).is_floating_point]
    if whole:
        raise CheckpointError(f"{source}: {len(whole)} tensors not floating point: {', '.join(sorted(whole)[:20])}")
    _compare_blocks(network, found)
    tensors = {name: spec.make().float() for name, spec in found.tensors.items()}
    load_weights(network, tensors, source, keep=True)
    return network


class _WeightsWithoutMemory(TorchFunctionMode):
    """Makes torch.zeros and torch.ones, with which layers make their weights, on the meta device; computed buffers stay
    real.

    Not torch.device("meta"): that takes arange along, whose implementation there imports sympy, which takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _compare_blocks(network: nn.Module, found: Found) -> None:
    """What blocks and norms say of themselves against what ours do."""
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


def notes_of(found: Found, key: str) -> list[str]:
    """What a user should know before trusting the samples."""
    notes = []
    unknown = [s for s in found.sources if s not in SOURCES]
    if unknown:
        notes.append(
            f"the source text in the file (SHA-256 {unknown[0][:12]}…) is not a known version of EDM or PFGM++: "
            "the network was built from its names and shapes, and its results may differ from those of that source"
        )
    if key == "net":
        notes.append(
            "the file has no averaged weights (ema); these are the raw ones of a training state, which draw worse"
        )
    return notes
