r"""From records to a network's description: class names, arguments, attributes, tensors under their state-dict names.

A persistent object is a call with one dict: type, version, module_src (the whole text of the Python file that defined
its class, which an ordinary unpickler would execute), class_name and state. The state of a torch module has
`_parameters`, `_buffers` and `_modules`, in the order in which they were made. The text is hashed, and not looked at
otherwise.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any

from .archive import Archive
from .limits import LIMITS, Refused, shown
from .tensors import Budget, Spec, number, tensor
from .values import CONTAINER, PERSISTENT, Record, Text, mapping

VERSION = 6  # of the persistence record; the only one that EDM, its forks and EDM2 write
NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
BLOCK = ("skip_scale", "num_heads", "adaptive_scale", "eps", "num_groups")  # attributes that the formulas depend on


@dataclass
class Module:
    """One persistent object: its class, the SHA-256 of its module_src, its attributes, and the byte where it begins."""

    class_name: str
    source: str
    state: dict[str | int, Any]
    at: int

    @property
    def kwargs(self) -> dict[str, Any]:
        """The arguments it was made with, as plain values. Raises Refused if they are something else."""
        kwargs = mapping(self.state.get("_init_kwargs", {}))
        if self.state.get("_init_args", ()) not in ((), []) or kwargs is None:
            raise Refused("an object was made with arguments that have no names", self.at)
        values = {str(name): plain(value) for name, value in kwargs.items()}
        if len(values) > 64 or any(v is ... or not NAME.fullmatch(n) for n, v in values.items()):
            raise Refused("an object was made with arguments that are no numbers, texts or lists of numbers", self.at)
        return values

    def value(self, name: str) -> Any:
        """Return an attribute as a plain value, None if it is missing."""
        return plain(self.state.get(name))


@dataclass
class Found:
    """The description of a checkpoint's network.

    Attributes:
        modules: the persistent objects by their dotted path; that of the outermost is "".
        tensors: parameters and buffers by their state-dict names.
        attributes: those that formulas depend on, as plain values, of each module by its path.
    """

    modules: dict[str, Module] = field(default_factory=dict)
    tensors: dict[str, Spec] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """SHA-256 of the different module_src texts, that of the outermost object first."""
        return tuple(dict.fromkeys(m.source for m in self.modules.values()))


def plain(value: Any) -> Any:
    """Return a number, a word, None or a flat list of numbers as a Python value; `...` for anything else."""
    if value is None:
        return None
    if type(value) is str:
        return value if shown(value) == value else ...
    if type(value) in (list, tuple) and len(value) <= 64:
        numbers = [number(v) for v in value]
        return ... if None in numbers else numbers
    found = number(value)
    return ... if found is None else found


def persistent(record: Any, digests: dict[int, str] | None = None) -> Module | None:
    """Return the persistent object that a record stands for, None for anything else.

    `digests` holds the SHA-256 of texts that were hashed before, by their id: hundreds of modules share one text.

    Raises:
        Refused: the record of a persistent object is damaged.
    """
    if not isinstance(record, Record) or record.kind != PERSISTENT:
        return None
    at = record.at
    if len(record.args) != 1 or (meta := mapping(record.args[0])) is None or record.state is not None:
        raise Refused("a persistence record is not one dict", at)
    version = meta.get("version")
    if meta.get("type") != "class" or type(version) is not int or version != VERSION:
        raise Refused(f"a persistence record is of another version than {VERSION}, the only one that is supported", at)
    source, class_name, state = meta.get("module_src"), meta.get("class_name"), meta.get("state")
    state = {} if state is None else mapping(state)  # an object without attributes has no state
    if not isinstance(source, (str, Text)):
        raise Refused("a persistence record has no module_src", at)
    if type(class_name) is not str or not NAME.fullmatch(class_name) or state is None:
        raise Refused("a persistence record has no class_name or no state", at)
    digests = {} if digests is None else digests
    if id(source) not in digests:
        content = source.view if isinstance(source, Text) else source.encode()
        digests[id(source)] = hashlib.sha256(content).hexdigest()
    return Module(class_name, digests[id(source)], state, at)


def describe(root: Any, archive: Archive | None, size: int) -> Found:
    """Describe the network whose outermost object is the record `root`.

    Args:
        archive: the zip archive whose members are the storages; None for a plain pickle.
        size: of the file in bytes, the most that all tensors together may ask for.

    Raises:
        Refused: something in it is not what EDM, EDM2 and PFGM++ write.
    """
    walk = _Walk(archive, Budget(size))
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    while waiting:
        path, record, depth = waiting.pop()
        if depth > LIMITS.depth:
            raise Refused("the modules are nested deeper than a network's can be", record.at)
        waiting += [(name, child, depth + 1) for name, child in reversed(walk.visit(path, record))]
    return walk.found


class _Walk:
    """Collects the description, and counts entries: a few bytes of a pickle can make a module its own child."""

    def __init__(self, archive: Archive | None, budget: Budget) -> None:
        self.archive, self.budget = archive, budget
        self.found, self.digests, self.entries = Found(), dict[int, str](), 0

    def visit(self, path: str, record: Any) -> list[tuple[str, Any]]:
        """Add one module to the description, and return its children by path."""
        module = persistent(record, self.digests)
        if module is not None:
            state, at = module.state, module.at
            self.found.modules[path] = module
            self.found.attributes[path] = {name: plain(state[name]) for name in BLOCK if name in state}
        elif isinstance(record, Record) and record.kind == CONTAINER:
            held, at = mapping(record.state), record.at
            if held is None:
                raise Refused("a container of modules has no state", at)
            state = held
        elif mapping(record) is not None:
            what = "a module is needed where a plain dict stands"
            raise Refused(f"{what}: a state dict does not describe its network; give the snapshot (.pkl) instead")
        else:
            raise Refused("a module is needed where something else stands", getattr(record, "at", None))
        unsaved = state.get("_non_persistent_buffers_set")
        if unsaved is not None and type(unsaved) is not set:
            raise Refused("the names of non-persistent buffers are not a set", at)
        tensors = self.listed(path, state, "_parameters", at)
        for name, value in self.listed(path, state, "_buffers", at):
            if name.rpartition(".")[2] not in (unsaved or ()):
                tensors.append((name, value))
        for name, value in tensors:
            if name in self.found.tensors:
                raise Refused("two tensors have one name", at)
            self.found.tensors[name] = tensor(value, self.archive, self.budget, at)
        return self.listed(path, state, "_modules", at)

    def listed(self, path: str, state: dict[str | int, Any], kind: str, at: int) -> list[tuple[str, Any]]:
        """Return the entries of one of a module's dicts that are not None, by path."""
        entries = mapping(state.get(kind))
        if entries is None:
            raise Refused("a module has no dict of its parameters, buffers or modules", at)
        self.entries += 1 + len(entries)
        if self.entries > LIMITS.entries:
            raise Refused("the modules are more than a network's can be", at)
        result = []
        for name, value in entries.items():
            if type(name) is not str or not NAME.fullmatch(name):
                raise Refused("the name of a tensor or a module is not a plain word", at)
            if value is not None:
                result.append((f"{path}.{name}" if path else name, value))
        return result
