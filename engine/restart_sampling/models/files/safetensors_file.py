r"""Safetensors files with a JSON object of this package in their metadata: the only place that reads and writes them.

Writing is atomic: a temporary file in the same folder, flushed to the disk, renamed. What is no whole safetensors file
is a CheckpointError that says what it is instead: a web page, a Git LFS pointer, a pickle, a file cut short.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ...common.errors import CheckpointError
from ...common.files import write_atomically
from ...common.strict_json import loads

# How a pickle of protocol 2 to 5 and a zip archive begin.
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
LONGEST = 100_000_000  # bytes of a header; the safetensors library has the same bound


class Header(NamedTuple):
    """What a file says of itself before its tensors: text by key, and the shape of every tensor."""

    metadata: Mapping[str, str]
    shapes: Mapping[str, list[int]]


def read_header(path: str | Path) -> Header:
    """Read the header of a file; its tensors are not read. Raises CheckpointError."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
            return Header(file.metadata() or {}, shapes)
    except (OSError, SafetensorError) as error:
        diagnose(path, str(error))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a file, on the CPU. Raises CheckpointError."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        diagnose(path, str(error))


def write(path: Path, tensors: Mapping[str, Tensor], key: str, entry: Mapping[str, Any]) -> None:
    """Write `tensors`, with `entry` as JSON under `key` of the metadata; `path` is the old file or the whole new one.

    Raises:
        CheckpointError: the entry is no plain JSON, or the file cannot be written.
    """
    try:
        text = json.dumps(entry, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the card must be plain JSON without NaN ({error})") from None
    content = to_bytes(dict(tensors), metadata={key: text})
    try:
        write_atomically(path, lambda file: file.write(content))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror or error})") from None


def is_safetensors(head: bytes) -> bool:
    """Return whether a file that begins with `head` is a safetensors file, whole or not.

    Such a file begins with the length of its header, 8 bytes, and the header with a brace. The bytes of a length of 640
    are those with which a pickle of protocol 2 begins, so they alone do not show which it is. No pickle has a brace
    there and so small a length.
    """
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST


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
    """Return what a file of `size` bytes that begins with `head` is, if it is a usual mistake for weights."""
    start = head.lstrip().lower()
    if size == 0:
        return "the file is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page, not weights; the download address or login was wrong"
    if start.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not weights; run `git lfs pull`"
    if head.startswith(PICKLES) and not is_safetensors(head):
        return "this is a pickle or torch.save file, not safetensors; use `restart-sampling convert`"
    return None


def _truncation(path: Path, size: int) -> str | None:
    """Return what is missing, if the header can be read and promises more bytes than the file has."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > LONGEST:
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
