r"""Tensors of a checkpoint: from records to shapes, and from shapes to torch tensors.

A tensor is a storage, an offset, sizes and strides, all counted in elements. The storage's bytes are either a member of
the zip archive, or, in a plain pickle, a whole old-style torch.save file inside a bytes object:

    magic, 1001, {"little_endian": True, …}, the id ("storage", type, key, location, numel, None), [key], numel as
    int64, bytes

The location ("cuda:0") is ignored: everything is read to the CPU. Every number is checked against the bytes of the file
before anything is allocated, and the tensors together may not ask for more bytes than the file has (:class:`Budget`).
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .archive import Archive
from .limits import LIMITS, Refused
from .machine import Machine
from .values import (
    DTYPE,
    ENCODE,
    MAPPING,
    NESTED,
    PARAMETER,
    SCALAR,
    STORAGES,
    STORED,
    TENSOR,
    Blob,
    Record,
    Text,
    Token,
)

if TYPE_CHECKING:
    import torch

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
KEY = re.compile(r"[0-9A-Za-z_]{1,64}")
SCALARS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}


@dataclass
class Budget:
    """The bytes that tensors may still ask for, at first as many as the file has."""

    left: int

    def spend(self, n: int, at: int) -> None:
        """Take `n` bytes for the tensor at byte `at` of the file. Raises Refused if that is more than is left."""
        self.left -= n
        if self.left < 0:
            raise Refused("the tensors together ask for more bytes than the file has", at)


@dataclass(frozen=True)
class Storage:
    """`numel` numbers of torch's `dtype` in `data`."""

    dtype: str
    itemsize: int
    numel: int
    data: memoryview


@dataclass(frozen=True)
class Spec:
    """A tensor that was checked; its memory is not allocated yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """The name of torch's dtype, such as "float32"."""
        return self.storage.dtype

    def make(self) -> torch.Tensor:
        """Return the torch tensor, contiguous, in memory of its own: one copy."""
        import torch

        dense, n = 1, self.storage.itemsize
        strides = []
        for d in reversed(self.size):
            strides.append(dense)
            dense *= d
        plain = dense == 0 or all(
            d == 1 or a == b for d, a, b in zip(self.size, self.stride, reversed(strides), strict=True)
        )
        first, count = (self.offset, dense) if plain else (0, self.storage.numel)
        raw = torch.empty(count * n, dtype=torch.uint8)
        raw.numpy().data[:] = self.storage.data[first * n : (first + count) * n]
        values = raw.view(getattr(torch, self.dtype))
        if plain:
            return values.view(self.size)
        return values.as_strided(self.size, self.stride, self.offset).contiguous()


def natural(value: Any) -> bool:
    """Return whether a value is a plain integer that may be a size or an offset."""
    return type(value) is int and 0 <= value < 2**62


def raw_bytes(value: Any, at: int) -> Blob:
    """Return bytes, also those that protocol 2 writes as latin-1 text. Raises Refused for anything else."""
    if type(value) is Blob:
        return value
    if isinstance(value, Record) and value.kind == ENCODE and len(value.args) == 2 and value.args[1] == "latin1":
        text = value.args[0]
        try:
            decoded = str(text.view, "utf-8") if isinstance(text, Text) else text
            if type(decoded) is str:
                return Blob(memoryview(decoded.encode("latin-1")), value.at)
        except UnicodeError:
            pass
    raise Refused("bytes are needed where something else stands", at)


def stored(pid: Any, fields: int, at: int) -> tuple[str, int, str, int]:
    """Return dtype, bytes per element, key and number of elements of the persistent id of a storage."""
    if not (
        type(pid) is tuple
        and len(pid) == fields
        and pid[0] == "storage"
        and type(pid[1]) is Token
        and pid[1].kind in STORAGES
        and type(pid[2]) is str
        and KEY.fullmatch(pid[2])
        and type(pid[3]) is str
        and natural(pid[4])
        and (fields == 5 or pid[5] is None)
    ):
        raise Refused("the description of a storage is not one that torch writes", at)
    return *STORAGES[pid[1].kind], pid[2], pid[4]


