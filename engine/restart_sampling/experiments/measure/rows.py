r"""Rows: what a benchmark writes. A row is a flat dict, one JSON object a line, in files that only grow.

A row is written whole and at once. A run that is stopped loses at most the row it was writing, and a file that is read
while another process writes it ends with a torn line at worst.
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...common import json_lines
from ...common.errors import OutputError
from ...common.version import __version__

Row = dict[str, Any]
DRAW0 = "draw0"  # in the key of a plain loop that starts from draw 0 of the seed


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add `row` to the file, which is made with its folder if it is missing. A torn last line is ended first."""
    line = json.dumps(_plain(dict(row)), allow_nan=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        json_lines.append(path, line, durable=False)
    except OSError as error:
        raise OutputError(f"cannot write the row to {path}: {error.strerror or error}") from error


def read(path: Path) -> list[Row]:
    """Return the rows of a file, none if there is no file.

    A line that is not one JSON object, such as one that was cut short, is skipped with a warning that says where it is.
    Raises OutputError if the file cannot be read.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in json_lines.numbered(path):
        try:
            rows.append(_renamed(json_lines.parse(line)))
        except ValueError:
            warnings.warn(
                f"{path}, line {number} is not a row (one JSON object) and was skipped; remove the line",
                UserWarning,
                stacklevel=2,
            )
    return rows


def _renamed(row: Row) -> Row:
    """Return the row with the present names: "python" once held the source of a tuned plan, now it is the version."""
    if str(row.get("python", "")).startswith("rs.Plan.build("):
        row["code"] = row.pop("python")
    return row


def read_all(folder: Path) -> list[Row]:
    """Return the rows of every *.jsonl in a folder, in the order of the files' names."""
    if not folder.is_dir():
        raise OutputError(f"there is no folder {folder}; `restart-sampling bench --out {folder}` writes one")
    return [row for path in sorted(folder.glob("*.jsonl")) for row in read(path)]


def same(row: Mapping[str, Any], other: Mapping[str, Any], keys: Iterable[str]) -> bool:
    """Return whether both agree in all `keys`; a key that one of them lacks counts as None."""
    return all(row.get(key) == other.get(key) for key in keys)


def find(rows: Iterable[Row], **keys: Any) -> list[Row]:
    """Return the rows with these values."""
    return [row for row in rows if same(row, keys, keys)]


def calls_of(row: Mapping[str, Any]) -> int | None:
    """Return the network calls of a row per sample where they are not its evaluations, else None.

    Rows of before calls were counted have none.
    """
    calls = row.get("network_calls")
    return None if None in (calls, row.get("nfe")) or calls == row["nfe"] else int(calls or 0)


def ranking(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the distance by which quality rows are ranked: "fd_balanced" if all rows have it, else "fd"."""
    return "fd_balanced" if all(row.get("fd_balanced") is not None for row in rows) else "fd"


def other_latents(row: Mapping[str, Any]) -> bool:
    """Return whether a row is of a plain loop that started from latents of its own, not from the engine's."""
    key = str(row.get("key") or "")
    return row.get("by") == "torch" and key.startswith("torch-") and f"-{DRAW0}-" not in key


def environment(device: Any = "cpu") -> Row:
    """Return where a row was measured: fields that every row has."""
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
    """Return the processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Return the short hash of the checkout that this package runs from, or "" outside a checkout.

    A + follows it if the code has uncommitted changes.
    """
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


def _plain(value: Any) -> Any:
    """Return `value` with None for NaN and text for infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
