"""How much a checkpoint may ask for. A file of any size is read in time and memory proportional to that size."""

from __future__ import annotations

from dataclasses import dataclass


class Refused(Exception):
    """A file, or a part of it, is not what it has to be. `at` is a byte of the file, or None where no byte is to blame.

    Internal: `restart_sampling.models.files.pickles.checkpoint.read` turns it into a CheckpointError with the path. The reason never
    holds content of the file, except dotted names that :func:`shown` has looked at."""

    def __init__(self, reason: str, at: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.at = reason, at


@dataclass(frozen=True)
class Limits:
    """Caps of the reader, several times what a network of ImageNet size with its Adam state needs."""

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
    """A name from a file as it may stand in a message: itself if it is a short dotted ASCII word, else what is wrong
    with it.
    """
    if isinstance(name, str) and len(name) <= 100 and name.isascii() and name.replace(".", "").isidentifier():
        return name
    return "(a name that is not a plain word)"
