"""The error of the kernels, under the base that all three packages share."""

from __future__ import annotations

from restart_bindings.errors import RestartError


class KernelError(RestartError, ValueError):
    """Arguments that a kernel cannot run on, or a backend that is not available here."""
