"""Files of feature extractors: weights in float16 and a card in the metadata, one .safetensors file each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from ...common.errors import CheckpointError
from ...common.strict_json import loads
from ...models.files.safetensors_file import read_header, read_tensors, write

Made = TypeVar("Made", bound=nn.Module)


def save(module: nn.Module, path: Path, key: str) -> None:
    """Write weights (float16) and card to a .safetensors file, in one step. Raises CheckpointError."""
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in module.state_dict().items()}
    write(path, tensors, key, module.card)  # type: ignore[arg-type]


def load(path: str | Path, key: str, what: str, make: Callable[[dict[str, Any], dict[str, Tensor]], Made]) -> Made:
    """Return the module that :func:`save` stored under `key`, float32, eval mode.

    Args:
        what: what the file should be, for errors. make: (card, weights) → the module, its weights not loaded yet.

    Raises CheckpointError.
    """
    header, tensors = read_header(path), read_tensors(path)
    try:
        card = loads(header.metadata[key])
        if not isinstance(card, dict):
            raise ValueError("its card is no object")
        module = make(card, tensors)
        module.load_state_dict(tensors)
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not {what} of this package ({error})") from None
    module.card = card  # type: ignore[assignment]
    return module.eval().requires_grad_(False)
