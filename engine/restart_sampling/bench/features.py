r"""Feature extractors for quality: any `nn.Module`, uint8 images [n, C, H, W] → features [n, d].

| given | what it is |
|---|---|
| nothing | the shipped classifier of the bundled model: 64 features, "FD-classifier" |
| `package.module:factory` | a callable of yours that returns the module |
| `FILE.pt`, `FILE.jit` | a TorchScript file; loading it runs the code in it, so it must be yours or trusted |

The Fréchet distance is called FID only with the Inception network of its paper and 50,000 images; see docs/quality.md.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, RestartTypeError, RestartValueError

BUNDLED = "fashion-mnist"


class Features(nn.Module):
    """A feature extractor in the form torchmetrics asks for: it knows `num_features`.

    Args:
        network: uint8 [n, C, H, W] → [n, d].
        name: how rows name it.
        sample: one image uint8 [C, H, W] of the kind it will see, to count features with.

    Raises RestartError when the network does not give finite [n, d].
    """

    def __init__(self, network: nn.Module, name: str, sample: Tensor) -> None:
        super().__init__()
        self.network, self.name = network.eval(), name
        self.num_features = self(sample[None].repeat(2, 1, 1, 1)).shape[1]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Float32 [n, num_features]."""
        found = self.network(images)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise RestartTypeError(
                f"features {self.name!r} must map uint8 {tuple(images.shape)} to [{len(images)}, d], got {shape}"
            )
        if not bool(torch.isfinite(found).all()):
            raise RestartValueError(
                f"features {self.name!r} gave NaN or infinite values; distances would mean nothing"
            )
        return found.float()


class _Penultimate(nn.Module):
    """The features of the shipped classifier."""

    classifier: Any

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Any:
        return self.classifier.features(images.float() / 127.5 - 1)


class Classes(nn.Module):
    """The shipped classifier on uint8 images: logits [n, 10]."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(images.float() / 127.5 - 1)


def bundled() -> tuple[nn.Module, nn.Module]:
    """(feature extractor, classifier) of the bundled model."""
    from ..models.registry import DATA
    from ..training.classifier import load_classifier

    classifier = load_classifier(DATA / "fashion-mnist-classifier.safetensors")
    return _Penultimate(classifier), Classes(classifier)


def load_features(text: str) -> nn.Module:
    """The module that `text` names; see the module's table."""
    path = Path(text)
    if path.suffix in (".pt", ".jit"):
        if not path.exists():
            raise CheckpointError(
                f"there is no file {text}; give a TorchScript file or package.module:factory"
            )
        try:
            module: Any = torch.jit.load(text, map_location="cpu")
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{text} is not a TorchScript file ({reason}); save one with torch.jit.save"
            ) from None
        return module
    name, _, attribute = text.partition(":")
    if not attribute:
        raise RestartValueError(
            f"features must be package.module:factory or a TorchScript file, got {text!r}"
        )
    try:
        made = getattr(importlib.import_module(name), attribute)()
    except (ImportError, AttributeError) as error:
        raise RestartValueError(f"features {text!r} cannot be made: {error}") from error
    if not isinstance(made, nn.Module):
        raise RestartTypeError(f"features {text!r} must return an nn.Module, got {type(made).__name__}")
    return made
