"""Networks as files: safetensors with the config and a card as JSON in the metadata.

    metadata["restart_sampling"] = {"format": 1, "config": {…}, "card": {…}}

The card is free JSON about the weights: name, licence, training, scores. Parameters are stored in float16 by
default and are float32 in memory; buffers (noise levels, filters) keep float32, since rounding them would
change the sampler's coefficients. Writing is atomic: temporary file in the same folder, flushed to the disk,
renamed.

Reading is strict, because every silent difference becomes a bad sample later: exact names and shapes,
floating point, finite, filters as the config says. Every failure is a CheckpointError that names the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ...common.errors import CheckpointError
from ...common.files import write_atomically
from ...common.strict_json import loads
from ...common.terminal import one_line
from ..edm.networks import EDMNetwork, build_network

FORMAT = 1
KEY = "restart_sampling"
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
SHOWN = 20  # names in one message


def save_safetensors(
    path: str | Path, network: EDMNetwork, card: Mapping[str, Any], dtype: torch.dtype = torch.float16
) -> None:
    """Write `network` with its config and `card` (JSON-able) to `path`, replacing it in one step.

    `dtype` (float16, bfloat16 or float32) is that of the stored parameters. Raises CheckpointError if the
    card is not JSON, a weight is not finite in `dtype`, or the file cannot be written.
    """
    path = Path(path)
    if dtype not in DTYPES:
        raise CheckpointError(f"{path}: dtype must be one of {', '.join(map(str, DTYPES))}; got {dtype}")
    try:
        meta = json.dumps({"format": FORMAT, "config": network.config, "card": dict(card)}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the card must be plain JSON without NaN ({error})") from None
    parameters = {name for name, _ in network.named_parameters()}
    tensors = {
        name: tensor.detach().to("cpu", dtype if name in parameters else torch.float32).contiguous()
        for name, tensor in network.state_dict().items()
    }
    _refuse(path, f"not finite in {dtype}", [n for n, t in tensors.items() if not torch.isfinite(t).all()])
    write_atomic(path, to_bytes(tensors, metadata={KEY: meta}))


def load_safetensors(path: str | Path) -> tuple[EDMNetwork, dict[str, Any]]:
    """Network (float32, CPU, eval) and card written by :func:`save_safetensors`. Raises CheckpointError."""
    network, card = from_header(path)
    fill(network, path)
    return network, card


def from_header(path: str | Path) -> tuple[EDMNetwork, dict[str, Any]]:
    """Build the network that the header of a file describes, its weights not read yet, and return it with the card.

    Whatever can be decided from the header is: what it holds, the config, and names and shapes of all tensors.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        diagnose(path, str(error))
    if KEY not in metadata:
        raise CheckpointError(
            f"{path}: the metadata has no {KEY!r} entry, so the architecture is unknown; {_somebody_elses(shapes)}"
        )
    try:
        meta = loads(metadata[KEY])
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
    refuse_other_shapes(network.state_dict(), shapes, path)
    return network, meta["card"]


def fill(network: EDMNetwork, path: str | Path) -> None:
    """Read the weights of `network` from a file whose header was checked. Raises CheckpointError."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        diagnose(path, str(error))
    load_weights(network, tensors, path)


def _check_classes(classes: Any, label_dim: int, path: Path) -> None:
    """Raise CheckpointError unless the card names no class or each of the network's once."""
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        raise CheckpointError(f"{path}: the card's classes must be a list of names, got {str(classes)[:60]!r}")
    if classes and len(classes) != label_dim:
        raise CheckpointError(
            f"{path}: the card names {len(classes)} classes, and the network has {label_dim}; they must agree"
        )


