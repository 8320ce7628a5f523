"""What `aot.py` compiles: a kernel with the types and constants of one launch."""

from __future__ import annotations

from typing import Any, NamedTuple


class Variant(NamedTuple):
    """A kernel, the types of its arguments, its constants, and how it is launched.

    Attributes:
        kernel: the kernel.
        types: of the arguments that are not constants.
        constants: the compile-time arguments; None is a tensor that the machine does not have.
        options: of the compiler.
        elements: what a program works on, in one turn of its loop if it has one.
        aligned: whether the sizes are multiples of 16, and `multiples` which arguments they are.
        facts: what else its report says, if anything.
    """

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    elements: int
    aligned: bool = True
    multiples: tuple[str, ...] = ("E", "half")
    facts: dict[str, Any] | None = None
