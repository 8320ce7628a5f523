r"""A pickle machine that builds data and nothing else.

A pickle is a program for a stack machine (PEP 307, PEP 3154; opcodes by their names in the standard library's
`pickletools`). Some of its opcodes can make any object and call any function, so a machine for files of unknown origin
must not have them. This one has 41 of the 68 opcodes. A global becomes a token of a closed table and a call of it
becomes a record; neither is ever looked up, imported or run. `values.py` lists the tokens.

* All other opcodes are refused: INST, OBJ, EXT1, PERSID, BYTEARRAY8, POP, DUP and so on, and with them protocols 0
  and 1.
* SETITEM acts on dicts and mapping records only, APPEND on lists, ADDITEMS on sets, BUILD on records.
* Keys of dicts and elements of sets are text or integers, so nothing nested is ever hashed.
* Lengths in the file are checked: what is read lies inside the file. Bytes and long text are views of it, not copies.
* Values may be nested deeper than Python's own recursion goes, or contain themselves. Nothing here descends into them;
  `modules.py`, which does, counts its steps.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from .limits import LIMITS, Refused, shown
from .values import GLOBALS, MAPPING, SET, STORED, Blob, Dumped, Record, Text, Token, mapping

LENGTHS = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}
CHECKED = 64  # the stack is measured once in this many opcodes, each of which adds one value at most
INT, REAL = struct.Struct("<i"), struct.Struct(">d")


class Machine:
    """Runs one pickle.

    Args:
        data: the bytes that hold it.
        start: where in `data` it begins.
        base: the offset of data[0] in the file, for messages.
        storages: whether BINPERSID is allowed, which names a storage of a torch.save file.
        opcodes: the most that are run.
    """

    def __init__(
        self, data: memoryview, start: int = 0, base: int = 0, *, storages: bool = False, opcodes: int = LIMITS.opcodes
    ) -> None:
        self.data, self.start, self.base = data, start, base
        self.storages, self.most = storages, opcodes
        self.position = self.at = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.done = False

    def run(self) -> Dumped:
        """Return the value up to STOP. Raises Refused with the offset of the opcode at fault."""
        data, size, handlers, stack, marks = self.data, len(self.data), HANDLERS, self.stack, self.marks
        for done in range(self.most):
            if not done % CHECKED and (len(stack) > LIMITS.stack or len(marks) > LIMITS.marks):
                break
            self.at = at = self.position
            if at >= size:
                raise self.refused("the file is incomplete: it ends inside a pickle")
            self.position = at + 1
            handlers[data[at]](self)
            if self.done:
                return Dumped(stack[0], self.position, done + 1)
        raise self.refused("the pickle is longer or nested deeper than a checkpoint can be")

    def refused(self, reason: str) -> Refused:
        """Return the error for the opcode that is being run."""
        return Refused(reason, self.base + self.at)

    # Reading

    def take(self, n: int) -> memoryview:
        """Return the next `n` bytes, a view."""
        end = self.position + n
        left = len(self.data) - self.position
        if n > left:
            raise self.refused(f"the file is incomplete: {n} bytes are promised, {left} are left")
        view = self.data[self.position : end]
        self.position = end
        return view

    def number(self, width: int) -> int:
        """Return the next `width` bytes as an unsigned little-endian integer."""
        if width == 1 and self.position < len(self.data):  # the common case, without a view
            self.position += 1
            return self.data[self.position - 1]
        value: int = LENGTHS[width].unpack(self.take(width))[0]
        return value

    def decoded(self, view: memoryview) -> str:
        """Return UTF-8 text as a str."""
        try:
            return str(view, "utf-8")
        except UnicodeDecodeError:
            raise self.refused("text is not UTF-8") from None

    def line(self) -> str:
        """Return the text up to a newline."""
        window = bytes(self.data[self.position : self.position + LIMITS.name])
        n = window.find(b"\n")
        if n < 0:
            raise self.refused("a global's name does not end")
        self.position += n + 1
        return window[:n].decode("latin-1")

    # The stack

    def pop(self) -> Any:
        """Remove the topmost value above the last mark, and return it."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.refused("a value is used that was never made")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Remove the last mark and return the values above it."""
        if not self.marks:
            raise self.refused("a mark is used that was never set")
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def top(self) -> Any:
        """Return the topmost value above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self.refused("a value is used that was never made")
        return self.stack[-1]

    # What several opcodes share

    def text(self, width: int) -> None:
        """Push text whose length is `width` bytes long: a str, or a view if it is long."""
        n = self.number(width)
        at = self.base + self.position
        view = self.take(n)
        self.stack.append(Text(view, at) if n > LIMITS.text else self.decoded(view))

    def blob(self, width: int) -> None:
        """Push bytes whose length is `width` bytes long, as a view."""
        n = self.number(width)
        at = self.base + self.position
        self.stack.append(Blob(self.take(n), at))

    def tuple_of(self, n: int) -> None:
        """Push a tuple of the `n` topmost values."""
        values = [self.pop() for _ in range(n)]
        self.stack.append(tuple(reversed(values)))

    def set_items(self, flat: list[Any]) -> None:
        """Set pairs of keys and values on the dict or mapping record that is topmost."""
        target = mapping(self.top())
        if target is None or len(flat) % 2:
            raise self.refused("items are set on something that has none")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if type(key) not in (str, int):
                raise self.refused("a key is neither text nor an integer")
            target[key] = value

    def append(self, values: list[Any]) -> None:
        """Append values to the list that is topmost."""
        target = self.top()
        if type(target) is not list:
            raise self.refused("elements are appended to something that is no list")
        target.extend(values)

    def elements(self, values: list[Any]) -> list[Any]:
        """Return `values` if they may be elements of a set."""
        if any(type(v) not in (str, int) for v in values):
            raise self.refused("an element of a set is neither text nor an integer")
        return values

    def token(self, module: Any, name: Any) -> None:
        """Push the token of a global. Raises Refused if it is not in the table."""
        found = GLOBALS.get((module, name)) if type(module) is str and type(name) is str else None
        if found is None:
            whole = f"{module}.{name}" if type(module) is str and type(name) is str else None
            raise self.refused(f"refused the global {shown(whole)}, which no EDM, EDM2 or PFGM++ checkpoint needs")
        self.stack.append(found)

    def remember(self, index: int) -> None:
        """Keep the topmost value in the memo."""
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push a value of the memo."""
        try:
            self.stack.append(self.memo[index])
        except KeyError:
            raise self.refused("a value is used that was never made") from None

    # Opcodes that need more than a line

    def unknown(self) -> None:
        """Refuse an opcode that is not in the table."""
        raise self.refused(f"opcode 0x{self.data[self.at]:02x} is not one that a checkpoint needs")

    def proto(self) -> None:
        """PROTO: check the protocol, which must be the first opcode."""
        if self.at != self.start or not 2 <= self.number(1) <= 5:
            raise self.refused("this is not a pickle of protocol 2 to 5")

    def frame(self) -> None:
        """FRAME: check that the frame lies inside the file."""
        n, left = self.number(8), len(self.data) - self.position
        if n > left:
            raise self.refused(f"the file is incomplete: {n} bytes are promised, {left} are left")

    def stop(self) -> None:
        """STOP: end with exactly one value."""
        if len(self.stack) != 1 or self.marks:
            raise self.refused("the pickle ends with values left over, or none")
        self.done = True

    def long1(self) -> None:
        """LONG1: push an integer."""
        n = self.number(1)
        if n > LIMITS.integer:
            raise self.refused("an integer is longer than a checkpoint needs")
        self.stack.append(int.from_bytes(self.take(n), "little", signed=True))

    def global_(self) -> None:
        """GLOBAL: push the token of a global that is named by two lines."""
        module = self.line()
        self.token(module, self.line())

    def stack_global(self) -> None:
        """STACK_GLOBAL: push the token of a global that is named by the two topmost values."""
        name = self.pop()
        self.token(self.pop(), name)

    def reduce(self) -> None:
        """REDUCE: push the record of a call, or a set."""
        args, function = self.pop(), self.pop()
        if not (type(function) is Token and function.call and type(args) is tuple):
            raise self.refused("something is called that must not be")
        if function.kind == SET:
            if len(args) != 1 or type(args[0]) is not list:
                raise self.refused("a set is made of something else than a list")
            self.stack.append(set(self.elements(args[0])))
        else:
            self.record(function, args)

    def newobj(self) -> None:
        """NEWOBJ: push the record of an instance."""
        args, cls = self.pop(), self.pop()
        if not (type(cls) is Token and cls.new and args == ()):
            raise self.refused("an object is made that must not be")
        self.record(cls, args)

    def record(self, token: Token, args: tuple[Any, ...]) -> None:
        """Push the record of a call or of an instance."""
        if token.kind == MAPPING and args:
            raise self.refused("a mapping is made with arguments")
        self.stack.append(Record(token.kind, args, self.base + self.at, items={} if token.items else None))

    def build(self) -> None:
        """BUILD: give the topmost record its state."""
        state, target = self.pop(), self.top()
        if type(target) is not Record:
            raise self.refused("state is set on something that has none")
        target.state = state

    def persistent(self) -> None:
        """BINPERSID: push the record of a storage."""
        if not self.storages:
            raise self.refused("a persistent id stands outside of a torch.save file")
        self.stack.append(Record(STORED, self.pop(), self.base + self.at))

    def add_items(self) -> None:
        """ADDITEMS: add the values above the last mark to a set."""
        values, target = self.pop_to_mark(), self.top()
        if type(target) is not set:
            raise self.refused("elements are added to something that is no set")
        target.update(self.elements(values))


