"""One suite for CPU and GPU: `pytest --device cuda` runs the same tests on the GPU.

On the CPU, Triton kernels run in Triton's interpreter, which must be chosen before triton is first imported, and
OpenMP's threads sleep while they wait for work, which must be chosen before torch is first imported.
"""

from __future__ import annotations

import os
import random
from contextlib import contextmanager

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device the tests run on: cpu or cuda")
    parser.addoption("--trials", type=int, default=1, help="how many times as many random trials to make")
    parser.addoption("--trial-seed", type=int, default=0, help="seed of the random trials")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
        # A thread that spins between the small operations of tests costs as much CPU time as one that works, and on a
        # busy machine it keeps others from working: the tests of k-diffusion took 16 s of CPU time, and take 8 s.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest):
    import torch

    name = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.exit("--device cuda was asked for, but no CUDA device is visible", returncode=2)
    return torch.device(name)


class Trials:
    """Random trials: `seed` starts their generators, and `count` multiplies how many a test makes by `--trials`."""

    def __init__(self, seed: int, factor: int) -> None:
        self.seed, self.factor = seed, factor

    def count(self, usual: int) -> int:
        return usual * self.factor

    def random(self, name: str) -> random.Random:
        """A generator of its own for each test, named so that a failure can be repeated with the same options."""
        return random.Random(f"{name} {self.seed}")

    def start(self, usual: int) -> int:
        """The seed `usual`, or another one under --trial-seed."""
        return usual + 1_000_003 * self.seed


@pytest.fixture(scope="session")
def trials(request: pytest.FixtureRequest) -> Trials:
    return Trials(request.config.getoption("--trial-seed"), request.config.getoption("--trials"))


@contextmanager
def threads(number: int):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread():
    """PyTorch runs on one thread during the test: networks as small as those of tests only lose by more."""
    with threads(1):
        yield


@pytest.fixture
def two_threads():
    """PyTorch runs on two threads during the test, whatever the machine has."""
    with threads(2):
        yield
