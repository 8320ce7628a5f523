"""Locks on a folder: two runs never write into one, and others see which processes work there. The system releases a
lock when its process ends, however it ends.

    .lock-<rank>          held by each process that appends to a manifest
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
except ImportError:  # not a POSIX system: there the user has to avoid two runs in one folder
    fcntl = None  # type: ignore[assignment]

WORKERS = ".workers"
TRIES = 10


class FolderLock:
    """A lock on a folder, held from its construction to `release`.

    Args:
        folder: the folder.
        rank: number of a worker of the run; each has a lock of its own.
        name: another name for the file of the lock.

    Raises:
        OutputError: another process holds it, or the folder cannot be used; the message names the process.
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
        """Release the lock. Its file stays, or a third process could lock another file of that name."""
        if self.file is not None:
            self.file.truncate(0)
            self.file.close()
            self.file = None


def _lock(file: IO[str]) -> bool:
    """Take the lock and return whether it was free.

    It is tried several times, since a process that looks whether the lock is held holds it for an instant.
    """
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
    """Take the lock that a worker of Ray holds as long as it lives; remove those of dead workers of this machine."""
    where, host = folder / WORKERS, socket.gethostname().replace(".", "_")
    where.mkdir(exist_ok=True)
    for path in where.glob(f"{host}-*"):
        with contextlib.suppress(OSError):  # a lock file that is empty may be about to be locked
            if path.stat().st_size and not held(path):
                path.unlink()
    return FolderLock(where, name=f"{host}-{os.getpid()}")


def held(path: Path) -> bool:
    """Whether a process holds this lock."""
    return _held(path) is not None


def alive(folder: Path, world: int) -> int:
    """Return how many workers are alive: of `world` ranks of torchrun, or of Ray's."""
    ranks = (folder / f".lock-{rank}" for rank in range(world)) if world > 1 else ()
    return sum(held(path) for path in (*ranks, *folder.glob(f"{WORKERS}/*")))


def running(folder: Path) -> list[str]:
    """Return the processes that hold locks in a folder, each as "process 123 on host"."""
    paths = sorted([*folder.glob(".lock-*"), *folder.glob(f"{WORKERS}/*")])
    return [holder for path in paths if (holder := _held(path)) is not None]


def _held(path: Path) -> str | None:
    """Return the process that holds the lock in `path`, or None if it is free."""
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
