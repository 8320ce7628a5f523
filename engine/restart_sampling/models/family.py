r"""A family of networks: the one record from which model files are read and written, and denoisers made.

A file names its network by the entry `class_name` of its config, and the record of that name says everything else: how
the config is checked, how the network is built, what its four coefficients are, and how its authors' pickles are read.
The records are in `models/families/`. Every file of that folder is looked into, so a new family is a new file there;
docs/adding-a-model.md shows one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..common.checks import choice
from ..common.errors import CheckpointError
from ..common.scan import records
from . import families
from .parameterization import Parameterization

if TYPE_CHECKING:
    from .files.pickles.modules import Found
    from .files.pickles.sources import Source


class Network(nn.Module):
    """A raw network F that a config describes: the base class of what families build.

    F is called as network(net_in, c_noise, class_labels) and returns F [B, *shape] in the dtype of net_in; the fused
    step widens it while loading, which saves bytes. It raises RestartTypeError or RestartValueError for a wrong dtype
    or shape.

        net_in        c_in·x [B, *shape]; its dtype (float32, bfloat16, float16, float64) is the one computed in
        c_noise       float [1], shared by the batch and cheaper, or [B]
        class_labels  float one-hot [B or 1, label_dim]; None means no class (zeros), and is the only choice when
                      label_dim is 0

    Attributes:
        config: complete; with it and the state dict the network can be built again.
        label_dim: number of classes, 0 for an unconditional network.
        class_null: class_labels of a sample without a class, in each column; None for a network that was trained on
            classes alone, which classifier-free guidance asks nothing of.
    """

    class_null: float | None = 0.0

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Check `config`. Raises CheckpointError for an unknown, missing or out-of-bounds entry."""
        super().__init__()
        self.config = complete_config(config)
        self.label_dim: int = self.config.get("label_dim", 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: here (C, H, W) of square images, by the config's `img_channels` and `img_resolution`."""
        resolution = self.config["img_resolution"]
        return self.config["img_channels"], resolution, resolution

    @property
    def augmented_dim(self) -> int | None:
        """D of a PFGM++ network, None for diffusion."""
        return None

    def constrain(self) -> None:
        """Put the weights back where training keeps them, in place; called before every step. Most need nothing."""

    def logvar(self, c_noise: Tensor) -> Tensor | None:
        """Return the logarithm of the loss's variance at c_noise [N] → [N]; None: most networks do not predict it."""
        return None

    @property
    def parameterization(self) -> Parameterization:
        """c_skip, c_out, c_in, c_noise and the noise levels that this network knows."""
        return family_of(self.config).parameterization(self)


def _widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class Pickled:
    """How a family's networks lie in the pickles that the code of their authors writes.

    Attributes:
        title: whose files they are, for messages.
        config: (description of the file's modules) → the config. Raises CheckpointError or Refused.
        compare: (network, description): raises Refused where a module of the file says of itself that its formulas are
            others.
        sources: known versions of the source text in the files, by its SHA-256.
        restored: (tensors as the file has them, each made when it is asked for) → float32 tensors.
    """

    title: str
    config: Callable[[Found], dict[str, Any]]
    compare: Callable[[nn.Module, Found], None]
    sources: Mapping[str, Source] = field(default_factory=dict)
    restored: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = _widened


@dataclass(frozen=True)
class Family:
    """A kind of network that model files hold.

    Attributes:
        class_name: the entry `class_name` of its configs, and in a pickle the class of the outermost object.
        complete: (config) → a checked copy with every default filled in, in plain JSON types. Raises CheckpointError.
            `schema.complete` does it from a table of fields.
        network: (complete config) → the network, float32, on the CPU.
        parameterization: (network) → its four coefficients and the noise levels that it knows.
        summary: (complete config) → its architecture in a few words, for `restart-sampling models inspect`.
        initialize: (network, seed): draws the initial weights in place. None: layers draw them as they are made.
        check_tensors: (the network's own tensors, those of a file): raises CheckpointError for values that the config
            rules out. Names, shapes, floating types and finite values are checked for every family.
        pickled: how pickles of its authors are read. None: they are not.
    """

    class_name: str
    complete: Callable[[Mapping[str, Any]], dict[str, Any]]
    network: Callable[[dict[str, Any]], Network]
    parameterization: Callable[[Any], Parameterization]
    summary: Callable[[Mapping[str, Any]], str] = lambda config: str(config["class_name"])
    initialize: Callable[[nn.Module, int], None] | None = None
    check_tensors: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], None] = lambda own, tensors: None
    pickled: Pickled | None = None


@cache
def known() -> dict[str, Family]:
    """Return all families by class_name: the records in `FAMILIES` of every file in `models/families/`."""
    found: dict[str, Family] = {}
    for some in records(families.__name__, families.__path__, "FAMILIES", tuple).values():
        for family in some:
            if found.setdefault(family.class_name, family) is not family:
                raise CheckpointError(f"two families of networks are called {family.class_name}; rename one of them")
    return found


def family_of(config: Mapping[str, Any]) -> Family:
    """Return the family that `config` names by its entry class_name. Raises CheckpointError."""
    if not isinstance(config, Mapping):
        raise CheckpointError(f"network config: expected an object, got {type(config).__name__}")
    name = choice("network config: class_name", config.get("class_name"), known(), error=CheckpointError)
    return known()[name]


def complete_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `config` with every default filled in, checked; plain JSON without NaN or infinity.

    Raises:
        CheckpointError: names the entry, what was given and what is allowed.
    """
    return family_of(config).complete(config)


def build_network(config: Mapping[str, Any], seed: int | None = None) -> Network:
    """Return the network that `config` describes, in eval mode, float32, on the CPU (or the default device).

    Its weights are to be loaded; with `seed` they are the initial ones, the same for the same seed. PyTorch's global
    generator is left as it was.

    Raises:
        CheckpointError: an unknown, missing or out-of-bounds entry.
    """
    family = family_of(config)
    if family.initialize is not None:
        network = family.network(dict(config))
        if seed is not None:
            family.initialize(network, seed)
    else:
        with _generator_at(seed or 0):
            network = family.network(dict(config))
    return network.eval().requires_grad_(False)


@contextmanager
def _generator_at(seed: int) -> Iterator[None]:
    """Let PyTorch's CPU generator start at `seed` inside, and put it back after."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
