r"""What a network's samples are made of: the encoder that turned images into the network's training data.

| kind  | a sample x of the network                          | its image                                 |
|-------|----------------------------------------------------|-------------------------------------------|
| `rgb` | pixels, x = v/127.5 − 1 of v in 0 … 255            | 127.5·x + 128, cut to 0 … 255             |
| `vae` | latents of an autoencoder, x = scale·latent + bias | what it decodes (x − bias)/scale to       |

EDM2's files hold one beside the network (arXiv 2312.02696). Its autoencoder decodes to pixels in 0 … 1, and the factor
0.18215 of Stable Diffusion does not occur. Nothing here decodes: it is the record in files and in `Denoiser.info`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..common.checks import choice, real, shown
from ..common.errors import CheckpointError

KINDS = ("rgb", "vae")
NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}(/[A-Za-z0-9_.-]{1,100})?")  # as diffusers' from_pretrained takes it
CHANNELS = 64  # the most that a network's samples have


@dataclass(frozen=True)
class Encoder:
    """An encoder as data.

    Attributes:
        kind: "rgb" or "vae".
        name: of a vae's weights, such as "stabilityai/sd-vae-ft-mse".
        scale, bias: of a vae, one number for each channel of a sample.

    Raises:
        CheckpointError: says which of these is not what it has to be.
    """

    kind: str
    name: str = ""
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        choice("the encoder's kind", self.kind, KINDS, error=CheckpointError)
        if self.kind == "rgb":
            if self.name or self.scale or self.bias:
                raise CheckpointError("an encoder of the kind rgb has no name, scale or bias; leave them out")
            return
        if type(self.name) is not str or not NAME.fullmatch(self.name):
            raise CheckpointError(
                "the name of an encoder must be that of published weights, such as stabilityai/sd-vae-ft-mse"
            )
        for name in ("scale", "bias"):
            values = getattr(self, name)
            if not isinstance(values, (list, tuple)) or not 1 <= len(values) <= CHANNELS:
                raise CheckpointError(f"the encoder's {name} must be a list of 1 to {CHANNELS} numbers, one a channel")
            found = tuple(
                float(real(f"the encoder's {name}[{i}]", v, error=CheckpointError)) for i, v in enumerate(values)
            )
            if name == "scale" and 0.0 in found:
                raise CheckpointError("the encoder's scale must not be 0, since latents are divided by it")
            object.__setattr__(self, name, found)
        if len(self.scale) != len(self.bias):
            raise CheckpointError(
                f"the encoder has {len(self.scale)} scales and {len(self.bias)} biases; both are one a channel"
            )

    @classmethod
    def from_card(cls, entry: Any) -> Encoder:
        """Return the encoder that the entry `encoder` of a card describes. Raises CheckpointError."""
        if not isinstance(entry, Mapping) or not {"kind"} <= entry.keys() <= {"kind", "name", "scale", "bias"}:
            raise CheckpointError(
                f"the card's encoder must be an object of kind, name, scale and bias, got {shown(entry)}"
            )
        return cls(**entry)

    @property
    def card(self) -> dict[str, Any]:
        """The entry of a card, plain JSON: {"kind": "rgb"}, or a vae's kind, name, scale and bias."""
        if self.kind == "rgb":
            return {"kind": "rgb"}
        return {"kind": self.kind, "name": self.name, "scale": list(self.scale), "bias": list(self.bias)}

    def check_channels(self, channels: int) -> None:
        """Raise CheckpointError unless a vae's latents have as many channels as a network's samples."""
        if self.kind == "vae" and len(self.scale) != channels:
            raise CheckpointError(
                f"the encoder has latents of {len(self.scale)} channels, and the network's samples have {channels}; "
                "they must agree"
            )

    def __str__(self) -> str:
        if self.kind == "rgb":
            return "rgb: samples are pixels"
        return f"vae {self.name}: samples are latents of {len(self.scale)} channels, decoded from (x - bias)/scale"
