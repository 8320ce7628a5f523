"""Commands that tests run in forks of one process do what a Python of their own does (support/children.py)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.children import python

SHOWS = """
import os, sys
print(__name__, sys.argv[1:], os.getcwd(), sys.path[0], os.environ.get("SOME"), sys.stdin.read() == "")
print([m for m in sys.modules if m.split(".")[0] in ("restart_sampling", "restart_kernels", "triton", "support")])
print("err", file=sys.stderr)
"""


@pytest.mark.parametrize("how", ["code", "module", "script"])
def test_a_command_in_a_fork_is_as_one_in_a_python_of_its_own(how, tmp_path):
    (tmp_path / "shows.py").write_text(SHOWS)
    words = {"code": ["-c", SHOWS], "module": ["-m", "shows"], "script": [str(tmp_path / "shows.py")]}[how]
    env = os.environ | {"SOME": how, "PYTHONPATH": str(tmp_path)}
    found = python(*words, "a", 1, env=env, cwd=tmp_path)
    done = subprocess.run(
        [sys.executable, *words, "a", "1"],
        env=env,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('no')", 1, "no\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import time; time.sleep(60)", -14, ""),
        ("import atexit; atexit.register(print, 'the end')", 0, ""),
    ],
)
def test_how_it_ends_is_told(code, status, says):
    found = python("-c", code, timeout=1 if status == -14 else 60)
    assert found.returncode == status
    assert says in found.stderr
    assert found.stdout == "the end\n" * ("atexit" in code)


def test_a_command_leaves_nothing_to_the_next():
    python("-c", "import os, sys; sys.leftover = 1; os.environ['LEFT'] = '1'")
    found = python("-c", "import os, sys; print(hasattr(sys, 'leftover'), 'LEFT' in os.environ)")
    assert found.stdout == "False False\n"
