r"""Text of a Restart configuration → plain lists, objects and numbers that remember their place.

The language is JSON, plus what people paste: numbers as keys (`{0.1: [10, 2, 2]}`), single and curly quotes,
tuples, a comma after the last value, comments (`# …`, `// …`, `/* … */`), a byte order mark, several lists in
a row (`[3,2,0.06,0.30],[3,1,0.30,0.59]`) or one a line, and a leading N_main (`18 {…}`, `29; [[…]]`). A file
of several configurations, one a line, is refused with the lines named. Refused too: NaN, Infinity and every
other word but true, false and null, a key given twice, nesting deeper than a list in a list. Every refusal is
a ConfigError with line and column. What the values mean is restart.py's business.
"""

from __future__ import annotations

import numbers
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..common.errors import ConfigError

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TOKEN = re.compile(
    rf"(?P<number>{_NUMBER}%?)|(?P<string>\"[^\"\\\n]*\"|'[^'\\\n]*')"
    r"|(?P<word>[+-]?[A-Za-z_]\w*)|(?P<mark>[\[\](){}:,])"
)
_CLOSING = {"[": "]", "(": ")"}
_STEPS = re.compile(r"\s*(\d{1,18})\s*(?:;|(?=[\[({]))")
_LINE = re.compile(r"(?:\d{1,18}\s*(?:;\s*)?)?[\[({]")  # where the configuration of a line begins
_COMMENT = re.compile(r"(\"[^\"\n]*\"|'[^'\n]*')|#[^\n]*|//[^\n]*|/\*.*?\*/", re.DOTALL)
_ALIKE = str.maketrans({"\ufeff": " ", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "−": "-"})
_WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_MAX_DIGITS = 40


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
    """What a text holds: the value, N_main if it leads, whether several lists stood in a row."""

    value: Any
    steps: int | None
    row: bool


def place(item: Any) -> str:
    """Where `item` stood in the text, "" for an object that was never text."""
    return getattr(item, "place", "")


def shown(value: Any) -> str:
    """`value` as a user wrote it, at most 60 characters."""
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
    """The number a key stands for: int for an integer label, float for a decimal, None for a name."""
    if isinstance(key, str):
        if re.fullmatch(r"[+-]?\d{1,18}", key):
            return int(key)
        return float(key) if re.fullmatch(_NUMBER, key) else None
    if isinstance(key, numbers.Real) and not isinstance(key, bool):
        return int(key) if isinstance(key, numbers.Integral) else float(key)
    return None


def plain(text: str) -> str:
    """Return `text` with comments blanked and look-alikes written plainly; every character keeps its place."""

    def blank(match: re.Match[str]) -> str:
        return match[1] or re.sub(r"[^\n]", " ", match[0])

    return _COMMENT.sub(blank, text.translate(_ALIKE))


def read_text(text: str, forms: str) -> Text:
    """Read `text`, which is `plain`; `forms` names what may stand at the top, for messages."""
    main = _STEPS.match(text)
    reader = _Reader(text, main.end() if main else 0, forms)
    values = [reader.value(0)]
    while next_value := reader.another(values):
        comma = reader.at
        reader.at += next_value == ","
        if next_value == "," and not reader.peek():
            break
        values.append(reader.value(0))
        if not all(isinstance(value, list) for value in values):
            raise reader.error("only lists may follow each other, as in [3,2,0.06,0.3],[3,1,0.3,0.59]", comma)
    if reader.peek():
        raise reader.error(f"unexpected {shown(text[reader.at :])} after the end")
    row = len(values) > 1
    return Text(values if row else values[0], int(main.group(1)) if main else None, row)


class _Reader:
    """A recursive-descent reader over tokens; `at` is the position in the text."""

    def __init__(self, text: str, at: int, forms: str) -> None:
        self.text, self.at, self.forms = text, at, forms

    def place(self, at: int) -> str:
        line_start = self.text.rfind("\n", 0, at) + 1
        return f"line {self.text.count(chr(10), 0, at) + 1} column {at - line_start + 1}: "

    def error(self, message: str, at: int | None = None) -> ConfigError:
        return ConfigError(self.place(self.at if at is None else at) + message)

    def peek(self) -> str:
        """The next character that is not space, "" at the end."""
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def another(self, values: list[Any]) -> str:
        """What leads to another value at the top: a comma, or the bracket of a list on a new line; "" for neither."""
        end = self.at
        mark = self.peek()
        if mark == "," or not mark or "\n" not in self.text[end : self.at]:
            return "," if mark == "," else ""
        if mark in _CLOSING and isinstance(values[-1], Items) and not _STEPS.match(self.text):
            return mark
        if _LINE.match(self.text, self.at):
            lines = [str(n) for n, line in enumerate(self.text.split("\n"), 1) if _LINE.match(line.strip())]
            shown_lines = ", ".join(lines[:5]) + (", …" if len(lines) > 5 else "")
            raise self.error(
                f"the text holds {len(lines)} configurations, at lines {shown_lines}; pass one of these lines"
            )
        return ""

    def token(self, expected: str) -> tuple[str, str, int]:
        """(kind, text, position) of the next token."""
        if not self.peek():
            raise self.error(f"the text ends where {expected} should be")
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            raise self.error(f"expected {expected}, got {shown(self.text[self.at :])}")
        start, self.at = self.at, match.end()
        return str(match.lastgroup), match.group(), start

    def value(self, depth: int) -> Any:
        expected = "a number or a list" if depth else self.forms
        kind, text, start = self.token(expected)
        if kind == "number":
            if len(text) > _MAX_DIGITS:
                raise self.error(f"{shown(text)} is too long for a number", start)
            if text.endswith("%"):
                return text
            return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        if kind == "string":
            return text[1:-1]
        if kind == "word":
            if text in _WORDS:
                return _WORDS[text]
            if text.lstrip("+-").lower() in ("nan", "inf", "infinity"):
                raise self.error(f"{text} is not a finite number", start)
            raise self.error(f"expected {expected}, got {shown(text)}", start)
        if text not in "[({":
            raise self.error(f"expected {expected}, got {text!r}", start)
        if depth > 2:
            raise self.error("nested too deeply", start)
        return self.object(start, depth) if text == "{" else self.items(start, depth, _CLOSING[text])

    def items(self, start: int, depth: int, closing: str) -> Items:
        found = Items((), self.place(start))
        while not self.ends(closing):
            found.append(self.value(depth + 1))
            if self.mark(",", closing) == closing:
                break
        return found

    def ends(self, closing: str) -> bool:
        """Whether the list or object is over: at once, or after a comma."""
        if self.peek() != closing:
            return False
        self.at += 1
        return True

    def object(self, start: int, depth: int) -> Object:
        found = Object(self.place(start))
        seen: set[object] = set()
        while not self.ends("}"):
            kind, text, at = self.token("a key")
            if kind == "mark":
                raise self.error(f"expected a key, got {text!r}", at)
            key = text[1:-1] if kind == "string" else text
            number = key_number(key)
            same: object = key if number is None else number
            if same in seen:
                raise self.error(f"the key {text} is there twice", at)
            seen.add(same)
            self.mark(":")
            found[key] = self.value(depth + 1)
            if self.mark(",", "}") == "}":
                break
        return found

    def mark(self, *allowed: str) -> str:
        wanted = " or ".join(map(repr, allowed))
        _, text, start = self.token(wanted)
        if text not in allowed:
            raise self.error(f"expected {wanted}, got {shown(text)}", start)
        return text
