r"""Text of a Restart configuration → plain lists, objects and numbers that remember their place.

The language is JSON, plus what people paste: numbers as keys (`{0.1: [10, 2, 2]}`), single and curly quotes, tuples, a
comma after the last value, comments (`# …`, `// …`, `/* … */`), a byte order mark, several lists in a row
(`[3,2,0.06,0.30],[3,1,0.30,0.59]`) or one a line, and a leading N_main (`18 {…}`, `29; [[…]]`). With the comments
blanked all of it is Python, so `ast.parse` reads it and :class:`_Walker` takes what belongs to the language.

Errors are a ConfigError with line and column: a file of several configurations, one a line; NaN, Infinity and every
word but true, false and null; a key given twice; lists nested more than three deep. notation.py decides what the
values mean.
"""

from __future__ import annotations

import ast
import numbers
import re
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..common.errors import ConfigError

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_STRING = r"\"[^\"\n]*\"|'[^'\n]*'"
_STEPS = re.compile(r"\s*(\d{1,18})\s*(?:;|(?=[\[({]))")
_COMMENT = re.compile(rf"({_STRING})|#[^\n]*|//[^\n]*|/\*.*?\*/", re.DOTALL)
_PERCENT = re.compile(rf"({_STRING})|{_NUMBER}%")
_NEXT_LINE = re.compile(r"(?<=[\])}])\s*\n\s*(?=[\[({])")  # one value a line, without a comma
_CONFIGURATION = re.compile(r"\s*(?:\d{1,18}\s*(?:;\s*)?[\[({]|\{)")  # a line that holds one
_ALIKE = str.maketrans({"\ufeff": " ", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "−": "-"})
_WORDS = {"true": True, "false": False, "null": None}
_CONSTANTS = ("True", "False", "None")
_MAX_DIGITS = 40
_DEPTH = 2  # the deepest list is in a list in a list


class Items(list[Any]):
    """A list and its place in the text ("line 1 column 8: ")."""

    def __init__(self, values: Iterable[Any], place: str) -> None:
        super().__init__(values)
        self.place = place


