"""Errors of the kernels. The engine wraps them; this package imports nothing from above itself."""

from __future__ import annotations


class KernelError(ValueError):
    """Arguments a kernel cannot run on, or a backend that is not available here."""
