"""Locks on a folder: two runs never write into one, and one sees who is at work. The system lets go of them when their
process ends, however it ends.

    .lock-<rank>         held by each process that appends to a manifest
    .workers/<host>-<pid> held by each worker of Ray
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from ..common.errors import OutputError
from ..common.strict_json import loads

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs in one folder are then the user's to avoid
    fcntl = None  # type: ignore[assignment]

WORKERS = ".workers"
TRIES = 10


class FolderLock:
    """Held from construction to `release`; one for each worker of a run (`rank`), or of any `name`.

    Raises OutputError naming the process that holds it.
    """

    def __init__(self, folder: Path, rank: int = 0, name: str = "") -> None:
        self.path = folder / (name or f".lock-{rank}")
        self.file: IO[str] | None = None
        try:
            file = self.path.open("a+")
        except OSError as error:
            raise OutputError(f"cannot use folder {folder}: {error.strerror or error}") from error
        if not _lock(file):
            holder = _holder(file)
            file.close()
            raise OutputError(f"another run is writing to {folder} ({holder}); wait for it, or choose another folder")
        file.seek(0)
        file.truncate()
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        file.flush()
        self.file = file

    def release(self) -> None:
        """The file stays: to remove it would let a third process lock another file of that name."""
        if self.file is not None:
            self.file.truncate(0)
            self.file.close()
            self.file = None


def _lock(file: IO[str]) -> bool:
    """Take the lock. Tried for a moment: somebody who looks whether it is held holds it himself for an instant."""
    if fcntl is None:
        return True
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.02)
    return False


def worker_lock(folder: Path) -> FolderLock:
    """Held by a worker of Ray as long as it lives; what dead ones of this machine left is removed."""
    where, host = folder / WORKERS, socket.gethostname().replace(".", "_")
    where.mkdir(exist_ok=True)
    for path in where.glob(f"{host}-*"):
        with contextlib.suppress(OSError):  # an empty one may be about to be locked
            if path.stat().st_size and not held(path):
                path.unlink()
    return FolderLock(where, name=f"{host}-{os.getpid()}")


def held(path: Path) -> bool:
    """Whether some process holds this lock."""
    return _held(path) is not None


def alive(folder: Path, world: int) -> int:
    """How many workers are at work: of `world` ranks of torchrun, or of Ray's."""
    ranks = (folder / f".lock-{rank}" for rank in range(world)) if world > 1 else ()
    return sum(held(path) for path in (*ranks, *folder.glob(f"{WORKERS}/*")))


def running(folder: Path) -> list[str]:
    """Who holds locks in a folder, "process 123 on host"; for people to read."""
    paths = sorted([*folder.glob(".lock-*"), *folder.glob(f"{WORKERS}/*")])
    return [holder for path in paths if (holder := _held(path)) is not None]


def _held(path: Path) -> str | None:
    """Who holds the lock in `path`; None where nobody does."""
    try:
        with path.open("r+") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except OSError:
                    return _holder(file)
    except OSError:
        pass
    return None


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        who = loads(file.read(1000))
        return f"process {int(who['pid'])} on {who['host']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "its process is not known"
