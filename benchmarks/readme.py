"""Write the generated blocks of README.md and docs/ from committed results and from what the package itself says.

    python benchmarks/readme.py            # rewrite the pages
    python benchmarks/readme.py --check    # exit 1 and name the blocks that are stale

A block stands between `<!-- name -->` and `<!-- /name -->`. benchmarks/pages/ has one file for each page with blocks:
`PAGE` names the page, and every public function of the file is the block of that name.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from inspect import isfunction
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Blocks = dict[str, Callable[[], str]]


def pages() -> dict[str, Blocks]:
    """Return the blocks of every page, in the order of their functions, by the page's path."""
    found = {}
    for path in sorted((ROOT / "benchmarks" / "pages").glob("[a-z]*.py")):
        module = importlib.import_module(f"pages.{path.stem}")
        found[str(module.PAGE)] = {
            name: value
            for name, value in vars(module).items()
            if isfunction(value) and value.__module__ == module.__name__ and value.__annotations__ == {"return": "str"}
        }
    return found


def marked(text: str) -> list[str]:
    """Return the names of the blocks that a page's text has places for."""
    return re.findall(r"<!-- (\w+) -->(?=.*?<!-- /\1 -->)", text, flags=re.S)


def filled(text: str, blocks: Blocks) -> tuple[str, list[str]]:
    """Return a page's text with every block written again, and the names of those that were stale.

    Raises:
        SystemExit: a block without a place, or a place without a block.
    """
    if strangers := set(marked(text)) ^ set(blocks):
        raise SystemExit(f"of these either the function or the place is missing: {', '.join(sorted(strangers))}")
    stale = []
    for name, make in blocks.items():
        body = f"<!-- {name} -->\n{make()}\n<!-- /{name} -->"
        if body not in text:
            stale.append(name)
            text = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", lambda _, body=body: body, text, flags=re.S)
    return text, stale


def main() -> int:
    check, failed = "--check" in sys.argv, False
    for page, blocks in pages().items():
        text, stale = filled((ROOT / page).read_text(), blocks)
        for name in stale:
            print(f"{page}: {name}", "is stale; run python benchmarks/readme.py" if check else "is written again")
        if stale and not check:
            (ROOT / page).write_text(text)
        failed = failed or (check and bool(stale))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
