r"""From a description to our own network: the config, the weights, and the notes that a user should read.

Nothing of the file's own code takes part. The class name picks a family of our networks, the family turns arguments and
attributes into a config that passes the same checks as every other, and names, shapes and values of the tensors must be
exactly those of the network that results.

The network is built with weights that have shapes and no memory (torch's meta device). Only when names and shapes are
those in the file are its tensors made, and become the weights: a config cannot ask for more memory than the file has
bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ...family import Network, Pickled, build_network, known
from ...tensors import refuse, refuse_other_shapes
from ..weights import load_weights
from .limits import Refused, shown
from .modules import Found, Module


def root_of(found: Found) -> Module:
    """Return the outermost object. Raises Refused if the network is something else."""
    root = found.modules.get("")
    if root is None:
        raise Refused("the network is not a persistent object")
    return root


def pickled_by(found: Found) -> Pickled:
    """Return how the family of the described network is read. Raises Refused if there is no such family."""
    root = root_of(found)
    readable = {name: family.pickled for name, family in known().items() if family.pickled is not None}
    if root.class_name in readable:
        return readable[root.class_name]
    names = ", ".join(readable)
    raise Refused(f"a network of the class {shown(root.class_name)} is not supported, only {names}", root.at)


def build(found: Found, config: dict[str, Any], source: str) -> Network:
    """Return the network with its weights, float32, on the CPU.

    Raises:
        CheckpointError: names the file as `source`. Refused: something that formulas depend on is not ours.
    """
    with _WeightsWithoutMemory():
        network = build_network(config)
    refuse_other_shapes(network.state_dict(), {n: t.size for n, t in found.tensors.items()}, source)
    whole = [n for n, t in found.tensors.items() if not getattr(torch, t.dtype).is_floating_point]
    refuse(source, "not floating point", whole)
    pickled_by(found).compare(network, found)
    load_weights(network, pickled_by(found).restored(_AsAsked(found)), source, keep=True)
    return network


class _AsAsked(Mapping[str, torch.Tensor]):
    """The tensors of a description, each made whenever it is asked for.

    They are converted one after the other, so half-precision files need no second copy of all their tensors.
    """

    def __init__(self, found: Found) -> None:
        self.specs = found.tensors

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.specs[name].make()

    def __iter__(self) -> Iterator[str]:
        return iter(self.specs)

    def __len__(self) -> int:
        return len(self.specs)


class _WeightsWithoutMemory(TorchFunctionMode):
    """Makes torch.zeros and torch.ones, with which layers make their weights, on the meta device.

    Computed buffers stay real. This is not torch.device("meta"), which takes arange along, whose implementation there
    imports sympy, and that takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.zeros, torch.ones):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def notes_of(found: Found, key: str) -> list[str]:
    """Return what a user should know before trusting the samples, one line each."""
    notes = []
    pickled = pickled_by(found)
    unknown = [s for s in found.sources if s not in pickled.sources]
    if unknown:
        notes.append(
            f"the source text in the file (SHA-256 {unknown[0][:12]}…) is not a known version of {pickled.title}: "
            "the network was built from its names and shapes, and its results may differ from those of that source"
        )
    if key == "net":
        notes.append(
            "the file has no averaged weights (ema); these are the raw ones of a training state, which draw worse"
        )
    return notes
