"""Output to the terminal: text of users, files and models is shown as it is, and never interpreted.

Two interpreters stand between a name and the screen. Rich reads `[red]` as markup, so a folder named `[/x]` would be a
MarkupError; the terminal obeys control characters, so a class name in a model file could move the cursor. Every rich
console of the package is made by `plain_console`, which reads no markup, and every text goes through `printable`."""

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
    from rich.table import Table

# C0 and C1 controls except tab and newline, the bidirectional overrides, and lone surrogates, which cannot be encoded.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Items(Sized, Iterable[Any], Protocol):
    """A collection with a length."""


def printable(text: object) -> str:
    """Return `text` with everything that a terminal would obey, or could not show, as a backslash escape."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


@cache
def _plain() -> type[Console]:
    """Return the class of consoles; made on first use, so that commands that print plain lines do not import rich."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Any:  # called for printed text and for cells of tables
            return super().render_str(printable(text), **options)

    return Plain


def plain_console(**options: Any) -> Console:
    """Return a rich console that shows text as it is: no markup, no emoji codes, no highlighting unless asked."""
    return _plain()(**{"highlight": False, **options, "markup": False, "emoji": False})


def print_table(table: Table) -> None:
    """Print a table to standard output, 130 columns wide where that is no terminal."""
    terminal = plain_console()
    (terminal if terminal.is_terminal else plain_console(width=130)).print(table)


def text_column(template: str) -> TextColumn:
    """Return a column of a progress bar that reads no markup; the console's setting does not reach columns."""
    from rich.progress import TextColumn

    return TextColumn(template, markup=False)


def say(text: object = "", file: IO[str] | None = None) -> None:
    """Print a line to `file`, by default standard output."""
    print(printable(text), file=file or sys.stdout)


def one_line(text: object) -> str:
    """Return `text`, printable, with line breaks as escapes too: no name in a file can pretend to be a second line."""
    return printable(text).replace("\n", "\\n")


def error(text: object) -> None:
    """Print `error: text` to standard error, as one line."""
    say(f"error: {one_line(text)}", sys.stderr)


def prepare_streams() -> None:
    """Let standard output and error escape characters that their encoding lacks, instead of failing on them."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def listed(items: Items, most: int = 10) -> str:
    """Return the first `most` items, and how many more there are: "1, 2, 3, … and 4 more"."""
    shown = ", ".join(str(item) for item in islice(items, most))
    more = len(items) - most
    return f"{shown}, … and {more:,} more" if more > 0 else shown


def size(count: float) -> str:
    """Return a number of bytes in the unit that suits it: "3,920 bytes", "5.1 kB", "2.3 GB"."""
    if count < 10_000:
        return f"{int(count):,} bytes"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if count < 1000 * factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e9:,.1f} GB"