class Object(dict[str, Any]):
    """An object and its place in the text. Keys are as written, without quotes."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place


class Text(NamedTuple):
    """What a text holds: the value, N_main if it leads, and whether several lists stood in a row."""

    value: Any
    steps: int | None
    row: bool


def place(item: Any) -> str:
    """Return where `item` stood in the text, "" for an object that was never text."""
    return getattr(item, "place", "")


def shown(value: Any) -> str:
    """Return `value` as a user wrote it, at most 60 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**18:
        return "an integer beyond 10^18"
    try:
        text = str(value) if isinstance(value, numbers.Real) else repr(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        text = f"a {type(value).__name__} holding a huge integer"
    return text if len(text) <= 60 else text[:57] + "..."


def key_number(key: Any) -> int | float | None:
    """Return the number a key stands for: int for an integer label, float for a decimal, None for a name."""
    if isinstance(key, str):
        if re.fullmatch(r"[+-]?\d{1,18}", key):
            return int(key)
        return float(key) if re.fullmatch(rf"[+-]?{_NUMBER}", key) else None
    if isinstance(key, numbers.Real) and not isinstance(key, bool):
        return int(key) if isinstance(key, numbers.Integral) else float(key)
    return None


def plain(text: str) -> str:
    """Return `text` with comments blanked and look-alikes written plainly; every character keeps its place."""

    def blank(match: re.Match[str]) -> str:
        return match[1] or re.sub(r"[^\n]", " ", match[0])

    return _COMMENT.sub(blank, text.translate(_ALIKE))


def read_text(text: str, forms: str) -> Text:
    """Read `text`, which is `plain`.

    Args:
        forms: what may stand at the top, for messages.

    Raises:
        ConfigError: the text is not in the language; the message begins with line and column.
    """
    main = _STEPS.match(text)
    walker = _Walker(text, main.end() if main else 0, forms)
    nodes = walker.top()
    values = [walker.value(node, 0) for node in nodes]
    if len(values) > 1 and not all(isinstance(value, list) for value in values):
        message = "only lists may follow each other, as in [3,2,0.06,0.3],[3,1,0.3,0.59]"
        raise walker.error(message, walker.start(nodes[1]))
    return Text(values if len(values) > 1 else values[0], int(main[1]) if main else None, len(values) > 1)


class _Walker:
    """Walks the syntax tree of `text`, the first `start` characters of which are left out."""

    def __init__(self, text: str, start: int, forms: str) -> None:
        self.text, self.forms = text, forms
        self.percent: dict[int, str] = {}  # position → "25%"
        code = " " * start + text[start:]
        code = _NEXT_LINE.sub(lambda match: "," + match[0][1:], code)
        self.code = _PERCENT.sub(self._name_percent, code)
        self.lines = self.code.split("\n")

    def _name_percent(self, match: re.Match[str]) -> str:
        """Write `25%` as a name of the same length, since Python would divide."""
        if match[1]:
            return match[1]
        self.percent[match.start()] = match[0]
        return "_" * len(match[0])

    def place(self, at: int) -> str:
        line_start = self.text.rfind("\n", 0, at) + 1
        return f"line {self.text.count(chr(10), 0, at) + 1} column {at - line_start + 1}: "

    def error(self, message: str, at: int) -> ConfigError:
        lines = [str(n) for n, line in enumerate(self.text.split("\n"), 1) if _CONFIGURATION.match(line)]
        if len(lines) > 1:
            shown_lines = ", ".join(lines[:5]) + (", …" if len(lines) > 5 else "")
            message = f"the text holds {len(lines)} configurations, at lines {shown_lines}; pass one of these lines"
        return ConfigError(self.place(at) + message)

    def top(self) -> list[ast.expr]:
        """Return the values of the text, read as what a list holds: then lines need no indentation of Python's."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's advice on program text
                root = ast.parse(f"[{self.code}\n]", mode="eval").body
        except SyntaxError as error:
            at = self._at(error.lineno or 1, (error.offset or 1) - 1)
            raise self._unreadable(at, error.msg) from None
        except (ValueError, MemoryError, RecursionError) as error:  # NUL, or thousands of brackets
            raise self._unreadable(0, str(error) or "nested too deeply") from None
        if not isinstance(root, ast.List) or not root.elts:
            raise self._unreadable(0, "it is no list or object")
        return root.elts

    def _unreadable(self, at: int, why: str) -> ConfigError:
        rest = self.text[at:].strip()
        if not rest:
            unmatched = why.startswith("unmatched")
            return self.error(f"the text ends where a bracket {'was not opened' if unmatched else 'is still open'}", at)
        return self.error(f"cannot read {shown(rest)} ({why}); expected {self.forms}", at)

    def _at(self, line: int, column: int) -> int:
        """Return the position in the text of a line and column of what was parsed, which begins with a bracket."""
        before = sum(len(text) + 1 for text in self.lines[: line - 1])
        return max(0, min(before + column - (line == 1), len(self.text)))

    def start(self, node: ast.expr) -> int:
        """Return where a node begins in the text; Python counts its columns in bytes."""
        return self._in_bytes(node.lineno, node.col_offset)

    def _in_bytes(self, line: int, column: int) -> int:
        text = "[" * (line == 1) + self.lines[line - 1]
        return self._at(line, len(text.encode()[:column].decode()))

    def source(self, node: ast.expr) -> str:
        """Return a node as it was written."""
        return self.text[self.start(node) : self._in_bytes(node.end_lineno or 1, node.end_col_offset or 0)]

    def value(self, node: ast.expr, depth: int) -> Any:
        """Return the value of a node: a number, text, None, a bool, :class:`Items` or :class:`Object`."""
        at, written = self.start(node), self.source(node)
        if isinstance(node, (ast.List, ast.Tuple, ast.Dict)):
            if depth > _DEPTH:
                raise self.error("nested too deeply", at)
            if isinstance(node, ast.Dict):
                return self.object(node, depth)
            return Items((self.value(item, depth + 1) for item in node.elts), self.place(at))
        if isinstance(node, ast.Set):
            self.value(node.elts[0], depth + 1)
            raise self.error(f"expected a key and a value, got {shown(written)}", at)
        if isinstance(node, (ast.Subscript, ast.Call)):  # `[1] [2]` and `[1] (2)`
            first = node.value if isinstance(node, ast.Subscript) else node.func
            end = self._in_bytes(first.end_lineno or 1, first.end_col_offset or 0)
            end += len(self.text[end:]) - len(self.text[end:].lstrip())
            raise self.error(f"a comma or colon is missing before {shown(self.text[end:].rstrip())}", end)
        name = node.operand if isinstance(node, ast.UnaryOp) else node
        if isinstance(name, ast.Name):
            if self.start(name) in self.percent:
                return written
            if written in _WORDS:
                return _WORDS[written]
            if name.id.lower() in ("nan", "inf", "infinity"):
                raise self.error(f"{written} is not a finite number", at)
        if re.fullmatch(rf"[+-]?{_NUMBER}", written):
            if len(written) > _MAX_DIGITS:
                raise self.error(f"{shown(written)} is too long for a number", at)
            return int(written) if re.fullmatch(r"[+-]?\d+", written) else float(written)
        if isinstance(node, ast.Constant) and (written in _CONSTANTS or node.value == written[1:-1]):
            return node.value
        raise self.error(f"expected {'a number or a list' if depth else self.forms}, got {shown(written)}", at)

    def object(self, node: ast.Dict, depth: int) -> Object:
        found = Object(self.place(self.start(node)))
        seen: set[object] = set()
        for key, value in zip(node.keys, node.values, strict=True):
            written = "**" if key is None else self.source(key)
            at = self.start(key or value)
            text = isinstance(key, ast.Constant) and key.value == written[1:-1]
            name = written[1:-1] if text else written
            number = key_number(name)
            if number is None and not text and not isinstance(key, ast.Name) and written not in _CONSTANTS:
                raise self.error(f"expected a key, got {shown(written)}", at)
            same: object = name if number is None else number
            if same in seen:
                raise self.error(f"the key {written} is there twice", at)
            seen.add(same)
            found[name] = self.value(value, depth + 1)
        return found
