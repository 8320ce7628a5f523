"""What a pickle is read into: plain data, and inert records of the calls that it asks for.

The set of globals is closed: `GLOBALS` lists every global that EDM, EDM2 and PFGM++ checkpoints name, with what may be
done to it. No global is ever imported; it becomes the :class:`Token` of this table, and its call a :class:`Record`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Token(NamedTuple):
    """A global by its meaning.

    Attributes:
        kind: the meaning.
        call: whether REDUCE may apply it.
        new: whether NEWOBJ may.
        items: whether SETITEMS fills the result.
    """

    kind: str
    call: bool = False
    new: bool = False
    items: bool = False


@dataclass(eq=False)
class Record:
    """A call that the pickle asks for: of the token `kind` with `args`, at byte `at` of the file.

    `state` is what BUILD gave the result later, `items` what SETITEMS did.
    """

    kind: str
    args: Any
    at: int
    state: Any = None
    items: dict[str | int, Any] | None = None


@dataclass(eq=False)
class Blob:
    """Bytes of the file, not copied; `at` is the offset of the first one."""

    view: memoryview
    at: int


@dataclass(eq=False)
class Text(Blob):
    """UTF-8 text too long to be a name, left as bytes."""


@dataclass
class Dumped:
    """What :class:`~.machine.Machine` returns for one pickle: its value, its end, and how many opcodes it had."""

    value: Any
    end: int
    opcodes: int = field(default=0)


PERSISTENT, PARAMETER, TENSOR, NESTED, STORED = ("persistent", "parameter", "tensor", "nested storage", "storage")
MAPPING, CONTAINER, SCALAR, DTYPE, SET, ENCODE = "mapping", "container", "scalar", "dtype", "set", "encode"
ARRAY, ARRAY_CLASS = "array", "array class"

STORAGES = {  # storage class → (torch dtype, bytes per element)
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "DoubleStorage": ("float64", 8),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}

GLOBALS: dict[tuple[str, str], Token] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Token(PERSISTENT, call=True),
    ("torch._utils", "_rebuild_parameter"): Token(PARAMETER, call=True),
    ("torch._utils", "_rebuild_tensor_v2"): Token(TENSOR, call=True),
    ("torch.storage", "_load_from_bytes"): Token(NESTED, call=True),
    ("collections", "OrderedDict"): Token(MAPPING, call=True, items=True),
    ("dnnlib.util", "EasyDict"): Token(MAPPING, new=True, items=True),
    ("torch.nn.modules.container", "ModuleDict"): Token(CONTAINER, new=True),
    ("torch.nn.modules.container", "ModuleList"): Token(CONTAINER, new=True),
    ("numpy.core.multiarray", "scalar"): Token(SCALAR, call=True),
    ("numpy._core.multiarray", "scalar"): Token(SCALAR, call=True),
    ("numpy.core.multiarray", "_reconstruct"): Token(ARRAY, call=True),
    ("numpy._core.multiarray", "_reconstruct"): Token(ARRAY, call=True),
    ("numpy", "ndarray"): Token(ARRAY_CLASS),
    ("numpy", "dtype"): Token(DTYPE, call=True),
    ("builtins", "set"): Token(SET, call=True),
    ("__builtin__", "set"): Token(SET, call=True),
    ("_codecs", "encode"): Token(ENCODE, call=True),
    **{("torch", name): Token(name) for name in STORAGES},
}


def mapping(value: Any) -> dict[str | int, Any] | None:
    """Return the entries of a dict, or of a record that stands for one; None for anything else."""
    if isinstance(value, Record) and value.kind == MAPPING:
        return value.items
    return value if isinstance(value, dict) else None
