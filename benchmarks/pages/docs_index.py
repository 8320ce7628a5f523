"""Blocks of docs/README.md: the list of pages, by the title that each begins with."""

from __future__ import annotations

from ._markdown import RESULTS

PAGE = "docs/README.md"


def pages() -> str:
    folder = RESULTS.parents[1] / "docs"
    titles = {
        path.name: path.read_text().split("\n", 1)[0].removeprefix("# ")
        for path in sorted(folder.glob("*.md"))
        if path.name != "README.md"
    }
    return "\n".join(f"* [{title}]({name})" for name, title in titles.items())
