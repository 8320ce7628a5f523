"""Zarr stores that are read: opened, or one sentence about why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import BackendError, RestartValueError

# What zarr raises for a store that is damaged or something else.
DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def open_zarr(path: Path) -> Any:
    """Return the array or the group of a store, to be read.

    Raises:
        FileNotFoundError: there is none. BackendError: zarr is not installed. RestartValueError: it cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    try:
        import zarr
    except ImportError:
        raise BackendError(f"{path} needs zarr; install it with: pip install 'restart-sampling[zarr]'") from None
    try:
        return zarr.open(str(path), mode="r")
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RestartValueError(f"{path} is no Zarr store that can be read ({reason})") from error