def load_weights(network: EDMNetwork, tensors: Mapping[str, Tensor], source: str | Path, keep: bool = False) -> None:
    """Copy `tensors` (any floating dtype) into `network`, or raise CheckpointError and leave it as it was.

    Names and shapes must be exactly the network's, all values finite, each `resample_filter` the config's, iDDPM's
    noise levels falling to 0. With `keep` the network keeps the tensors themselves, which saves the copy: for float32
    tensors that nobody else has."""
    own = network.state_dict()
    refuse_other_shapes(own, {n: t.shape for n, t in tensors.items()}, source)
    types = [f"{n} ({t.dtype})" for n, t in tensors.items() if not t.is_floating_point()]
    _refuse(source, "not floating point", types)
    _refuse(source, "not finite (NaN or Inf)", [n for n, t in tensors.items() if not torch.isfinite(t).all()])
    filters = [n for n in own if n.endswith("resample_filter")]
    other = [n for n in filters if not torch.allclose(tensors[n].float().cpu(), own[n].cpu(), rtol=1e-3, atol=1e-4)]
    _refuse(source, "not the filter that the config describes", other)
    if (u := tensors.get("u")) is not None and not (bool((u[:-1] > u[1:]).all()) and float(u[-1]) == 0):
        raise CheckpointError(f"{source}: the noise levels u do not fall to 0")
    network.load_state_dict(dict(tensors), assign=keep)


def refuse_other_shapes(own: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], source: str | Path) -> None:
    """Raise CheckpointError unless `shapes` names exactly the tensors of `own`, in their shapes."""
    _refuse(source, "missing", own.keys() - shapes.keys())
    _refuse(source, "unexpected", shapes.keys() - own.keys())
    pairs = {n: (list(shapes[n]), list(t.shape)) for n, t in own.items()}
    _refuse(source, "of the wrong shape", [f"{n} (file {a}, network {b})" for n, (a, b) in pairs.items() if a != b])


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a set of tensors, hex: of name, dtype, shape and bytes of each, sorted by name.

    It is that of the weights alone, so a converted file has that of its original.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content`; `path` is always absent, the old file or the new one. CheckpointError on failure."""
    try:
        write_atomically(path, lambda file: file.write(content))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None


def diagnose(path: Path, reason: str) -> NoReturn:
    """Raise the CheckpointError that says what `path` is instead of a whole safetensors file."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; give the model file in it (.safetensors, .pkl or .pt)") from None
    try:
        with path.open("rb") as file:
            head = file.read(512)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    raise CheckpointError(f"{path}: {what_it_is(head, size) or _truncation(path, size) or reason}") from None


def what_it_is(head: bytes, size: int) -> str | None:
    """What a file that starts with `head` is, if it is one of the things that come in place of weights."""
    start = head.lstrip().lower()
    if size == 0:
        return "the file is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page, not weights; the download address or login was wrong"
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not weights; run `git lfs pull`"
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")):
        return "this is a pickle or torch.save file, not safetensors; use `restart-sampling convert`"
    return None


def _somebody_elses(names: Iterable[str]) -> str:
    """What to do with a safetensors file that this package did not write."""
    if any(name.startswith(("model.diffusion_model.", "down_blocks.", "unet.")) for name in names):
        return "this is a Stable Diffusion or diffusers file: load it with diffusers and sample from the pipeline"
    return "make the file with save_safetensors or `restart-sampling convert`"


def _truncation(path: Path, size: int) -> str | None:
    """What is missing, if the header can be read and promises more bytes than there are."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > 100_000_000:
            return f"not a safetensors file ({size} bytes, header length {length})"
        if size < 8 + length:
            return f"the file is incomplete: the header needs {8 + length} bytes, the file has {size}"
        try:
            header = loads(file.read(length))
            end = max(int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "not a safetensors file (the header is not readable)"
    expected = 8 + length + end
    return f"the file is incomplete: expected {expected} bytes, has {size}" if size < expected else None


def _refuse(source: str | Path, what: str, names: Iterable[str]) -> None:
    """Raise CheckpointError if there are any `names`: their number and the first of them, sorted."""
    names = sorted(names)
    if names:
        shown = ", ".join(one_line(name if len(name) <= 200 else f"{name[:200]}…") for name in names[:SHOWN])
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise CheckpointError(f"{source}: {len(names)} tensors {what}: {shown}{more}")
