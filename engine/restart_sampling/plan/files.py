r"""Plan files: a plan's recipe as JSON, and other files that a plan can be made of.

    {"restart_sampling_plan": 1, "config": {…}, "digest": "…", "nfe": 43, "notes": ["…"]}

`config` is what Plan.build takes, and all that counts. The digest and the number of evaluations say what it was when it
was written; a file in which they do not agree with the config is refused, and one written by hand may leave them out.
The notes are for readers.

Lines `[indices] [levels]` are a record of GITS's search (arXiv 2405.11326). What LD3 and AdaSDE have learned is in
pickles, which `rs.load_plan` reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.checks import did_you_mean, is_count, shown
from ..common.errors import ConfigError
from ..common.strict_json import loads

if TYPE_CHECKING:
    from .plan import Plan

KEY, VERSION = "restart_sampling_plan", 1
FIELDS = (KEY, "config", "digest", "nfe", "notes")
PICKLES = (b"PK\x03\x04", b"\x80")
MOST_BYTES = 2**24
RECORD = re.compile(r"\s*\[([\d\s,]+)\]\s*\[([^\[\]]+)\]\s*")


def written(plan: Plan, again: Plan) -> str:
    """Return the file of a plan; `again` is what its recipe builds.

    Raises:
        ConfigError: the recipe builds another plan: it was moved to the levels of a network, or begins lower.
    """
    if again.steps != plan.steps:
        raise ConfigError(
            "this plan was moved to the levels of a network or begins at a lower level, and a file holds the recipe "
            "alone; write the plan that it was made from"
        )
    found = {KEY: VERSION, "config": plan.config.to_dict(), "digest": plan.digest, "nfe": plan.nfe}
    try:
        return json.dumps({**found, "notes": plan.notes}, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"an option of this plan cannot be written to a file: {error}") from None


def read(given: str | bytes | Mapping[str, Any], build: Callable[..., Plan]) -> Plan:
    """Return the plan in the text of a file, or in what JSON makes of it. Raises ConfigError."""
    try:
        content = loads(given) if isinstance(given, (str, bytes)) else dict(given)
    except ValueError as error:
        raise ConfigError(f"this is no plan file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or KEY not in content or not isinstance(content.get("config"), dict):
        raise ConfigError(f"this is no plan file: it needs {KEY!r} and a 'config', got {shown(content)}")
    version = content[KEY]
    if not is_count(version) or version < 1:
        raise ConfigError(f"{KEY} must be the number {VERSION}, got {shown(version)}")
    if version > VERSION:
        raise ConfigError(
            f"the plan file has version {version}, and this package reads {VERSION}; install a newer restart-sampling"
        )
    for name in content:
        if name not in FIELDS:
            raise ConfigError(f"a plan file has no field {name!r}{did_you_mean(name, FIELDS, 'see docs/usage.md')}")
    plan = build(**content["config"])
    for name in ("digest", "nfe"):
        if name in content and content[name] != getattr(plan, name):
            raise ConfigError(
                f"the plan file says {name} {shown(content[name])}, but its config has {getattr(plan, name)}; it was "
                "edited or written by another version: leave out digest and nfe to take the config as it is"
            )
    return plan


def is_pickle(path: str | Path) -> bool:
    """Whether a file begins as those of LD3 and AdaSDE do; False if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4).startswith(PICKLES)
    except (OSError, ValueError):
        return False


def open_plan(path: str | Path, build: Callable[..., Plan]) -> Plan:
    """Return the plan in a file: a plan file or a record of GITS.

    Raises:
        ConfigError: with the path, what is wrong with it.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        if content.startswith(PICKLES):
            raise ConfigError("it is a pickle, as LD3 and AdaSDE write them; read it by rs.load_plan")
        if len(content) > MOST_BYTES:
            raise ConfigError("it is longer than a plan file can be")
        if content.lstrip().startswith(b"["):
            return build(**record(content.decode(errors="replace")))
        return read(content, build)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def record(text: str) -> dict[str, Any]:
    """Return the options in a dp_record.txt of GITS: one line, `[indices] [levels]`. Raises ConfigError."""
    lines = [line for line in text.splitlines() if line.strip()]
    found = [RECORD.fullmatch(line) for line in lines]
    if None in found:
        wrong = lines[found.index(None)]
        raise ConfigError(f"expected lines '[indices] [levels]' as GITS writes them, got {shown(wrong)}")
    if len(lines) != 1:
        lengths = ", ".join(str(len(_numbers(line[2]))) for line in found if line)
        raise ConfigError(f"it holds {len(lines)} lists, of {lengths} levels; keep the line that is to be used")
    indices, levels = (_numbers(part) for part in found[0].groups())  # type: ignore[union-attr]
    if len(indices) != len(levels):
        raise ConfigError(f"it has {len(indices)} indices and {len(levels)} levels; they must be as many")
    return {"sigmas": levels}


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise ConfigError(f"expected numbers, got {shown(text)}") from None
