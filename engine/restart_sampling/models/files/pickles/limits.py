"""How much a checkpoint may ask for, so that reading any file takes time and memory in proportion to its size."""

from __future__ import annotations

from dataclasses import dataclass


class Refused(Exception):
    """A file, or a part of it, is not what it has to be.

    `at` is the byte of the file where that shows, or None. The reason never holds content of the file, except dotted
    names that :func:`shown` has checked. It stays inside the reader: `checkpoint.guarded` turns it into a
    CheckpointError with the path.
    """

    def __init__(self, reason: str, at: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.at = reason, at


@dataclass(frozen=True)
class Limits:
    """Limits of the reader, several times what a network of ImageNet size with its Adam state needs."""

    opcodes: int = 1_000_000  # of the file's pickle; a CIFAR-10 network takes about 25,000 to 60,000
    storage_opcodes: int = 500  # of the pickles around one storage
    stack: int = 100_000  # values waiting at once; a pickler sends 1,000 items at a time
    marks: int = 1_000  # containers open at once
    text: int = 65_536  # bytes of text that are decoded; longer text (source code) stays bytes
    integer: int = 16  # bytes of a long integer
    name: int = 256  # bytes of a module name or of a global's name
    dimensions: int = 8
    depth: int = 64  # modules inside modules
    entries: int = 500_000  # parameters, buffers and modules, counted once for every way that leads to them
    members: int = 200_000  # of a zip archive


LIMITS = Limits()


def shown(name: object) -> str:
    """Return a name from a file as a message may show it: itself, or words in its place unless it is a plain name.

    A plain name is a short dotted identifier in ASCII.
    """
    if isinstance(name, str) and len(name) <= 100 and name.isascii() and name.replace(".", "").isidentifier():
        return name
    return "(a name that is not a plain word)"
