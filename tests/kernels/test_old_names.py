"""Old names of modules that moved: they import the new module itself, with a warning that points at the import."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.children import python

import restart_kernels as rk
from restart_bindings.moved import keep_old_names

MOVED = {
    "restart_kernels.launch": "restart_kernels.backends.triton",
    "restart_kernels.step": "restart_kernels.row",
    "restart_kernels.step.reference": "restart_kernels.row.reference",
}


@pytest.fixture
def forget():
    """Let every old name warn again, before and after a test."""

    def run():
        for name in [
            n for n in sys.modules if n.startswith(("restart_kernels.step", "restart_kernels.launch", "example"))
        ]:
            del sys.modules[name]

    run()
    yield run
    run()
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "package", None) != "example"]


@pytest.mark.filterwarnings("ignore:restart_kernels.step is:DeprecationWarning")  # the parent of step.reference
@pytest.mark.parametrize("old", MOVED)
def test_the_kernels_old_names_are_the_new_modules(forget, old):
    with pytest.warns(
        DeprecationWarning, match=rf"^{old} is {MOVED[old]} since 0\.1; the old name is removed in 0\.2$"
    ):
        module = importlib.import_module(old)
    assert module is importlib.import_module(MOVED[old])
    assert module.__name__ == module.__spec__.name == MOVED[old]


def test_every_form_of_an_import_warns_where_it_stands(forget):
    """And once: a second import of the same name is silent."""
    with pytest.warns(DeprecationWarning) as caught:
        import restart_kernels.launch
        from restart_kernels.launch import configure
        from restart_kernels.step import reference
        from restart_kernels.step.reference import advance, run_row

        from restart_kernels import launch
    assert [str(w.message).split()[0] for w in caught] == [
        "restart_kernels.launch",
        "restart_kernels.step",
        "restart_kernels.step.reference",
    ]
    assert {w.filename for w in caught} == {__file__}
    assert restart_kernels.launch is launch
    assert launch.configure is configure
    assert (reference.run_row, reference.advance) == (run_row, advance)


def test_dispatch_keeps_its_name(recwarn):
    from restart_kernels.dispatch import bind, normal, resolve_backend

    assert (bind, normal, resolve_backend) == (rk.bind, rk.normal, rk.resolve_backend)
    assert not [w for w in recwarn if issubclass(w.category, DeprecationWarning)]


def write(folder, **files):
    """Write modules by name, "__" for a dot."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__"))
        if text is None:
            path.mkdir(parents=True)
            (path / "__init__.py").touch()
        else:
            path.with_suffix(".py").write_text(text)


@pytest.fixture
def example(tmp_path, monkeypatch, forget):
    """A package whose modules count how often they run."""
    write(tmp_path, example=None, example__new=None, example__new__deep=None, example__other=None)
    count = "import example\nexample.runs = getattr(example, 'runs', 0) + 1\n"
    write(tmp_path, example__new__a=count, example__new__deep__b=count, example__other__c=count)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return importlib.import_module("example")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_entry_stands_for_what_is_below_it_and_the_longest_decides(example):
    keep_old_names("example", {"old": "new", "old.x": "other.c", "old.deep.y": "new.deep.b"}, "2", "3")
    for old, new in {
        "old": "new",
        "old.a": "new.a",
        "old.deep.b": "new.deep.b",
        "old.deep.y": "new.deep.b",
        "old.x": "other.c",
    }.items():
        assert importlib.import_module(f"example.{old}") is importlib.import_module(f"example.{new}"), old
    assert example.runs == 3  # each file once, however it is called
    for missing in ("old.missing", "older", "a"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"example.{missing}")


@pytest.mark.parametrize("table", [{"plan": "plan.plan"}, {"a": "b", "b": "c"}, {"a": "a"}])
def test_a_new_name_that_is_itself_an_old_one_is_refused(table):
    before = list(sys.meta_path)
    with pytest.raises(ValueError, match="cannot be an old name of"):
        keep_old_names("example", table, "2", "3")
    assert sys.meta_path == before


def test_a_second_table_of_a_package_replaces_the_first(example):
    before = len(sys.meta_path)
    for table in ({"old": "new"}, {"former": "other"}):
        keep_old_names("example", table, "2", "3")
    assert len(sys.meta_path) == before + 1
    with pytest.warns(
        DeprecationWarning, match=r"^example\.former is example\.other since 2; the old name is removed in 3$"
    ):
        importlib.import_module("example.former")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("example.old")


def test_a_script_sees_the_warning_without_any_option(tmp_path):
    """Python shows a DeprecationWarning to `__main__` alone, so it has to be attributed to the file with the import."""
    script = tmp_path / "mine.py"
    script.write_text("import torch\nfrom restart_kernels.launch import configure\n")
    root = Path(rk.__file__).parents[2]
    done = python(script, env={"PYTHONPATH": f"{root / 'kernels'}:{root / 'bindings'}", "PATH": ""})
    assert done.returncode == 0, done.stderr
    assert "mine.py:2: DeprecationWarning: restart_kernels.launch is" in done.stderr


def test_the_mechanism_needs_no_tensor_library():
    """So that a package whose plans and `--help` import no torch can use it in its `__init__`."""
    code = "import sys, restart_bindings.moved; sys.exit('torch' in sys.modules)"
    path = Path(rk.__file__).parents[2] / "bindings"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(path)}, check=False).returncode == 0
