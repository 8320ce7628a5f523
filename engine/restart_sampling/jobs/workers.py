"""Which worker of a run this process is: the only one, or one of those that torchrun started. No collectives needed."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..common.errors import RestartValueError


@dataclass(frozen=True)
class Worker:
    """Worker `rank` of `world`; `local` is its number on this machine, which chooses the device."""

    rank: int = 0
    world: int = 1
    local: int = 0


def worker(environment: dict[str, str] | None = None) -> Worker:
    """Return which worker this process is, from RANK, WORLD_SIZE and LOCAL_RANK, which torchrun sets.

    Without them it is the only one.

    Raises:
        RestartValueError: they are not integers with 0 ≤ RANK < WORLD_SIZE.
    """
    given = os.environ if environment is None else environment
    if "RANK" not in given or "WORLD_SIZE" not in given:
        return Worker()
    try:
        found = Worker(int(given["RANK"]), int(given["WORLD_SIZE"]), int(given.get("LOCAL_RANK", 0)))
    except ValueError:
        found = Worker(-1)
    if not 0 <= found.rank < found.world:
        raise RestartValueError(
            f"RANK={given['RANK']} and WORLD_SIZE={given['WORLD_SIZE']} must be integers with 0 ≤ RANK < WORLD_SIZE; "
            f"unset them, or start with torchrun"
        )
    return found
