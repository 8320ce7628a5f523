r"""Feature extractors for quality: any `nn.Module`, uint8 images [n, C, H, W] → features [n, d].

| given | what it is |
|---|---|
| nothing | the shipped classifier of the bundled model |
| a name | a shipped extractor, see shipped.py |
| `FILE.py:NAME` | a class or function without arguments, in a file of yours, that makes the module |
| `package.module:NAME` | the same in a module that can be imported from the current folder |
| `FILE.pt`, `FILE.jit` | a TorchScript file; loading it runs the code in it, so it must be yours or trusted |

The Fréchet distance is called FID only with the Inception network of its paper and 50,000 images; see docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...common.checks import did_you_mean
from ...common.errors import CheckpointError, RestartTypeError, RestartValueError
from ...common.files import file_sha256
from . import shipped, user_code


class Features(nn.Module):
    """A feature extractor in the form that torchmetrics asks for: it knows `num_features`.

    Args:
        network: uint8 [n, C, H, W] → [n, d].
        name: how rows name it.
        sample: one image uint8 [C, H, W] of the kind it will see, to count features with.

    Raises RestartError if the network does not give finite [n, d].
    """

    def __init__(self, network: nn.Module, name: str, sample: Tensor) -> None:
        super().__init__()
        self.network, self.name = network.eval(), name
        self.num_features = self(sample[None].repeat(2, 1, 1, 1)).shape[1]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return the features float32 [n, num_features] of uint8 images [n, C, H, W]."""
        shape = getattr(self.network, "image_shape", None)
        if shape is not None and tuple(images.shape[1:]) != shape:
            raise RestartValueError(
                f"{self.name} takes images of {_size(shape)}, and these are of {_size(images.shape[1:])}; convert "
                f"them, or give --features and --reference made for them"
            )
        try:
            found = self.network(images)
        except user_code.RAISED as error:
            raise RestartTypeError(
                f"features {self.name!r} failed on uint8 images {tuple(images.shape)}: {user_code.explain(error)}"
            ) from error
        if (
            not isinstance(found, Tensor)
            or found.ndim != 2
            or len(found) != len(images)
            or not found.shape[1]
            or found.is_complex()
        ):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise RestartTypeError(
                f"features {self.name!r} must map uint8 {tuple(images.shape)} to [{len(images)}, d], got {shape}"
            )
        if not bool(torch.isfinite(found).all()):
            raise RestartValueError(f"features {self.name!r} gave NaN or infinite values; distances would mean nothing")
        return found.float()


def load_features(text: str) -> nn.Module:
    """Return the module that `text` names; see the table at the top."""
    return named_features(text)[0]


def named_features(text: str) -> tuple[nn.Module, str]:
    """Return the module that `text` names, and how rows name it: a file's name ends with 12 digits of its SHA-256.

    Raises RestartError if it cannot be made.
    """
    if text in shipped.NAMES:
        return shipped.extractor(text), text
    path = Path(text).expanduser()
    if path.suffix not in (".pt", ".jit"):
        if ":" not in text and (hint := did_you_mean(text, shipped.NAMES)):
            raise RestartValueError(f"features {text!r} are not known{hint}")
        return user_code.load(text)
    if not path.exists():
        raise CheckpointError(f"there is no file {text}; give a TorchScript file or FILE.py:NAME")
    try:
        module: Any = torch.jit.load(str(path), map_location="cpu")
        digest = file_sha256(path)[:12]
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{text} is not a TorchScript file ({reason}); save one with torch.jit.save") from None
    return module, f"{path.name} {digest}"


def _size(shape: Sequence[int]) -> str:
    """Return "28×28 with 1 channel" for [C, H, W] = [1, 28, 28]."""
    return f"{shape[1]}×{shape[2]} with {shape[0]} channel{'s' * (shape[0] != 1)}"
