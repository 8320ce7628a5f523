"""What the pages' blocks are made of: paragraphs and tables in Markdown."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
WIDTH = 120
GLUE = "\0"  # stands for a space at which no line ends


def load(name: str) -> Any:
    """Return the contents of a JSON file in benchmarks/results."""
    return json.loads((RESULTS / name).read_text())


def prose(*sentences: str, bullet: str = "") -> str:
    """Return one paragraph, wrapped at 120 columns; `bullet` begins a list item.

    Code, numbers in brackets and a percentage stay on one line.
    """
    text = re.sub(r"`[^`]*`|\[[\d., NKtmainx_]*\]|\d %", lambda m: m[0].replace(" ", GLUE), " ".join(sentences))
    wrap = textwrap.TextWrapper(
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrap.fill(text).replace(GLUE, " ")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a header."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign, as +0.004 or −0.255."""
    return f"{value:+.{digits}f}".replace("-", "−")


def listed(items: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
