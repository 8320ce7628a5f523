"""The plan of the house: a room knows only the rooms below it, modules import in no circle, and files stay small.

Imports inside functions count; imports for type checkers alone (under TYPE_CHECKING) do not.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    name: ROOT / root / name
    for root, name in (("engine", "restart_sampling"), ("kernels", "restart_kernels"), ("bindings", "restart_bindings"))
}
# From the top of the house down: each knows those after it.
ROOMS = ("cli", "experiments", "jobs", "integrations", "sampler", "models", "plan", "solvers", "common")
STUDIES = {"tune": 3, "report": 2, "training": 1, "measure": 0, "profile": 0}
MOST_LINES, MOST_ENTRIES = 400, 12


def name_of(path: Path) -> str:
    package = next(folder for folder in PACKAGES.values() if path.is_relative_to(folder))
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(path): path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py"))}


def imported(name: str, path: Path) -> set[str]:
    """The modules of ours that a module imports."""
    found = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join(base + ([node.module] if node.module else []))
            inside = {f"{source}.{alias.name}" for alias in node.names}
            submodules = inside & modules().keys()
            found |= submodules
            if len(submodules) < len(inside):  # names of the module itself
                found.add(source)
    return found & modules().keys()


@cache
def graph() -> dict[str, set[str]]:
    return {name: imported(name, path) for name, path in modules().items()}


def floor(name: str) -> tuple[int, int]:
    """How high a module stands: (package or room, study within experiments)."""
    package, *rest = name.split(".")
    if package != "restart_sampling":
        return (-1 if package == "restart_kernels" else -2), 0
    if not rest or rest[0] == "__main__":
        return len(ROOMS), 0
    room = len(ROOMS) - 1 - ROOMS.index(rest[0])
    study = STUDIES.get(rest[1], 0) if rest[0] == "experiments" and rest[1:] else 0
    return room, study


def test_a_room_knows_only_the_rooms_below_it():
    upward = [f"{a} → {b}" for a, known in graph().items() for b in known if floor(b) > floor(a) and "." in b]
    assert not upward


def test_no_module_imports_the_top_of_the_package():
    assert not [a for a, known in graph().items() if "restart_sampling" in known and a != "restart_sampling.__main__"]


def test_no_circle():
    """Imports inside functions count too."""
    done: set[str] = set()
    trail: list[str] = []

    def visit(name: str) -> None:
        assert name not in trail, " → ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        trail.append(name)
        for other in sorted(graph()[name]):
            visit(other)
        trail.pop()
        done.add(name)

    for name in graph():
        visit(name)


def test_an_init_holds_a_docstring_and_re_exports():
    for name, path in modules().items():
        if path.name != "__init__.py" or name in PACKAGES:
            continue
        for node in ast.parse(path.read_text()).body:
            text = ast.unparse(node)
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            types = isinstance(node, ast.If) and text.startswith("if TYPE_CHECKING")
            names = isinstance(node, ast.Assign) and (text.startswith(("__all__", "NODE_")) or "lazy(" in text)
            assert docstring or types or names or isinstance(node, (ast.Import, ast.ImportFrom)), f"{path}: {text}"


def test_twelve_entries_at_most():
    folder = PACKAGES["restart_sampling"]
    entries = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    assert len(entries) <= MOST_ENTRIES, entries
    assert {path.name for path in folder.iterdir() if path.is_dir()} - {"__pycache__"} == set(ROOMS)


def test_no_file_is_long():
    files = [*(p for folder in PACKAGES.values() for p in folder.rglob("*.py")), *(ROOT / "benchmarks").rglob("*.py")]
    long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > MOST_LINES}
    assert not long


def test_the_tests_mirror_the_rooms_and_import_no_test():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {*ROOMS, "kernels", "project", "support"}
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            sources = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            sources += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [s for s in sources if s.split(".")[-1].startswith("test_") or s == "conftest"], path
    assert not list((ROOT / "tests").glob("test_*.py"))


@pytest.mark.parametrize(
    "code",
    [
        "import restart_sampling as rs; rs.preset('imagenet64-edm-623').explain()",
        "import pkgutil, importlib, restart_sampling as rs\n"
        "for room in ('plan', 'solvers'):\n"
        "    package = importlib.import_module(f'restart_sampling.{room}')\n"
        "    for module in pkgutil.iter_modules(package.__path__):\n"
        "        importlib.import_module(f'{package.__name__}.{module.name}')",
        "from typer.testing import CliRunner\n"
        "from restart_sampling.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['plan', '--steps', '4']).exit_code == 0",
    ],
    ids=["preset", "rooms", "help and plan"],
)
def test_plans_and_help_import_no_torch(code):
    code += "\nimport sys; assert 'torch' not in sys.modules and 'triton' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
