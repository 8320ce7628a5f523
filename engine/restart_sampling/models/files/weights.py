"""Networks as files: safetensors with the config and a card as JSON in the metadata.

    metadata["restart_sampling"] = {"format": 1, "config": {…}, "card": {…}}

The card is free JSON about the weights: name, licence, training, scores. Parameters are stored in float16 by default
and are float32 in memory. Buffers (noise levels, filters) and single numbers (gains) keep float32: they are few, and
rounding them would change all that they act on.

Reading is strict, because every silent difference becomes a bad sample later: exact names and shapes, floating point,
finite, and what the family of the network checks. Every failure is a CheckpointError that names the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...common.errors import CheckpointError
from ...common.strict_json import loads
from ..encoder import Encoder
from ..family import Network, build_network, family_of
from ..tensors import refuse, refuse_other_shapes, refuse_other_values
from .safetensors_file import read_header, read_tensors, write

FORMAT = 1
KEY = "restart_sampling"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def save_safetensors(
    path: str | Path, network: Network, card: Mapping[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write `network` with its config and `card` (JSON-able) to `path`, replacing it in one step.

    `dtype` (float16, bfloat16 or float32) is that of the stored parameters.

    Raises:
        CheckpointError: the card is not JSON, a weight is not finite in `dtype`, or the file cannot be written.
    """
    path = Path(path)
    if dtype not in DTYPES:
        raise CheckpointError(f"{path}: dtype must be one of {', '.join(map(str, DTYPES))}; got {dtype}")
    parameters = {name for name, _ in network.named_parameters()}
    tensors = {
        name: tensor.detach().to("cpu", dtype if name in parameters and tensor.ndim else torch.float32).contiguous()
        for name, tensor in network.state_dict().items()
    }
    refuse(path, f"not finite in {dtype}", [n for n, t in tensors.items() if not torch.isfinite(t).all()])
    write(path, tensors, KEY, {"format": FORMAT, "config": network.config, "card": dict(card)})


def load_safetensors(path: str | Path) -> tuple[Network, dict[str, Any]]:
    """Return the network (float32, CPU, eval mode) and the card in a file. Raises CheckpointError."""
    network, card = from_header(path)
    fill(network, path)
    return network, card


def from_header(path: str | Path) -> tuple[Network, dict[str, Any]]:
    """Build the network that the header of a file describes, and return it with the card; its weights are not read yet.

    Whatever can be decided from the header is: what it holds, the config, and names and shapes of all tensors.

    Raises:
        CheckpointError: what is wrong, with the path.
    """
    header = read_header(path)
    if KEY not in header.metadata:
        raise CheckpointError(
            f"{path}: the metadata has no {KEY!r} entry, so the architecture is unknown; {_advice(header.shapes)}"
        )
    try:
        meta = loads(header.metadata[KEY])
    except ValueError as error:
        raise CheckpointError(f"{path}: the metadata entry {KEY!r} is not JSON ({error})") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT or not isinstance(meta.get("card"), dict):
        found = meta.get("format") if isinstance(meta, dict) else meta
        raise CheckpointError(f"{path}: format {str(found)[:40]!r} of {KEY!r} is not supported, only {FORMAT}")
    try:
        network = build_network(meta.get("config", {}))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    _check_classes(meta["card"].get("classes", []), network.label_dim, path)
    _check_encoder(meta["card"].get("encoder"), network.shape[0], path)
    refuse_other_shapes(network.state_dict(), header.shapes, path)
    return network, meta["card"]


def fill(network: Network, path: str | Path) -> None:
    """Read the weights of `network` from a file whose header was checked. Raises CheckpointError."""
    load_weights(network, read_tensors(path), path)


def _check_classes(classes: Any, label_dim: int, path: str | Path) -> None:
    """Raise CheckpointError unless the card names no class, or each of the network's once."""
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        raise CheckpointError(f"{path}: the card's classes must be a list of names, got {str(classes)[:60]!r}")
    if classes and len(classes) != label_dim:
        raise CheckpointError(
            f"{path}: the card names {len(classes)} classes, and the network has {label_dim}; they must agree"
        )


def _check_encoder(entry: Any, channels: int, path: str | Path) -> None:
    """Raise CheckpointError unless the card has no encoder, or one that goes with samples of so many channels."""
    if entry is None:
        return
    try:
        Encoder.from_card(entry).check_channels(channels)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _advice(names: Iterable[str]) -> str:
    """Return what to do with a safetensors file that was written by another program."""
    if any(name.startswith(("model.diffusion_model.", "down_blocks.", "unet.")) for name in names):
        return (
            "this is a Stable Diffusion or diffusers file: load it with config=FOLDER (--config FOLDER), a folder of "
            "its pipeline on this machine, whose weights may be left out; nothing is downloaded"
        )
    return "make the file with save_safetensors or `restart-sampling convert`"


def load_weights(network: Network, tensors: Mapping[str, Tensor], source: str | Path, keep: bool = False) -> None:
    """Copy `tensors` (any floating dtype) into `network`, or raise CheckpointError and leave it as it was.

    Args:
        tensors: names and shapes exactly the network's, all values finite, and none that its family rules out.
        source: what to call the file in messages.
        keep: the network takes the tensors themselves, which saves the copy. For float32 tensors that are not
            referenced elsewhere.
    """
    own = network.state_dict()
    refuse_other_shapes(own, {n: t.shape for n, t in tensors.items()}, source)
    refuse_other_values(tensors, source)
    try:
        family_of(network.config).check_tensors(own, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    network.load_state_dict(dict(tensors), assign=keep)