def _push(value: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda m: m.stack.append(value(m))


OPCODES: dict[int, Callable[[Machine], None]] = {
    0x80: Machine.proto,
    0x95: Machine.frame,
    ord("."): Machine.stop,
    ord("("): lambda m: m.marks.append(len(m.stack)),  # MARK
    ord("N"): _push(lambda m: None),  # NONE
    0x88: _push(lambda m: True),  # NEWTRUE
    0x89: _push(lambda m: False),  # NEWFALSE
    ord("J"): _push(lambda m: INT.unpack(m.take(4))[0]),  # BININT
    ord("K"): _push(lambda m: m.number(1)),  # BININT1
    ord("M"): _push(lambda m: m.number(2)),  # BININT2
    0x8A: Machine.long1,
    ord("G"): _push(lambda m: REAL.unpack(m.take(8))[0]),  # BINFLOAT
    0x8C: lambda m: m.text(1),  # SHORT_BINUNICODE
    ord("X"): lambda m: m.text(4),  # BINUNICODE
    ord("C"): lambda m: m.blob(1),  # SHORT_BINBYTES
    ord("B"): lambda m: m.blob(4),  # BINBYTES
    0x8E: lambda m: m.blob(8),  # BINBYTES8
    ord(")"): _push(lambda m: ()),  # EMPTY_TUPLE
    ord("t"): _push(lambda m: tuple(m.pop_to_mark())),  # TUPLE
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("]"): _push(lambda m: []),  # EMPTY_LIST
    ord("a"): lambda m: m.append([m.pop()]),  # APPEND
    ord("e"): lambda m: m.append(m.pop_to_mark()),  # APPENDS
    ord("}"): _push(lambda m: {}),  # EMPTY_DICT
    ord("s"): lambda m: m.set_items([m.pop(), m.pop()][::-1]),  # SETITEM
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),  # SETITEMS
    0x8F: _push(lambda m: set()),  # EMPTY_SET
    0x90: Machine.add_items,
    0x94: lambda m: m.remember(len(m.memo)),  # MEMOIZE
    ord("q"): lambda m: m.remember(m.number(1)),  # BINPUT
    ord("r"): lambda m: m.remember(m.number(4)),  # LONG_BINPUT
    ord("h"): lambda m: m.recall(m.number(1)),  # BINGET
    ord("j"): lambda m: m.recall(m.number(4)),  # LONG_BINGET
    ord("c"): Machine.global_,
    0x93: Machine.stack_global,
    ord("R"): Machine.reduce,
    0x81: Machine.newobj,
    ord("b"): Machine.build,
    ord("Q"): Machine.persistent,
}
HANDLERS = tuple(OPCODES.get(code, Machine.unknown) for code in range(256))
