"""`rs.load_plan`: a plan from any file that holds one. What the file is, is told by its content."""

from __future__ import annotations

from pathlib import Path

from ...common.errors import ConfigError
from ...plan.files import is_pickle
from ...plan.plan import Plan


def load_plan(path: str | Path) -> Plan:
    """Return the plan in a file: a plan file (`Plan.to_json`), or what LD3, AdaSDE or GITS have learned.

    It may be a best_v2.pt of LD3, a network-snapshot of AdaSDE (see learned.py), or a dp_record.txt of GITS with one
    line. No code in a file is run.

    Raises:
        ConfigError, CheckpointError: with the path, what is wrong with the file.
    """
    path = Path(path).expanduser()
    if not is_pickle(path):
        return Plan.from_file(path)
    from .learned import read  # it needs torch, which plan files do not

    try:
        return Plan.build(**read(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
