r"""The networks of pipelines as F(net_in, c_noise, class_labels, **conditions), what `rs.Denoiser` runs.

A family is a class in a file of networks/, and everything that differs from family to family is said there: how the
network is called, what a prompt becomes, what it is told for the time, what F is, which levels its scheduler has. The
files are scanned as solvers/ is, so a new family is a new file.

Prompts are conditions: each sample has embeddings of its own, given by a run or picked by its class from the prompts
that the pipeline was loaded with, and the null of guidance is the negative prompt. The conditions are named as the
pipelines' arguments are. Nothing depends on the number of prompts, a prompt's values do not depend on its neighbours in
a batch, and a captured or compiled network needs nothing new for another one: a mask says which tokens are real.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar

import numpy as np
from torch import nn

from ...common.errors import BackendError, ConfigError
from ...common.scan import records
from ...models.conditions import Condition
from . import networks

Shape = tuple[int, int, int]
Conditions = dict[str, Condition]
IN_PLACE = "put RestartScheduler into the pipeline instead"  # what to do with a network that does not run here
IN_PLACE_FLOW = "put FlowMatchRestartScheduler into the pipeline instead"
# Networks that cannot run with shapes and branches that stay as they are, and why.
REFUSED = {
    "HiDreamImageTransformer2DModel": "its mixture of experts reads on the host how many tokens each expert has",
    "QwenImage21Transformer2DModel": "its first step fills a cache that the later ones read",
    "Flux2Transformer2DModel": "its shift depends on the number of steps",
    "WanTransformer3DModel": "it samples videos, and two networks share the noise levels",
    "HunyuanDiT2DModel": "its two text encoders and its style need a record of their own, which is not written",
}


def with_negative(*names: str) -> tuple[str, ...]:
    """Return what an encode_prompt returns that has these of the prompt first, and then of the negative one."""
    return (*names, *(f"negative_{name}" for name in names))


class PipelineNetwork(nn.Module):
    """The network of a pipeline, shared with it; a subclass is the record of a family, and calls it as it is called.

    Attributes:
        runs: the name of the network's class in diffusers.
        text: the conditions that a prompt becomes, named as the pipelines' arguments are; empty for other networks.
        encoded: what the pipelines' encode_prompt returns, in order; "negative_…" is of the negative prompt.
        mask: which of `text` says, with 1 and 0, which tokens are real; "" for networks that take all. Prompts have one
            length with it, the pipelines' max_sequence_length, and those that are shorter are padded with zeros.
        length_multiple: of that length.
        empty: the negative prompt where none is given, if the pipeline's own call has no other.
        flow: whether it is of a flow-matching model.
        sign: of F: 1 for ε − x₀, −1 for x₀ − ε.
        to_one_nth: whether the pipelines give N steps the levels 1 … 1/N, before the shift.
        packs: whether the network's in_channels are those of patches that pipelines pack latents into.
        patch: the side of patches that are not in the network's config.
        distilled: whether guidance is distilled into it, so that it has no negative prompt.
        guidance: the argument of the pipelines' call that is the guidance scale.
        guidance_offset: the weight w of F_u + w·(F_c − F_u) is this more than that argument.
        label_dim: classes that the network itself is told.
    """

    runs: ClassVar[str]
    text: ClassVar[tuple[str, ...]] = ()
    encoded: ClassVar[tuple[str, ...]] = ()
    mask: ClassVar[str] = ""
    length_multiple: ClassVar[int] = 1
    empty: ClassVar[str] = ""
    flow: ClassVar[bool] = False
    sign: ClassVar[int] = 1
    to_one_nth: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    patch: ClassVar[int] = 1
    distilled: ClassVar[bool] = False
    guidance: ClassVar[str] = "guidance_scale"
    guidance_offset: ClassVar[float] = 0.0
    label_dim: int = 0
    net: Any

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @classmethod
    def of(cls, pipe: Any, net: Any, shape: Shape, known: Conditions, guidance: float) -> tuple[Any, Conditions]:
        """Return the network `net` of `pipe` for latents of `shape` (C, H, W), and the conditions that it is told.

        Args:
            known: the conditions of prompts, as far as they were given; empty for a network that takes no text.
            guidance: the guidance scale that a network into which guidance is distilled is told.

        Raises:
            BackendError: the network is of a kind that does not run here. ConfigError: embeddings are missing.
        """
        return cls(net), cls.told(pipe, known)

    @classmethod
    def told(cls, pipe: Any, known: Conditions) -> Conditions:
        """Return the conditions of `text`, in order. Raises ConfigError if one is missing."""
        for name in cls.text:
            if name not in known:
                raise ConfigError(f"{type(pipe).__name__} needs {name} besides prompt_embeds")
        return {name: known[name] for name in cls.text}

    @classmethod
    def as_read(cls, pipe: Any, prompt: str) -> tuple[str, int]:
        """Return the text that a pipeline's tokenizers get, up to the end of the prompt, and how many of its tokens do
        not count to the length of prompts.
        """
        return prompt, 0

    @classmethod
    def c_noise(cls, config: Any, t: np.ndarray, T: float, shift: float) -> np.ndarray:
        """Return what a network of a flow-matching model is told at times t, float64; here the timestep.

        Args:
            config: of the network.
            T: the scheduler's num_train_timesteps. shift: s of the levels, see `shift_parameter`.
        """
        return T * t

    @classmethod
    def size(cls, pipe: Any, net: Any) -> tuple[int, int]:
        """Return (H, W) of the latents where no size is given; pipelines that pack have one of their own."""
        size = getattr(pipe, "default_sample_size", 128) if cls.packs else net.config.sample_size
        return (size, size) if isinstance(size, int) else tuple(size)

    @classmethod
    def multiple(cls, net: Any) -> int:
        """Return what H and W of the latents must be multiples of."""
        return cls.patch

    @classmethod
    def patch_channels(cls, net: Any) -> int:
        """Return how many of the network's input channels one channel of the latents becomes."""
        return cls.patch**2 if cls.packs else 1

    @classmethod
    def shift_parameter(cls, config: Any, net: Any, shape: Shape) -> float:
        """Return μ of a dynamic shift for latents of `shape`: a line in the number of patches, as most pipelines do."""
        patch = cls.patch if cls.patch > 1 else int(net.config.get("patch_size", 1))
        return line(config, shape[1] * shape[2] // patch**2)


def line(config: Any, tokens: int) -> float:
    """Return μ for a number of tokens: the line through the scheduler's two, .5 at 256 and 1.15 at 4096 by default."""
    x0, x1 = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    y0, y1 = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(y0 + (y1 - y0) * (tokens - x0) / (x1 - x0))


def root(config: Any, tokens: int) -> float:
    """Return μ for a number of tokens, by their square root, as CogView4 does."""
    slope, first = config.get("max_shift", 0.75), config.get("base_shift", 0.25)
    return float(math.sqrt(tokens / config.get("base_image_seq_len", 256)) * slope + first)


@cache
def known() -> dict[str, type[PipelineNetwork]]:
    """Return the families by the class of their network: what every file of networks/ calls `NETWORK`."""
    found: dict[str, type[PipelineNetwork]] = {}
    for file, family in records(networks.__name__, networks.__path__, "NETWORK", type).items():
        if not issubclass(family, PipelineNetwork):
            raise ConfigError(f"networks/{file}.py: NETWORK must be a PipelineNetwork, got {family.__name__}")
        if found.setdefault(family.runs, family) is not family:
            raise ConfigError(f"networks/{file}.py: two families run a {family.runs}; take one of them away")
    return found


def network_of(pipe: Any) -> tuple[Any, type[PipelineNetwork]]:
    """Return the network of a pipeline, and its family. Raises BackendError if it does not run here."""
    net = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
    name = type(net).__name__
    if name in REFUSED:
        raise BackendError(f"{type(pipe).__name__} has a {name}, which does not run here: {REFUSED[name]}")
    if name not in known():
        raise BackendError(f"{type(pipe).__name__} has a {name}, and only {', '.join(known())} run here; {IN_PLACE}")
    return net, known()[name]
