"""A backend is one file: dropped into the folder, it is found, chosen, held to the reference's bits, and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import restart_kernels as rk
from restart_kernels.dispatch import BACKENDS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "kernels" / "restart_kernels" / "backends"

TOY = '''"""The toy backend: the reference under another name, preferred on a CPU."""

from .base import Backend
from .reference import Reference


class Toy(Reference):
    rank = {"cpu": 0}

    def why_not(self, device):
        return None if device.type == "cpu" else f"the toy backend does not run on {device.type} tensors"


BACKEND: Backend = Toy()
'''

USE = """
import torch
import restart_kernels as rk
import restart_sampling as rs

assert rk.available_backends("cpu")[0] == "toy", rk.available_backends("cpu")
assert rk.fastest_backend("cpu") == rk.resolve_backend("auto", "cpu") == "toy"
for backend, device in (("cudnn", "cpu"), ("toy", "meta")):
    try:
        rk.resolve_backend(backend, device)
    except rk.KernelError as error:
        print(error)
denoiser = rs.Denoiser.from_function(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2), shape=(3, 5, 7))
plan = rs.Plan.build(steps=5, restart="[3, 2, 0.06, 0.30]")
assert rs.Sampler(denoiser, plan).backend == "toy"
x, y = (rs.sample(denoiser, plan, seeds=range(3), backend=name) for name in ("toy", "reference"))
assert torch.equal(x, y)
"""


@pytest.fixture
def kernels(tmp_path):
    """The source root of a copy of restart_kernels with one more file in `backends/`."""
    shutil.copytree(FOLDER.parent, tmp_path / "restart_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "restart_kernels" / "backends" / "toy.py").write_text(TOY)
    return tmp_path


def run(kernels, *arguments, code=0):
    """Run Python on the copy and return what it prints; `code` is the exit code that is expected."""
    roots = (ROOT / "engine", kernels, ROOT / "bindings", ROOT / "tests", ROOT / "benchmarks")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_a_file_dropped_in_is_found_and_used(kernels):
    """By "auto", by name, in error messages, and by a sampler, whose images keep their bits."""
    unknown, refused = run(kernels, "-c", USE).splitlines()
    assert unknown == "unknown backend 'cudnn'; the backends are auto, native, reference, toy, triton"
    why = "the toy backend does not run on meta tensors; use one of auto, reference"
    assert refused == f"backend 'toy' is not available: {why}"


@pytest.fixture
def suite(kernels):
    """The command of docs/adding-a-backend.md, on the copy."""
    page = (ROOT / "docs" / "adding-a-backend.md").read_text(encoding="utf-8")
    (options,) = re.findall(r"^    python -m (pytest tests/kernels/test_row\.py .*) -k NAME$", page, flags=re.MULTILINE)
    paths = f"pythonpath=engine {kernels} bindings tests benchmarks"
    return ("-m", *options.split(), "-k", "toy", "-q", "-o", paths, "-p", "no:cacheprovider")


def test_a_file_dropped_in_is_held_to_the_bits_of_the_reference(kernels, suite):
    found = run(kernels, *suite)
    assert int(re.search(r"(\d+) passed", found)[1]) > 50, found
    assert "skipped" not in found


WRONG = """
    def normal(self, seeds, draw, numel, *, stream):
        z = super().normal(seeds, draw, numel, stream=stream)
        return torch.where(z > 3, z.nextafter(torch.full_like(z, 9)), z)

    def bind(self, machine):
        bound, run_row = super().bind(machine), super().bind(machine).run_row
        bound.run_row = lambda F, F_uncond: (run_row(F, F_uncond), machine.x[:1, :1].add_(2**-20))
        return bound
"""


def test_a_last_bit_that_is_wrong_is_found(kernels, suite):
    """In one normal of a thousand, and in one element of a row."""
    text = TOY.replace("from .base", "import torch\n\nfrom .base").replace('{"cpu": 0}\n', f'{{"cpu": 0}}\n{WRONG}')
    (kernels / "restart_kernels" / "backends" / "toy.py").write_text(text)
    found = run(kernels, *suite, code=1)
    failed = set(re.findall(r"^FAILED tests/kernels/(\w+)\.py::(\w+)", found, flags=re.MULTILINE))
    assert ("test_row", "test_equals_its_statement_at_awkward_sizes") in failed
    assert ("test_philox", "test_backends_give_the_same_bits") in failed


def test_every_file_of_the_folder_is_a_backend():
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "base"}
    assert set(BACKENDS) == files == {"native", "reference", "triton"}


def test_backends_are_ranked_by_speed():
    for name in BACKENDS:
        assert rk.get_backend(name) is BACKENDS[name]
    assert (rk.fastest_backend("cpu"), rk.fastest_backend("cuda")) == ("native", "triton")
    assert rk.available_backends("meta") == ("reference",)  # ranked nowhere, and it runs everywhere
    assert rk.available_backends("cpu", torch.float64) == ("reference",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cudnn", "unknown backend 'cudnn'; the backends are auto, native, reference, triton"),
        (None, "backend must be one of auto, native, reference, triton, got a NoneType"),
        (3, "backend must be one of auto, native, reference, triton, got a int"),
    ],
)
def test_a_name_that_is_no_backend_is_refused(name, text):
    for ask in (rk.get_backend, lambda n: rk.why_not(n, "cpu"), lambda n: rk.resolve_backend(n, "cpu")):
        with pytest.raises(rk.KernelError) as error:
            ask(name)
        assert str(error.value) == text
