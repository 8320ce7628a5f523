"""README.md: its length, its commands, and the blocks that benchmarks/readme.py writes into it and into the pages."""

from __future__ import annotations

import json
import re
import subprocess

import pytest
import readme

README = (readme.ROOT / "README.md").read_text()
PAGES = readme.pages()


def test_the_readme_is_one_screen_and_a_half():
    assert len(README.splitlines()) <= 150


def test_quick_start_and_tests_are_one_command_each():
    for heading, command in (("Quick start", "make demo"), ("Tests", "make test")):
        section = re.search(rf"^## {heading}\n(.*?)(?=^## )", README, flags=re.S | re.M).group(1)  # type: ignore[union-attr]
        assert re.findall(r"```[^\n]*\n(.*?)```", section, flags=re.S) == [f"{command}\n"]


def test_the_gate_runs_the_readmes_command():
    """.ci/run takes the first code block of the section Tests."""
    (line,) = [
        line for line in (readme.ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("command=$(awk")
    ]
    awk = line.removeprefix("command=$(").removesuffix(")")
    found = subprocess.run(awk, shell=True, cwd=readme.ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "make test\n"


@pytest.mark.parametrize("page", PAGES)
def test_generated_blocks_are_up_to_date(page):
    _, stale = readme.filled((readme.ROOT / page).read_text(), PAGES[page])
    assert stale == [], "run: python benchmarks/readme.py"


def test_a_stale_block_is_found_and_a_lost_one_refused():
    blocks = {"one": lambda: "1", "two": lambda: "2"}
    page = "a\n<!-- one -->\n1\n<!-- /one -->\nb\n<!-- two -->\nold\n<!-- /two -->\n"
    text, stale = readme.filled(page, blocks)
    assert stale == ["two"]
    assert text == page.replace("old", "2")
    assert readme.filled(text, blocks) == (text, [])
    with pytest.raises(SystemExit, match="three"):
        readme.filled(page, {**blocks, "three": lambda: "3"})
    with pytest.raises(SystemExit, match="two"):
        readme.filled(page, {"one": blocks["one"]})


def test_every_place_of_a_block_belongs_to_a_page():
    """A page that has places for blocks has a file in benchmarks/pages/."""
    for path in readme.ROOT.glob("docs/*.md"):
        if readme.marked(path.read_text()):
            assert f"docs/{path.name}" in PAGES, path.name


def test_the_kills_that_docs_count():
    """Forty trials each for processes, torchrun and Ray with one, two and three workers; all equal (production.md)."""
    rows = json.loads((readme.RESULTS / "kill_trials.json").read_text())["rows"]
    assert {(row["by"], row["workers"]) for row in rows} == {
        (by, n) for by in ("processes", "torchrun", "ray") for n in (1, 2, 3)
    }
    for row in rows:
        assert row["equal"] == row["trials"] == 40 and row["half_done"] >= 5, row
