"""What the terminal is given: text of users, files and models is shown as it is, and never interpreted.

Two interpreters stand between a name and the screen. Rich reads `[red]` as markup, so a folder named `[/x]` would be a
MarkupError; the terminal obeys control characters, so a class name in a model file could move the cursor. Every rich
console of the package is made by :func:`plain_console`, which reads no markup, and every text goes through
:func:`printable`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sized
from functools import cache
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TextColumn

# C0 and C1 controls but tab and newline, the bidirectional overrides, and lone surrogates, which cannot be encoded.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Items(Sized, Iterable[Any], Protocol):
    """A collection with a length."""


def printable(text: object) -> str:
    """`text` with everything that a terminal would obey, or could not show, as a backslash escape."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


@cache
def _plain() -> type[Console]:
    """Made on first use: commands that print plain lines do not wait for rich."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Any:  # of printed text and of the cells of tables
            return super().render_str(printable(text), **options)

    return Plain


def plain_console(**options: Any) -> Console:
    """A rich console that shows text as it is: no markup, no emoji codes, no highlighting unless asked."""
    return _plain()(**{"highlight": False, **options, "markup": False, "emoji": False})


def text_column(template: str) -> TextColumn:
    """A column of a progress bar, without markup: the console does not decide that for it."""
    from rich.progress import TextColumn

    return TextColumn(template, markup=False)


def say(text: object = "", file: IO[str] | None = None) -> None:
    """Print a line to `file`, by default standard output."""
    print(printable(text), file=file or sys.stdout)


def one_line(text: object) -> str:
    """`text`, printable, with its line breaks as escapes too: a name in a file cannot pretend to be a second line."""
    return printable(text).replace("\n", "\\n")


def error(text: object) -> None:
    """Print `error: text` to standard error, as one line."""
    say(f"error: {one_line(text)}", sys.stderr)


def prepare_streams() -> None:
    """Let standard output and error escape what their encoding lacks, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def listed(items: Items, most: int = 10) -> str:
    """The first `most` items, and how many more there are: "1, 2, 3, … and 4 more"."""
    shown = ", ".join(str(item) for item in islice(items, most))
    more = len(items) - most
    return f"{shown}, … and {more:,} more" if more > 0 else shown


def size(count: float) -> str:
    """A number of bytes in the unit that suits it: "3,920 bytes", "5.1 kB", "2.3 GB"."""
    if count < 10_000:
        return f"{int(count):,} bytes"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if count < 1000 * factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e9:,.1f} GB"
