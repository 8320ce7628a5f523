"""docs/adding-a-model.md says the truth: its file, added to a copy of the package, is a family of networks.

No other file of the copy is changed. The commands of the page run in it, and print what the page shows.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from support.children import python

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding-a-model.md").read_text()
FAMILY, USE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
PRINTED = re.search(r"```\n(.*?)```", PAGE.split(USE)[1].removeprefix("```"), flags=re.S).group(1)  # type: ignore[union-attr]
COMMANDS = re.findall(r"^    \$ (.+)\n((?:    [^$].*\n)*)", PAGE, flags=re.M)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run Python code, or a command, in a folder whose package has the page's family."""
    folder = tmp_path_factory.mktemp("with_a_family")
    package = folder / "engine" / "restart_sampling"
    shutil.copytree(ROOT / "engine" / "restart_sampling", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "models" / "families" / "trigflow.py").write_text(FAMILY)
    paths = [str(folder / "engine"), str(ROOT / "kernels"), str(ROOT / "bindings")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": ""}

    def run(*arguments: str) -> str:
        done = python(*arguments, cwd=folder, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", USE) == PRINTED
    return run


@pytest.mark.parametrize("command, printed", COMMANDS, ids=[command for command, _ in COMMANDS])
def test_the_commands_of_the_page(run, command, printed):
    program, *arguments = command.split()
    assert program == "restart-sampling"
    out = run("-m", "restart_sampling", *arguments).splitlines()
    wanted = [re.escape(line.removeprefix("    ")).replace("…", "[0-9a-f]{64}") for line in printed.splitlines()]
    assert len(out) == len(wanted) or not wanted, "\n".join(out)
    for line, pattern in zip(out, wanted, strict=False):
        assert re.fullmatch(pattern, line), line


def test_the_page_shows_commands():
    assert [command.split()[1] for command, _ in COMMANDS] == ["models", "models", "generate"]


CHECKS = """
import json
import numpy as np, torch
import restart_sampling as rs
from restart_sampling.models import build_network, load_safetensors, save_safetensors
from restart_sampling.models.family import known

CONFIG = {"class_name": "TrigFlowNet", "img_resolution": 8, "img_channels": 2, "width": 4}
before = torch.get_rng_state()
network, again, other = (build_network(CONFIG, seed=s) for s in (3, 3, 4))
assert torch.equal(torch.get_rng_state(), before)
same = lambda a, b: all(torch.equal(v, b.state_dict()[n]) for n, v in a.state_dict().items())
assert same(network, again) and not same(network, other)

save_safetensors("checked.safetensors", network, {}, torch.float32)
loaded, card = load_safetensors("checked.safetensors")
assert loaded.config == CONFIG and card == {} and same(loaded, network)
den = rs.load("checked.safetensors")
x, sigma = torch.randn(3, 2, 8, 8, dtype=torch.float64), 1.7
t = np.arctan(sigma)
with torch.no_grad():
    F = network.double()(np.cos(t) * x, torch.tensor([t]))
    D = np.cos(t) ** 2 * x - np.sin(t) * F
    assert (den(x.float(), sigma) - D).norm() / D.norm() < 1e-5

plan = rs.Plan.build(steps=5, restart="[3, 1, 0.3, 1.0]")
mine = rs.Denoiser(build_network(CONFIG, seed=3), den.parameterization, (2, 8, 8))
assert torch.equal(rs.sample(den, plan, range(3)), rs.sample(mine, plan, range(3)))
half = rs.sample(den, plan, range(3), dtype="bf16")
assert 0 < (half - rs.sample(den, plan, range(3))).norm() / half.norm() < 0.1

for change, message in (
    ({"widht": 8}, "network config: TrigFlowNet has no widht; did you mean 'width'?"),
    ({"width": 0}, "network config: width must be an integer ≥ 1, got 0"),
):
    try:
        build_network({**CONFIG, **change})
    except rs.CheckpointError as error:
        assert str(error) == message, error
    else:
        raise AssertionError(change)
assert list(known()) == ["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond", "Precond", "TrigFlowNet"]
"""


def test_files_networks_and_samples_of_the_new_family(run):
    run("-c", CHECKS)


def test_two_families_of_one_name_are_refused(run, tmp_path):
    code = f"""
import restart_sampling as rs
from restart_sampling.models import build_network, families
families.__path__.append({str(tmp_path)!r})
try:
    build_network({{"class_name": "TrigFlowNet"}})
except rs.CheckpointError as error:
    assert "two families of networks are called TrigFlowNet" in str(error)
else:
    raise AssertionError
"""
    (tmp_path / "twin.py").write_text(FAMILY)
    run("-c", code)
