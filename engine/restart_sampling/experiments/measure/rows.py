r"""Rows: what a benchmark writes. A row is a flat dict, one JSON object a line, in files that only grow.

A row is written whole and at once, so a run that is stopped loses at most the row it was writing, and a file that is
read while another process writes it ends with a torn line at worst."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...common.errors import OutputError
from ...common.strict_json import loads
from ...common.version import __version__

Row = dict[str, Any]


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add `row` to the file, made with its folder where it is missing. A torn last line is closed first."""
    line = json.dumps(_plain(dict(row)), allow_nan=False).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, 2)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
            file.flush()
    except OSError as error:
        raise OutputError(f"cannot write the row to {path}: {error.strerror or error}") from error


def read(path: Path) -> list[Row]:
    """The rows of a file, none where there is no file.

    A line that is no JSON object is skipped when it is torn: the last one, or one that a later run closed. Anything
    else that cannot be read is an OutputError with file and line."""
    if not path.exists():
        return []
    rows = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = loads(line)
        except ValueError:
            row = None
            if _torn(line):
                continue
        if not isinstance(row, dict):
            raise OutputError(f"{path}, line {number}: not a row (one JSON object); mend or remove the line")
        rows.append(_renamed(row))
    return rows


def _renamed(row: Row) -> Row:
    """The row with the names fields have now: "python" once held the source of a tuned plan, over the Python version."""
    if str(row.get("python", "")).startswith("rs.Plan.build("):
        row["code"] = row.pop("python")
    return row


def read_all(folder: Path) -> list[Row]:
    """The rows of every *.jsonl in a folder, by file name."""
    if not folder.is_dir():
        raise OutputError(f"there is no folder {folder}; `restart-sampling bench --out {folder}` writes one")
    return [row for path in sorted(folder.glob("*.jsonl")) for row in read(path)]


def same(row: Mapping[str, Any], other: Mapping[str, Any], keys: Iterable[str]) -> bool:
    """Whether both agree in all `keys`; a key that one of them lacks counts as None."""
    return all(row.get(key) == other.get(key) for key in keys)


def find(rows: Iterable[Row], **keys: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if same(row, keys, keys)]


def ranking(rows: Iterable[Mapping[str, Any]]) -> str:
    """The distance by which quality rows are ranked: "fd_balanced" where all have it, else "fd"."""
    return "fd_balanced" if all(row.get("fd_balanced") is not None for row in rows) else "fd"


def environment(device: Any = "cpu") -> Row:
    """Where a row was measured: the fields every row has."""
    import torch

    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "restart_sampling": __version__,
        "git": commit(),
    }


def cpu() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Short hash of the checkout this package runs from, with + when its code has uncommitted changes; "" outside one."""
    engine = Path(__file__).parents[2]

    def git(*arguments: str) -> str:
        try:
            result = subprocess.run(
                ["git", *arguments], capture_output=True, text=True, check=False, cwd=engine, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return result.stdout.strip() if result.returncode == 0 else ""

    root = git("rev-parse", "--show-toplevel")
    if not root or not git("ls-files", "--", str(Path(__file__).parent)):
        return ""  # installed into some other project's checkout
    code = [f"{root}/{folder}" for folder in ("engine", "kernels", "bindings")]
    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", *code) else "")


def _torn(line: str) -> bool:
    """Whether a line is the beginning of an object and no more: its first brace is never closed."""
    depth, quoted, escaped = 0, False, False
    for character in line.strip():
        if quoted:
            quoted, escaped = escaped or character != '"', character == "\\" and not escaped
        elif character == '"':
            quoted = True
        else:
            depth += (character == "{") - (character == "}")
        if depth == 0:
            return False
    return True


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: None and text stand for them."""
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
