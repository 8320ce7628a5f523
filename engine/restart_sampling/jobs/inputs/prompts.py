r"""Prompts of a job, from a file: checked once from end to end, then read as they are needed.

A pass over the file counts the prompts, checks each and hashes the file. Afterwards a prompt is found by reading on
from the last one that was asked for, so a job in ascending order reads the file once more, and the memory does not
depend on how many there are. A file that changes while a job runs is an error.
"""

from __future__ import annotations

import hashlib
import os
import threading
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...common.checks import did_you_mean, shown
from ...common.errors import RestartValueError
from ...common.files import file_sha256
from . import tables

COLUMNS = ("prompt", "caption", "text")  # by which a column of prompts is known, in any case
ID = "id"  # a column that names prompts, where a file has it
KEPT = 4096  # prompts that are kept, for the samples that are drawn again
LONGEST = 1 << 20  # characters


class Prompt(NamedTuple):
    """A prompt: its text, the line of the file, and the values of the other columns."""

    text: str
    line: int
    meta: dict[str, Any]


@dataclass(eq=False)
class Prompts:
    """The prompts of a file.

    Attributes:
        path, column: the file, and the column that holds them.
        count: how many there are. sha256: of the file.
    """

    path: Path
    column: str
    count: int
    sha256: str
    _stamp: tuple[int, int] = field(repr=False)
    _kept: deque[Prompt] = field(default_factory=lambda: deque(maxlen=KEPT), repr=False)
    _next: int = field(default=0, repr=False)  # number of the prompt that `_left` yields next
    _left: Iterator[Prompt] | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return self.count

    def of(self, numbers: Sequence[int]) -> list[Prompt]:
        """Return the prompts of these numbers, from 0 on.

        Raises RestartValueError if the file has changed.
        """
        with self._lock:
            return [self._at(int(number)) for number in numbers]

    def reader(self) -> Prompts:
        """Return the same prompts with a place of their own in the file, for another thread."""
        return Prompts(self.path, self.column, self.count, self.sha256, self._stamp)

    def _at(self, number: int) -> Prompt:
        first = self._next - len(self._kept)
        if first <= number < self._next:
            return self._kept[number - first]
        if self._left is None or number < first:
            self._unchanged()
            self._left, self._next = _prompts(self.path, self.column), 0
            self._kept.clear()
        while self._next <= number:
            found = next(self._left, None)
            if found is None:
                raise self._changed()
            self._kept.append(found)
            self._next += 1
        return self._kept[-1]

    def _unchanged(self) -> None:
        if _stamp(self.path) != self._stamp:
            raise self._changed()

    def _changed(self) -> RestartValueError:
        return RestartValueError(f"{self.path} has changed while the job runs; start the job again with the same file")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a file by its path: workers read it themselves, and it must still be the same."""
        return _again, (self.path, self.column, self.sha256)


def read_prompts(path: str | Path, column: str | None = None) -> Prompts:
    """Return the prompts of a file, checked.

    Args:
        column: that holds them; by default prompt, caption or text, or the only one.

    Raises:
        RestartValueError: with the line: there is no such file or column, a prompt is empty or no text, or two rows
            have one value in a column `id`.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_file():
        raise RestartValueError(f"there is no file of prompts {path}")
    stamp, sha256 = _stamp(path), file_sha256(path)
    column = _column(path, column)
    count = _count(path, column)
    if not count:
        raise RestartValueError(f"{path} holds no prompts")
    if _stamp(path) != stamp:
        raise RestartValueError(f"{path} changed while it was read; try again")
    return Prompts(path, column, count, sha256, stamp)


def _again(path: Path, column: str, sha256: str) -> Prompts:
    found = read_prompts(path, column)
    if found.sha256 != sha256:
        raise found._changed()
    return found


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise RestartValueError(f"{path} cannot be read: {error.strerror or error}") from None
    return status.st_size, status.st_mtime_ns


def _column(path: Path, asked: str | None) -> str:
    """Return the column of the prompts, by the first row."""
    _, row = next(tables.rows(path), (0, None))
    if row is None:
        raise RestartValueError(f"{path} holds no prompts")
    names = [str(name) for name in row]
    if asked is not None:
        if asked in row:
            return asked
        hint = did_you_mean(asked, names, f"its columns are {', '.join(names)}")
        raise RestartValueError(f"{path} has no column {shown(asked)}{hint}")
    for known in COLUMNS:
        if found := [name for name in names if name.lower() == known]:
            return found[0]
    if len(names) == 1:
        return names[0]
    raise RestartValueError(
        f"{path} has the columns {', '.join(names)}, and none is called {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}; "
        f"say with --prompt-column which holds the prompts"
    )


def _count(path: Path, column: str) -> int:
    """Return the number of prompts. Raises RestartValueError for the first that is none, and for two of one `id`.

    Of each id eight bytes of a digest are kept; two that are equal there are looked at in a second pass.
    """
    digests, count = array("Q"), 0
    for prompt in _prompts(path, column):
        count += 1
        if (value := prompt.meta.get(ID)) not in (None, ""):
            digests.append(_digest(value))
    found, times = np.unique(np.frombuffer(digests, np.uint64), return_counts=True)
    twice = frozenset(found[times > 1].tolist())
    lines: dict[str, int] = {}
    for prompt in _prompts(path, column) if twice else ():
        value = prompt.meta.get(ID)
        if value not in (None, "") and _digest(value) in twice:
            first = lines.setdefault(repr(value), prompt.line)
            if first != prompt.line:
                where = tables.place(path)
                raise RestartValueError(
                    f"{path}, {where} {prompt.line} has the {ID} {shown(value)} of {where} {first}; give each prompt "
                    "an id of its own, or leave the column out"
                )
    return count


def _digest(value: Any) -> int:
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest(), "little")


def _prompts(path: Path, column: str) -> Iterator[Prompt]:
    """Yield the prompts of a file, checked."""
    where = tables.place(path)
    for line, row in tables.rows(path):
        text = row.get(column)
        if not isinstance(text, str):
            said = "has no value" if text is None else f"has {shown(text)}, not text,"
            raise RestartValueError(f"{path}, {where} {line} {said} in the column {column!r}")
        text = text.strip()
        if not text:
            raise RestartValueError(
                f"{path}, {where} {line} is an empty prompt; remove the {where}, or write what is to be drawn"
            )
        if len(text) > LONGEST or "\0" in text:
            said = "has a null character" if "\0" in text else f"is longer than {LONGEST:,} characters"
            raise RestartValueError(f"{path}, {where} {line} {said}; a prompt is text")
        yield Prompt(text, line, {name: value for name, value in row.items() if name != column})
