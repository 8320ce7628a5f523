"""The lowest room: none of its modules imports torch, or another room, before it is needed."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys
from restart_sampling import common
for module in pkgutil.iter_modules(common.__path__):
    importlib.import_module(f"restart_sampling.common.{module.name}")
rooms = {name.split(".")[1] for name in sys.modules if name.startswith("restart_sampling.")}
print("torch" in sys.modules, *sorted(rooms))
"""


def test_common_imports_neither_torch_nor_another_room():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "common"]
