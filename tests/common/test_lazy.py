"""Names of a package that are imported on first use, and names that moved."""

from __future__ import annotations

import subprocess
import sys

import pytest

import restart_sampling as rs
from restart_sampling.common.errors import BackendError
from restart_sampling.common.lazy import lazy, moved_names

PACKAGE = "restart_sampling.common"


def test_names_and_modules_are_imported_when_they_are_asked_for():
    get, listed = lazy(PACKAGE, {"shown": "checks"}, modules={"text": "terminal"})
    from restart_sampling.common import checks, terminal

    assert get("shown") is checks.shown and get("text") is terminal
    assert {"shown", "text", "checks", "__name__"} <= set(listed()) and listed() == sorted(listed())
    with pytest.raises(AttributeError, match=r"module 'restart_sampling.common' has no attribute 'shwon'"):
        get("shwon")


def test_what_is_missing_is_named_with_its_extra():
    get, _ = lazy("tests_that_are_not_there", {"Scheduler": "x"}, extra=("tests_that_are_not_there", "other"))
    with pytest.raises(BackendError, match=r"Scheduler needs tests_.*pip install 'restart-sampling\[tests_that_are"):
        get("Scheduler")
    get, _ = lazy("tests_that_are_not_there", {"Scheduler": "x"}, extra=("other",))
    with pytest.raises(ModuleNotFoundError):
        get("Scheduler")


def test_a_moved_name_warns_and_is_the_new_one():
    get = moved_names("restart_sampling.old", {"shown": "restart_sampling.common.checks"})
    with pytest.warns(
        DeprecationWarning, match=r"old.shown is now restart_sampling.common.checks.shown; .* next release"
    ):
        found = get("shown")
    assert found("x") == "'x'"
    with pytest.raises(AttributeError, match="no attribute 'hidden'"):
        get("hidden")


@pytest.mark.parametrize(
    "package", ["", ".models", ".sampler", ".integrations", ".integrations.k_diffusion", ".integrations.diffusers"]
)
def test_packages_import_neither_torch_nor_diffusers(package):
    code = f"import restart_sampling{package}, sys; print({{'torch', 'diffusers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_public_name_is_listed_and_there():
    assert set(rs.__all__) <= set(dir(rs))
    assert all(getattr(rs, name) is not None for name in rs.__all__)
    assert rs.noise.__name__ == "restart_sampling.sampler.noise" and callable(rs.parity)
