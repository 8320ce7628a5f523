"""Names of a package that are imported on first use, so that plans and `--help` do not wait for torch.

A package's `__init__.py` lists them in one table and states them again for type checkers:

    if TYPE_CHECKING:
        from .sampler import Sampler as Sampler

    __getattr__, __dir__ = lazy(__name__, {"Sampler": "sampler"})
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .errors import BackendError


def lazy(
    package: str, names: Mapping[str, str], *, modules: Mapping[str, str] | None = None, extra: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of `package`.

    Args:
        package: the `__name__` of the package.
        names: name → the module that defines it, relative to the package ("sampler.noise", or ".family" for a module
            beside the package).
        modules: name → the module that it is, likewise.
        extra: the extra of this distribution that the names need, and then other distributions that may be missing.
            BackendError says how to install them.
    """

    def get(name: str) -> Any:
        if modules is not None and name in modules:
            return importlib.import_module(f".{modules[name]}", package)
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(f".{names[name]}", package), name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in extra:
                raise
            raise BackendError(
                f"{name} needs {error.name}, which is not installed: "
                f"pip install 'restart-sampling[{next(iter(extra))}]'"
            ) from None

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names, *(modules or ())})

    return get, listed


def moved_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` of `module` for names that are defined elsewhere since this release.

    Args:
        names: name → the module that defines it now. Using one gives a DeprecationWarning; it goes with the next
            release.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is now {names[name]}.{name}; the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(names[name]), name)

    return get
