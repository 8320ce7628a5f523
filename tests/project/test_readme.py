"""The README says what is true: its Python runs, its tables are made from committed rows, its commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import readme

README = Path(__file__).resolve().parents[2] / "README.md"
TEXT = README.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(block, capsys):
    names: dict[str, object] = {}
    exec(block, names)
    assert tuple(names["x"].shape) in ((4, 1, 28, 28), (8, 3, 32, 32), (12, 1, 28, 28))  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", readme.PAGES)
def test_generated_places_are_up_to_date(page):
    text = (readme.ROOT / page).read_text()
    assert readme.filled(text, page) == text, "run: python benchmarks/readme.py"


def test_quick_start_and_tests_are_one_command_each():
    for heading, command in (("Quick start", "make demo"), ("Tests", "make test")):
        section = re.search(rf"^## {heading}\n(.*?)(?=^## )", TEXT, flags=re.S | re.M).group(1)  # type: ignore[union-attr]
        assert re.findall(r"```\w*\n(.*?)```", section, flags=re.S) == [f"{command}\n"]


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (README.parent / target).exists(), target


def test_the_tests_that_docs_name_exist():
    """docs/models.md says which test verified what: every file is there, and every word of its -k selects a test."""
    text = (README.parent / "docs" / "models.md").read_text()
    named = re.findall(r"`(tests/\w+\.py)(?: -k (\"[^\"]+\"|\w+))?`", text)
    assert len(named) > 15
    for file, words in named:
        tests = re.findall(r"^def (test_\w+)", (README.parent / file).read_text(), flags=re.M)
        for word in filter(None, words.strip('"').split(" or ")):
            assert any(word in test for test in tests), f"{file} -k {word}"


def test_the_kills_that_docs_count():
    """docs/production.md: forty trials each for processes, torchrun and Ray with one, two and three workers; all trees
    equal.
    """
    rows = json.loads((readme.RESULTS / "kill_trials.json").read_text())["rows"]
    assert {(row["by"], row["workers"]) for row in rows} == {
        (by, n) for by in ("processes", "torchrun", "ray") for n in (1, 2, 3)
    }
    for row in rows:
        assert row["equal"] == row["trials"] == 40 and row["half_done"] >= 5, row
