"""Mistakes that an EDM2 network can have: each of them moves an output that the tests of `test_edm2.py` look at.

The mistakes are planted in the text of `models/edm2/` (`support/edm2_mutants.py`), in both forms of the network where
both have the step. A golden number that did not move would mean that the mistake could be made unseen.
"""

from __future__ import annotations

import sys

import pytest
from support import edm2_golden as golden
from support.edm2_golden import GOLDEN, SMALL, off
from support.edm2_mutants import BOTH, LITERAL, SAMPLING, planted

from restart_sampling.models import build_network
from restart_sampling.models.edm2 import networks

pytestmark = pytest.mark.usefixtures("one_thread")

MUTANTS = {
    **{f"{name}, {form}": (edits, form) for name, edits in BOTH.items() for form in ("literal", "sampling")},
    **{f"{name}, literal": (edits, "literal") for name, edits in LITERAL.items()},
    **{f"{name}, sampling": (edits, "sampling") for name, edits in SAMPLING.items()},
}


def distance(modules, form: str) -> float:
    """The largest relative distance of |D| from a golden number. Infinity: the network cannot be called."""
    found = [0.0]
    for norms, config, labels, half in GOLDEN.values():
        net = modules["networks"].EDM2Network(SMALL | dict(config)).eval().requires_grad_(False)
        weights = golden.weights(net.state_dict())
        if half:
            weights = modules["pickled"].restored({n: t.half() for n, t in weights.items()})
        net.load_state_dict(weights)
        try:
            D = golden.denoised(net, labels, net.for_sampling() if form == "sampling" else None)
        except RuntimeError as error:
            assert "size" in str(error) or "shape" in str(error) or "dimension" in str(error)
            return float("inf")
        found.append(off(golden.norms(D), norms))
    return max(found)


@pytest.fixture
def plant(monkeypatch):
    """A function that plants edits in a package that is gone after the test."""

    def made(edits):
        added: dict = {}
        before = dict(sys.modules)
        modules = planted(edits, "mutant")
        for name in sys.modules.keys() - before.keys():
            added[name] = sys.modules.pop(name)
            monkeypatch.setitem(sys.modules, name, added[name])
        return modules

    return made


@pytest.mark.parametrize("form", ["literal", "sampling"])
def test_the_text_as_it_is_has_the_golden_numbers(plant, form):
    modules = plant([])
    assert modules["networks"].EDM2Network is not networks.EDM2Network
    assert distance(modules, form) < golden.ROUNDING


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mistake_moves_a_golden_number(plant, name):
    edits, form = MUTANTS[name]
    assert distance(plant(edits), form) > 2 * golden.ROUNDING


NAMES = {
    "a head where a level is narrower than one": (
        "cout // channels_per_head if",
        "max(1, cout // channels_per_head) if",
    ),
    "no attention in in0": ("decoder=True, attention=True)", "decoder=True)"),
    "attention in in1": (
        'self.dec[f"{name}_in1"] = block(C, C, decoder=True)',
        'self.dec[f"{name}_in1"] = block(C, C, decoder=True, attention=True)',
    ),
    "as many blocks in the decoder as in the encoder": ("range(num_blocks + 1)", "range(num_blocks)"),
    "a down block that widens": (
        '= block(C, C, decoder=False, mode="down")',
        '= block(C, cout, decoder=False, mode="down")',
    ),
    "an embedding as wide as the first level": ("E = max(C for _, C in levels)", "E = levels[0][1]"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_moves_a_name_or_a_shape(plant, name):
    """Files are refused unless their names and shapes are the network's, so these mistakes would load nothing."""
    config = SMALL | {"channels_per_head": 64, "attn_resolutions": [8, 4]}
    want = {n: tuple(t.shape) for n, t in build_network(config).state_dict().items()}
    assert "unet.dec.4x4_in0.attn_qkv.weight" in want and "unet.enc.8x8_block0.attn_qkv.weight" not in want
    modules = plant([("unet", *NAMES[name])])
    try:
        found = {n: tuple(t.shape) for n, t in modules["networks"].EDM2Network(config).state_dict().items()}
    except IndexError:  # a skip that nobody pushed
        return
    assert found != want


def test_a_guidance_interval_by_evaluation_moves_the_golden_samples():
    """The paper's interval is of steps. By level, step 1 is guided in its second evaluation, and step 3 is not."""
    want = golden.SAMPLES["guided in steps 2 and 3"]
    assert off(golden.norms(golden.sampled(*golden.pair(), (2, 3), by_evaluation=True)), want) > 100 * golden.ROUNDING