def nested_storage(record: Record, budget: Budget) -> Storage:
    """Return the storage in an old-style torch.save file inside the pickle."""
    args = record.args
    if len(args) != 1:
        raise Refused("a storage is made with arguments that torch does not write", record.at)
    encoded = isinstance(args[0], Record) and args[0].kind == ENCODE and bool(args[0].args)
    source = args[0].args[0] if encoded else args[0]
    if isinstance(source, Blob):
        budget.spend(len(source.view), record.at)  # before anything is decoded or copied
    elif type(source) is str:
        budget.spend(len(source), record.at)
    blob = raw_bytes(args[0], record.at)
    position, found = 0, []
    for _ in range(5):
        dumped = Machine(blob.view, position, blob.at, storages=True, opcodes=LIMITS.storage_opcodes).run()
        position = dumped.end
        found.append(dumped.value)
    magic, protocol, system, pid, keys = found
    at = blob.at + position
    if type(magic) is not int or magic != MAGIC or type(protocol) is not int or protocol != PROTOCOL:
        raise Refused("a storage does not start as torch starts one", blob.at)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Refused("the numbers of a storage are not little-endian", blob.at)
    if type(pid) is not Record or pid.kind != STORED:
        raise Refused("the description of a storage is not one that torch writes", at)
    dtype, itemsize, key, numel = stored(pid.args, 6, at)
    if type(keys) is not list or len(keys) != 1 or type(keys[0]) is not str or keys[0] != key:
        raise Refused("the description of a storage is not one that torch writes", at)
    data = blob.view[position:]
    if len(data) < 8 or int.from_bytes(data[:8], "little", signed=True) != numel:
        raise Refused("a storage has two lengths", at)
    if len(data) - 8 != numel * itemsize:
        raise Refused(f"a storage needs {numel * itemsize} bytes and has {len(data) - 8}", at)
    return Storage(dtype, itemsize, numel, data[8:])


def member_storage(record: Record, archive: Archive | None, budget: Budget) -> Storage:
    """Return the storage in a member of the zip archive."""
    dtype, itemsize, key, numel = stored(record.args, 5, record.at)
    name = f"{archive.root}data/{key}" if archive else ""
    if archive is None or name not in archive.members:
        raise Refused("a storage is named that the zip archive does not have", record.at)
    member = archive.members[name]
    if member.size != numel * itemsize:
        raise Refused(f"a storage needs {numel * itemsize} bytes and has {member.size}", member.start)
    budget.spend(member.size, member.start)
    return Storage(dtype, itemsize, numel, archive.read(name))


def tensor(value: Any, archive: Archive | None, budget: Budget, at: int) -> Spec:
    """Return the tensor or parameter that `value` stands for.

    Raises:
        Refused: it stands for something else, or reaches outside of its storage.
    """
    if isinstance(value, Record) and value.kind == PARAMETER:
        at, args = value.at, value.args
        if len(args) != 3 or type(args[1]) is not bool or not nothing(args[2]):
            raise Refused("a parameter is made with arguments that torch does not write", at)
        value = args[0]
    if not isinstance(value, Record) or value.kind != TENSOR:
        raise Refused("a tensor is needed where something else stands", at)
    at, args = value.at, value.args
    if not 6 <= len(args) <= 7 or not all(map(nothing, args[5:])):
        raise Refused("a tensor is made with arguments that torch does not write", at)
    storage, offset, size, stride = args[:4]
    if not (
        natural(offset)
        and type(size) is tuple
        and type(stride) is tuple
        and len(size) == len(stride) <= LIMITS.dimensions
        and all(map(natural, (*size, *stride)))
    ):
        raise Refused("the sizes of a tensor are not lists of natural numbers", at)
    if not isinstance(storage, Record) or storage.kind not in (NESTED, STORED):
        raise Refused("a tensor has no storage", at)
    found = nested_storage(storage, budget) if storage.kind == NESTED else member_storage(storage, archive, budget)
    numel = math.prod(size)
    last = offset + sum((d - 1) * s for d, s in zip(size, stride, strict=True))
    if numel > found.numel or (numel and last >= found.numel) or offset > found.numel:
        raise Refused("a tensor reaches outside of its storage", at)
    return Spec(found, offset, size, stride)


def nothing(value: Any) -> bool:
    """Return whether a value is None or an empty mapping: no hooks, no metadata."""
    if isinstance(value, Record):
        return value.kind == MAPPING and not value.items
    return value is None or value == {}


def number(value: Any) -> int | float | bool | None:
    """Return a plain number, also that of a NumPy scalar; None for anything else."""
    if type(value) in (int, float, bool):
        return value
    if not isinstance(value, Record) or value.kind != SCALAR or len(value.args) != 2:
        return None
    dtype, raw = value.args
    if not isinstance(dtype, Record) or dtype.kind != DTYPE or not dtype.args or type(dtype.args[0]) is not str:
        return None
    code, order = SCALARS.get(dtype.args[0]), dtype.state[1:2] if type(dtype.state) is tuple else ()
    if code is None or order not in (("<",), ("|",), ("=",)):
        return None
    source = raw.args[0] if isinstance(raw, Record) and raw.kind == ENCODE and raw.args else raw
    if isinstance(source, Text):  # far too long, and decoding it would take long too
        return None
    data = raw_bytes(raw, value.at).view
    if len(data) != struct.calcsize("<" + code):
        return None
    found: int | float | bool = struct.unpack("<" + code, data)[0]
    return found
