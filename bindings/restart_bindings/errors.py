"""The base of every error that the three packages raise on purpose; it is in the lowest one, so that all can use it."""

from __future__ import annotations


class RestartError(Exception):
    """Base class of every error that the packages of restart sampling raise on purpose."""
