"""Starting: commands that need no network import no torch, and the package imports next to nothing before a command."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = [
    "bench",
    "convert",
    "generate",
    "models",
    "plan",
    "presets",
    "profile",
    "report",
    "score",
    "status",
    "tune",
    "verify",
]

RUN = """
import contextlib, io, sys
from restart_sampling.cli.app import app, main
commands = {commands}
assert sorted(command.callback.__name__ for command in app.registered_commands) == commands
for arguments in {arguments}:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            main(arguments)
        except SystemExit as stop:
            assert not stop.code, arguments
    assert out.getvalue(), arguments
print(*sorted({{"torch", "triton", "optuna", "plotly", "diffusers"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        [["--help"], *([command, "--help"] for command in COMMANDS)],
        [["plan", "--preset", "imagenet64-edm-623"], ["plan", "--steps", "4", "--json"]],
        [["presets"], ["presets", "fashion-mnist-22"]],
    ],
    ids=["help", "plan", "presets"],
)
def test_what_needs_no_network_imports_no_torch(arguments):
    code = RUN.format(arguments=arguments, commands=COMMANDS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_package_itself_imports_next_to_nothing():
    """Ctrl-C before `__main__` takes over ends with a traceback, so there is little time for it."""
    code = "import sys; import restart_sampling; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"numpy", "torch", "typer", "rich", "tempfile", "restart_sampling.plan"}
    assert "restart_sampling.common.errors" in loaded
