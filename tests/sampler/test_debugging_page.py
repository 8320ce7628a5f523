"""docs/debugging.md: every block runs, in order, and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import restart_kernels

PAGE = Path(__file__).parents[2] / "docs" / "debugging.md"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def close(found: str, shown: str) -> bool:
    """Integers are equal; other numbers have the same size, since the last digits are a matter of the machine."""
    if not re.search(r"[.e]", found + shown):
        return found == shown
    a, b = float(found), float(shown)
    return abs(a - b) <= 0.02 or 0.4 < a / b < 2.5


def test_the_page_shows_what_its_blocks_print(one_thread):
    if "native" not in restart_kernels.available_backends("cpu"):
        pytest.skip("the page was printed with the native backend")
    parts = re.findall(r"```python\n(.*?)\n```(?:\n\n```text\n(.*?)\n```)?", PAGE.read_text(), flags=re.S)
    assert sum(bool(shown) for _, shown in parts) == len(parts) == 7
    names: dict[str, object] = {}
    for code, shown in parts:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        found = printed.getvalue().strip()
        assert NUMBER.sub("#", re.sub(" +", " ", found)) == NUMBER.sub("#", re.sub(" +", " ", shown.strip()))
        for a, b in zip(NUMBER.findall(found), NUMBER.findall(shown), strict=True):
            assert close(a, b), (a, b, found)
