"""The pages say what is true: links, paths and tests exist, Python imports or runs, commands have their options."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import pytest
import typer

import restart_sampling as rs
from restart_bindings.moved import new_name
from restart_sampling.cli.app import app
from restart_sampling.common.moved import MOVED, PUBLIC

PACKAGE, TABLE = "restart_sampling", MOVED | PUBLIC

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # the changelog may name what went
ROOMS = {path.name for path in (ROOT / "engine" / "restart_sampling").iterdir() if path.is_dir()}
TOPS = ("engine", "kernels", "bindings", "benchmarks", "tests", "docs")
BLOCK = re.compile(r"^( *)```(python[^\n]*)\n(.*?)^ *```", flags=re.S | re.M)


def name(page: Path) -> str:
    """Return the path of a page from the root."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the Python of a page, each with its language: "python", or "python run" for what is run here."""
    return [(language, textwrap.dedent(code)) for _, language, code in BLOCK.findall(page.read_text())]


PYTHON = [pytest.param(code, id=f"{name(p)}-{i}") for p in PAGES for i, (_, code) in enumerate(blocks(p))]
RUNS = [
    pytest.param(code, id=f"{name(p)}-{i}")
    for p in PAGES
    for i, (language, code) in enumerate(blocks(p))
    if language == "python run"
]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("https://"):
            continue
        file = page if not path else page.parent / path
        assert file.exists(), path
        assert not anchor or anchor in anchors(file), f"{path}#{anchor}"


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_paths_exist(page):
    """Paths from the root, and in code spans those from the package, as `sampler/table.py`; CARD and NAME are any."""
    text = page.read_text()
    for path in re.findall(rf"(?<![\w./-])((?:{'|'.join(TOPS)})/[\w./-]*[\w/])", text):
        if not re.search(r"CARD|NAME|ROOM", path):
            assert (ROOT / path).exists(), path
    for path in re.findall(r"`([\w-]+/[\w./-]*)`", text):
        first = path.split("/")[0]
        if first in ROOMS and "NAME" not in path:
            assert (ROOT / "engine" / "restart_sampling" / path).exists(), path
        moved = (
            new_name(PACKAGE, TABLE, f"{PACKAGE}.{path.removesuffix('.py').replace('/', '.')}")
            if path.endswith(".py")
            else None
        )
        assert moved is None or not resolves(moved), f"{path} is now {moved}"


def test_tests_exist():
    """A page may name a test file, a test in it, or words that `-k` selects tests by."""
    named = [found for page in CURRENT for found in _tests(page.read_text())]
    assert len(named) > 40
    for file, test, words in named:
        tests = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), flags=re.M)
        assert not test or test in tests, f"{file}::{test}"
        for word in filter(None, "" if words == "NAME" else words.strip('"').split(" or ")):
            assert any(word in test for test in tests), f"{file} -k {word}"


def _tests(text: str) -> list[tuple[str, str, str]]:
    return re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?(?: -k (\"[^\"]+\"|\w+))?", text)


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_modules_have_their_new_names(page):
    """Every dotted name resolves; a name whose module needs a package that is not installed is looked for only."""
    for dotted in set(re.findall(r"\brestart_(?:sampling|kernels|bindings)(?:\.\w+)+", page.read_text())):
        old = new_name(PACKAGE, TABLE, dotted)
        assert old is None or dotted.removeprefix(f"{PACKAGE}.") in PUBLIC, f"{dotted} is now {old}"
        assert resolves(dotted), dotted


def resolves(dotted: str) -> bool:
    """Return whether a dotted name is a module or a public attribute of one."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            if importlib.util.find_spec(".".join(parts[:n])) is None:
                continue
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("restart_"):
                continue
            return True
        for part in parts[n:]:
            if part.startswith("_") or not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("code", PYTHON)
def test_python_compiles_and_names_what_is_public(code):
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("restart_"):
            for alias in node.names:
                assert resolves(f"{node.module}.{alias.name}"), f"{node.module}.{alias.name}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rs":
            assert node.attr in rs.__all__, f"rs.{node.attr}"


@pytest.mark.parametrize("code", RUNS)
def test_python_runs(code):
    """Where a comment promises a shape, as in `x = …  # float32 [4, 1, 28, 28]`, the shape is that."""
    found: dict[str, object] = {}
    exec(code, found)
    promised = re.findall(r"^(\w+) = .*# (\w+) \[([\d, ]+)\]", code, flags=re.M)
    assert promised, "a block that is run says what comes out"
    for variable, dtype, shape in promised:
        value = found[variable]
        assert str(value.dtype) == f"torch.{dtype}"  # type: ignore[attr-defined]
        assert list(value.shape) == [int(n) for n in shape.split(",")]  # type: ignore[attr-defined]


def test_commands_have_the_options():
    """Every `restart-sampling …` in the pages is a command, and every option of it exists."""
    command = typer.main.get_command(app)
    lines = [line for page in CURRENT for line in _commands(page.read_text())]
    assert len(lines) > 30
    for line in lines:
        words = shlex.split(re.sub(r"\s#.*", "", line), posix=True)
        at: Any = command  # typer's own kind of click.Command
        options = {option for parameter in at.params for option in parameter.opts}
        for word in words[1:]:
            if word in getattr(at, "commands", ()):
                at = at.commands[word]
                options |= {o for p in at.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
            elif re.fullmatch(r"--[a-z][a-z-]*", word):
                assert word in options, f"{line}: {word}"
            elif at is command and not word.startswith("-") and not word.isupper():
                raise AssertionError(f"{line}: no command {word}")


def _commands(text: str) -> list[str]:
    """Return the command lines of a page: in code blocks, with lines that go on, and in code spans."""
    joined = re.sub(r"\\\n\s*", "", text)
    spans = re.findall(r"`(restart-sampling [a-z][^`]*)`", re.sub(r"```.*?```", "", joined, flags=re.S))
    lines = re.findall(r"^(?: {4})?(?:python -m restart_sampling|restart-sampling) ([a-z].*)$", joined, flags=re.M)
    return [re.sub(r"\s+", " ", span) for span in spans] + [f"restart-sampling {line}" for line in lines]


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    for page in CURRENT:
        for target in re.findall(r"(?:`|^    )make ([a-z][\w-]*)", page.read_text(), flags=re.M):
            assert target in targets, f"{name(page)}: make {target}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_prose_is_at_most_120_columns_wide(page):
    """Tables and code may be wider."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.S | re.M)
    wide = [line for line in text.splitlines() if len(line) > 120 and not re.match(r" *\||    ", line)]
    assert wide == []
