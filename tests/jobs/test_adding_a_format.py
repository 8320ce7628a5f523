"""docs/adding-a-format.md says the truth: its file, added to a copy of the package, is a format of jobs.

No other file of the copy is changed: the format is in `--help`, and jobs in it are drawn, resumed, verified, repaired.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from support.children import python

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding-a-format.md").read_text()
(FORMAT,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)

COMMANDS = r"""
import contextlib, io, pathlib
from restart_sampling.cli.app import main

def run(*arguments, code=0):
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        assert (stop.code or 0) == code, (arguments, stop.code, out.getvalue())
    return " ".join(out.getvalue().split())

def draw(seeds, out):
    options = ("--steps", 2, "--batch", 8, "--shard-size", 4, "--sheets", 0)
    return run("generate", *options, "--format", "safetensors", "--seeds", seeds, "--out", out)

def tree(out):
    return {path.name: path.read_bytes() for path in (pathlib.Path(out) / "samples").iterdir()}

said = run("generate", "--help").replace("│ │", "")
assert "npz, safetensors (a file for each shard), wds" in " ".join(said.split()), said

draw("0-5", "grown")  # the second shard is drawn in part
assert "10 of 10 are there" in draw("0-9", "grown")
draw("0-9", "whole")
assert tree("grown") == tree("whole") and sorted(tree("whole")) == [f"shard-00000{k}.safetensors" for k in range(3)]
assert "10 of 10 images (100.0%) in 3 shards" in run("status", "whole")
assert "shards 3 of 3 finished" in run("verify", "whole")

from safetensors.numpy import load_file
arrays = load_file("whole/samples/shard-000001.safetensors")
assert arrays["seeds"].tolist() == [4, 5, 6, 7]
assert arrays["images"].shape == (4, 28, 28, 1) and arrays["labels"].shape == (4,)

path = pathlib.Path("grown/samples/shard-000001.safetensors")
path.write_bytes(path.read_bytes()[:-1])
assert "shard-000001.safetensors should have" in run("verify", "grown", code=3)
run("verify", "grown", "--repair")
assert tree("grown") == tree("whole")
run("generate", "--repeat", "whole", "--out", "again")
assert tree("again") == tree("whole")
"""


def test_the_format_of_the_page(tmp_path):
    package = tmp_path / "engine" / "restart_sampling"
    shutil.copytree(ROOT / "engine" / "restart_sampling", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "jobs" / "formats" / "safetensors.py").write_text(FORMAT)
    paths = [str(tmp_path / "engine"), str(ROOT / "kernels"), str(ROOT / "bindings")]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    done = python("-c", COMMANDS, cwd=tmp_path, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
