"""A lock on a folder, so that two runs never write into one; the system lets go of it when its process ends."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import IO

from ..errors import OutputError

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs in one folder are then the user's to avoid
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """Held from construction to `release`; one for each worker of a run (`rank`).

    Raises OutputError naming the process that holds it.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.path = folder / f".lock-{rank}"
        self.file: IO[str] | None = None
        try:
            file = self.path.open("a+")
        except OSError as error:
            raise OutputError(f"cannot use folder {folder}: {error.strerror or error}") from error
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                holder = _holder(file)
                file.close()
                raise OutputError(
                    f"another run is writing to {folder} ({holder}); wait for it, or choose another folder"
                ) from None
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


def running(folder: Path) -> list[str]:
    """Who holds locks in a folder, "process 123 on host"; for people to read."""
    found = []
    for path in sorted(folder.glob(".lock-*")):
        try:
            with path.open("r+") as file:
                if fcntl is not None:
                    try:
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except OSError:
                        found.append(_holder(file))
        except OSError:
            continue
    return found


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        who = json.loads(file.read())
        return f"process {int(who['pid'])} on {who['host']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "its process is not known"
