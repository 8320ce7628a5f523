r"""Files of JSON lines: one object a line, appended whole, readable while somebody appends and after any crash.

A crash can tear the last line. The next line that is appended ends it first, so one torn line spoils no other, and
readers decide what a line means that cannot be parsed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import OutputError
from .strict_json import loads


def append(path: Path, line: str, *, durable: bool = True) -> None:
    """Append a line in one write; `durable` also flushes it to the disk.

    Raises:
        OSError: the file cannot be written.
    """
    content = line.encode() + b"\n"
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                content = b"\n" + content
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def numbered(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of the lines of a file that are not blank, counted from 1.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, text.rstrip("\n")
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error


def tail(path: Path, limit: int) -> list[str]:
    """Return the whole lines in the last `limit` bytes of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, end - limit))
            lines = file.read(limit).decode(errors="replace").split("\n")
    except (OSError, ValueError):  # a ValueError for a path with a null byte
        return []
    return lines[1:] if start else lines


def parse(text: str) -> dict[str, Any]:
    """Return the object that a line holds.

    Raises:
        ValueError: it is no JSON, holds what `strict_json` refuses, or is no object.
    """
    value = loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
