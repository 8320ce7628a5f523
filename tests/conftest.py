"""One suite for CPU and GPU: `pytest --device cuda` runs the same tests on the GPU.

On the CPU, Triton kernels run in Triton's interpreter, which must be chosen before triton is first imported.
"""

from __future__ import annotations

import os

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device the tests run on: cpu or cuda")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest):
    import torch

    name = request.config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.exit("--device cuda was asked for, but no CUDA device is visible", returncode=2)
    return torch.device(name)
