"""Sets of tensors by name: what is wrong with one, said in a sentence, and the hash of one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..common.errors import CheckpointError
from ..common.terminal import one_line

LISTED = 20  # names in one message


def counted(what: str, names: Iterable[str]) -> str:
    """Return "3 tensors WHAT: a, b, c": their number, and the first of them in alphabetical order."""
    names = sorted(names)
    listed = ", ".join(one_line(name if len(name) <= 200 else f"{name[:200]}…") for name in names[:LISTED])
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} tensors {what}: {listed}{more}"


def refuse(source: str | Path, what: str, names: Iterable[str]) -> None:
    """Raise CheckpointError about the file `source` if there are any `names`, of tensors that are WHAT."""
    names = list(names)
    if names:
        raise CheckpointError(f"{source}: {counted(what, names)}")


def refuse_other_shapes(own: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], source: str | Path) -> None:
    """Raise CheckpointError unless `shapes` names exactly the tensors of `own`, in their shapes."""
    refuse(source, "missing", own.keys() - shapes.keys())
    refuse(source, "unexpected", shapes.keys() - own.keys())
    pairs = {n: (list(shapes[n]), list(t.shape)) for n, t in own.items()}
    refuse(source, "of the wrong shape", [f"{n} (file {a}, network {b})" for n, (a, b) in pairs.items() if a != b])


def refuse_other_values(tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise CheckpointError unless all `tensors` hold finite floating-point numbers."""
    refuse(source, "not floating point", [f"{n} ({t.dtype})" for n, t in tensors.items() if not t.is_floating_point()])
    refuse(source, "not finite (NaN or Inf)", [n for n, t in tensors.items() if not torch.isfinite(t).all()])


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a set of tensors, hex: of name, dtype, shape and bytes of each, sorted by name.

    It is that of the weights alone, so a converted file has that of its original.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
