"""What counts as an integer, a number and a known name."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from restart_sampling.common.checks import did_you_mean, either, is_count, is_integer, is_number

INTEGERS = [0, -3, 10**400, np.int64(5), np.uint8(1), np.array(7), torch.tensor(7)]
FRACTIONAL = [0.5, -1e300, np.float32(0.5), Fraction(1, 3), Fraction(10) ** 400 + Fraction(1, 3), torch.tensor(0.5)]
INFINITE = [math.inf, -math.inf, np.float64("inf"), torch.tensor(math.inf)]
NOTHING = [True, np.bool_(True), torch.tensor(True), math.nan, np.float32("nan"), "1", None, [1], np.array([1]), 1j]


@pytest.mark.parametrize("value", [*INTEGERS, *FRACTIONAL, *INFINITE, *NOTHING], ids=repr)
def test_integers_and_numbers(value):
    def among(values):
        return any(value is other for other in values)

    assert is_integer(value) == among(INTEGERS)
    assert is_number(value) == (among(INTEGERS) or among(FRACTIONAL))
    assert is_number(value, infinite=True) == (is_number(value) or among(INFINITE))


@pytest.mark.parametrize("value, counts", [(0, True), (9, True), (10, False), (-1, False), (1.0, False), (True, False)])
def test_counts_are_plain_integers_of_json(value, counts):
    assert is_count(value, 10) == counts
    assert not is_count(np.int64(3))


def test_close_names():
    known = ("euler", "heun", "dpm++2m", "Ankle boot")
    assert did_you_mean("huen", known) == "; did you mean 'heun'?"
    assert did_you_mean("dpm++3m", known, most=3) == "; did you mean 'dpm++2m'?"
    assert did_you_mean("abc", ("abd", "abe", "abf"), most=3) == "; did you mean 'abf', 'abe' or 'abd'?"
    assert did_you_mean("xyz", known) == ""
    assert did_you_mean("xyz", known, "choose one") == did_you_mean(5, known, "choose one") == "; choose one"
    assert did_you_mean("ANKLE BOOTS", known) == ""
    assert did_you_mean("ANKLE BOOTS", known, any_case=True) == "; did you mean 'Ankle boot'?"


def test_a_list_in_a_sentence():
    assert [either("a"), either("ab"), either(iter("abc"))] == ["a", "a or b", "a, b or c"]
