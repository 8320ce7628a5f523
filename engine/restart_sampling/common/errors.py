"""Errors. Every message says what was given, what is allowed, and what to do.

A user's mistake is a `RestartError` and also a `ValueError` or `TypeError`, so `except ValueError` catches it as well.
"""

from __future__ import annotations

from typing import Any

from restart_bindings.errors import RestartError as RestartError


class RestartValueError(RestartError, ValueError):
    """A value outside what is allowed."""


class RestartTypeError(RestartError, TypeError):
    """A value of the wrong type."""


class ConfigError(RestartValueError):
    """A Restart configuration or a plan that cannot be run as written."""


class SeedError(RestartValueError):
    """A seed, or a list of seeds, that cannot be used."""


class CheckpointError(RestartValueError):
    """A model file that cannot be read, or does not hold what it should."""


class BackendError(RestartValueError):
    """A backend, device or dtype that is not available here."""


class OutputError(RestartValueError):
    """An output folder or file that cannot be written."""


class NonFiniteError(RestartError, ArithmeticError):
    """Samples became NaN or infinite: `failures` says which and where, `samples` holds everything that was drawn."""

    def __init__(self, message: str, failures: list[dict[str, Any]], samples: Any = None) -> None:
        super().__init__(message)
        self.failures, self.samples = failures, samples
