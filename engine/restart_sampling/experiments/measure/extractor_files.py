"""Files of feature extractors: weights in float16 and a card in the metadata, one .safetensors file each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ...common.errors import CheckpointError
from ...common.strict_json import loads
from ...models.files.weights import diagnose, write_atomic

Made = TypeVar("Made", bound=nn.Module)


def save(module: nn.Module, path: Path, key: str) -> None:
    """Write weights (float16) and card to a .safetensors file, in one step. Raises CheckpointError."""
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in module.state_dict().items()}
    write_atomic(path, to_bytes(tensors, metadata={key: json.dumps(module.card)}))


def load(path: str | Path, key: str, what: str, make: Callable[[dict[str, Any], dict[str, Tensor]], Made]) -> Made:
    """Return the module that :func:`save` stored under `key`, float32, eval mode.

    Args:
        what: what the file should be, for errors. make: (card, weights) → the module, its weights not loaded yet.

    Raises CheckpointError.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        diagnose(path, str(error))
    try:
        card = loads(metadata[key])
        if not isinstance(card, dict):
            raise ValueError("its card is no object")
        module = make(card, tensors)
        module.load_state_dict(tensors)
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not {what} of this package ({error})") from None
    module.card = card  # type: ignore[assignment]
    return module.eval().requires_grad_(False)
