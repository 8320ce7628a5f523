"""`restart-sampling convert`: an EDM, EDM2 or PFGM++ checkpoint as safetensors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        Path, typer.Argument(help="A .pkl snapshot of EDM, EDM2 or PFGM++, or a .pt training state of EDM or PFGM++.")
    ],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace TARGET if it exists.")] = False,
) -> None:
    """Write the network of a checkpoint as safetensors: the same weights, no code. Nothing in SOURCE is executed.

    The licence of the weights stays that of the original; the file says where it came from.
    """
    from ..common.errors import CheckpointError, OutputError
    from ..common.files import file_sha256
    from ..common.terminal import say
    from ..models.files.weights import save_safetensors
    from ..models.registry import find, read_model
    from ..models.tensors import tensors_sha256

    source = find(source)
    if target.suffix != ".safetensors":
        raise OutputError(f"{target}: the result is safetensors, so its name must end in .safetensors")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; give --overwrite to replace it, or another name")
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise OutputError(f"{target}: is a folder, or lies in one that does not exist")
    model = read_model(source)
    if model.checkpoint is None:
        raise CheckpointError(f"{source}: is a safetensors file of this package already; load it as it is")
    tensors = tensors_sha256(model.network.state_dict())
    card = model.card | {"source": {**model.card["source"], "sha256": model.sha256}, "tensors_sha256": tensors}
    import torch

    save_safetensors(target, model.network, card, torch.float32)
    say(f"{source}  sha256 {model.sha256}")
    say(f"{target}  sha256 {file_sha256(target)}")
    say(f"tensors, the same in both  sha256 {tensors}")
    say(f"licence of the weights: {card['licence']['weights']}")
    for note in model.notes:
        say(f"note: {note}", sys.stderr)
