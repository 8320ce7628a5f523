"""Old names of modules that moved: they import for one more release, with a DeprecationWarning.

A package calls `keep_old_names` once, in its `__init__`, with one table from old names to new ones:

    keep_old_names(__name__, {"step": "row", "step.condition": "graphs.condition"}, since="0.1", until="0.2")

An entry stands for the module and for everything below it, and the longest entry that matches decides. So with the
table above `package.step.reference` is `package.row.reference`, and `package.step.condition` is
`package.graphs.condition`. The old name is the new module itself, not a copy: classes, caches and patches are shared.

Only names that are free belong in the table: an old name is looked up before the files are, so an entry hides a module
of that name and what lies below it. Where a package takes the name of a module (`plan.py` becomes `plan/`), its
`__init__` re-exports what the module had.

This file is in the lowest package, so that all three can use it, and imports nothing but the standard library.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


def keep_old_names(
    package: str, table: Mapping[str, str], since: str, until: str, public: Collection[str] = ()
) -> None:
    """Let modules of `package` that moved be imported by their old names too.

    Args:
        package: the full name of the package, its `__name__`.
        table: old name → new name, both relative to the package, with dots.
        since, until: the release that moved them, and the one that removes the old names. Both are in the warning.
        public: names of the table that stay for good and do not warn.

    Raises:
        ValueError: a new name is itself an old one, or lies below it.
    """
    finder = _OldNames(package, dict(table), since, until, frozenset(f"{package}.{name}" for name in public))
    for old, new in table.items():
        if finder.new_name(f"{package}.{new}") is not None:
            raise ValueError(
                f"{old!r} cannot be an old name of {new!r}: an entry of the table stands for {new!r} itself"
            )
    sys.meta_path[:] = [f for f in sys.meta_path if not (isinstance(f, _OldNames) and f.package == package)]
    sys.meta_path.insert(0, finder)
    if type(sys.modules[package]) is ModuleType:
        sys.modules[package].__class__ = _Package


def new_name(package: str, table: Mapping[str, str], name: str) -> str | None:
    """Return the new full name of the module `name` by the table of its package, or None if `name` is no old name."""
    if not name.startswith(f"{package}."):
        return None
    old, below = name[len(package) + 1 :], ""
    while old:
        if old in table:
            return f"{package}.{table[old]}{below}"
        old, _, last = old.rpartition(".")
        below = f".{last}{below}"
    return None


class _Package(ModuleType):
    """A package in which an import by an old name does not replace a public name, as rs.presets is one."""

    def __setattr__(self, name: str, value: object) -> None:
        old = isinstance(value, ModuleType) and value.__name__ != f"{self.__name__}.{name}"
        if not (old and name in vars(self).get("__all__", ())):
            super().__setattr__(name, value)


class _OldNames:  # without the base classes of importlib.abc, which import more than the package itself
    """Finds the old names of one package, and loads for each of them the module of its new name."""

    def __init__(self, package: str, table: dict[str, str], since: str, until: str, public: frozenset[str]) -> None:
        self.package, self.table, self.since, self.until, self.public = package, table, since, until, public

    def new_name(self, name: str) -> str | None:
        """Return the new full name of the module `name`, or None if `name` is no old name."""
        return new_name(self.package, self.table, name)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if self.new_name(fullname) is None else ModuleSpec(fullname, self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: the import system makes an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Put the new module in the place of the empty one that the import system made for the old name."""
        old = module.__name__
        new = str(self.new_name(old))
        text = f"{old} is {new} since {self.since}; the old name is removed in {self.until}"
        if old not in self.public:
            warnings.warn(text, DeprecationWarning, stacklevel=2)  # the import system's own frames do not count
        sys.modules[old] = importlib.import_module(new)
