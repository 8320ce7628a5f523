"""The Python face of the native library. This version ships none, so `available` is always False."""

from __future__ import annotations


def available(device_type: str = "cpu") -> bool:
    """Whether the native library can be used here."""
    return False


def reason(device_type: str = "cpu") -> str:
    """Why the native library cannot be used, in one line."""
    return "the native library is not part of this version; use backend 'auto', 'reference' or 'triton'"
