"""Folders in which every file is one of a kind: solvers, formats, network families."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

from .errors import ConfigError

Kind = TypeVar("Kind")


def records(package: str, paths: Iterable[str], name: str, kind: type[Kind]) -> dict[str, Kind]:
    """Return what the modules of a package call `name`, by the names of their files; others are passed over.

    Args:
        package: the full name of the package, its `__name__`.
        paths: its `__path__`.
        kind: the type that every such value must have.

    Raises:
        ConfigError: a module has something else of that name.
    """
    found = {}
    for file in sorted(pkgutil.iter_modules(paths), key=lambda file: file.name):
        value = getattr(importlib.import_module(f"{package}.{file.name}"), name, None)
        if value is not None and not isinstance(value, kind):
            folder = package.rpartition(".")[2]
            raise ConfigError(
                f"{folder}/{file.name}.py: {name} must be a {kind.__name__}, got a {type(value).__name__}"
            )
        if value is not None:
            found[file.name] = value
    return found
