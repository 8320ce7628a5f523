"""Files: a path holds its old content or the new one and never half of it; SHA-256 of a file; damaged archives."""

from __future__ import annotations

import hashlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

# What NumPy raises for an .npz that is damaged, cut short or something else: one list for all its readers.
NPZ_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    EOFError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
)

BLOCK = 1 << 20  # bytes that are read at a time


def temporary_name(name: str, tag: str | int | None = None) -> str:
    """Return the name under which `name` is written until it is whole; `tag` names the writer, else this process."""
    return f".{name}.{os.getpid() if tag is None else tag}.tmp"


def write_atomically(
    path: Path, write: Callable[[IO[bytes]], object], durable: bool = True, tag: str | int | None = None
) -> None:
    """Call `write(file)` on a temporary file in the folder of `path`, then rename it to `path`.

    Args:
        path: the file.
        write: writes the content.
        durable: also flush the content to the disk before the rename, which costs milliseconds: for what cannot be made
            again quickly. The name itself is on the disk after `flush_folder`.
        tag: names the writer in the name of the temporary file, by default this process.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    temporary = path.with_name(temporary_name(path.name, tag))
    try:
        with temporary.open("wb") as file:
            write(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can (not on Windows)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
