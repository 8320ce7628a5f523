"""Restart configurations: every notation in use, round trips, and every bad input with its message."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from restart_sampling.common.errors import ConfigError
from restart_sampling.plan.notation import MAX_EVALUATIONS, RestartConfig, RestartInterval, snap
from restart_sampling.plan.schedule import karras

settings = hypothesis_settings(deadline=None, derandomize=True, database=None, max_examples=150)
parse = RestartConfig.parse
A = RestartInterval(3, 2, 0.06, 0.30)
B = RestartInterval(3, 1, 0.30, 0.59)
C = RestartInterval(10, 2, 0.1, 2.0)


@pytest.mark.parametrize(
    ("given", "intervals", "steps", "source"),
    [
        (None, (), None, "none"),
        ("", (), None, "none"),
        ("  None ", (), None, "none"),
        ("{}", (), None, "official"),
        ([], (), None, "list"),
        (A, (A,), None, "interval"),
        ([A, B], (A, B), None, "list"),
        ('{"0": [3, 2, 0.06, 0.30]}', (A,), None, "official"),
        ('{"0": [3, 2, 0.06, 0.30], "1": [3, 1, 0.30, 0.59]}', (A, B), None, "official"),
        ({"0": [3, 2, 0.06, 0.30], "1": (3, 1, 0.30, 0.59)}, (A, B), None, "official"),
        ({0: [3, 2, 0.06, 0.30]}, (A,), None, "official"),
        ({"7": {"N": 3, "K": 2, "t_min": 0.06, "t_max": 0.30}}, (A,), None, "official"),
        ('18 {"0": [3, 2, 0.06, 0.30]}', (A,), 18, "params"),
        ('18; {"0": [3, 2, 0.06, 0.30]}\n', (A,), 18, "params"),
        ("29 [[3,2,0.06,0.30],[3,1,0.30,0.59]]", (A, B), 29, "params"),
        ("18 {}", (), 18, "params"),
        ([3, 2, 0.06, 0.30], (A,), None, "list"),
        ("[3, 2, 0.06, 0.30]", (A,), None, "list"),
        ("[[3, 2, 6e-2, .3]]", (A,), None, "list"),
        ([np.int64(3), 2, np.float64(0.06), 0.30], (A,), None, "list"),
        ("[3,2,0.06,0.30],[3,1,0.30,0.59]", (A, B), None, "comfyui"),
        ("[3,2,0.06,0.30] ,\n[3,1,0.30,0.59]", (A, B), None, "comfyui"),
        ("default", (A, B), None, "comfyui"),
        ({0.1: [10, 2, 2]}, (C,), None, "a1111-dict"),
        ("{0.1: [10, 2, 2]}", (C,), None, "a1111-dict"),
        ('{"0.1": [10, 2, 2]}', (C,), None, "a1111-dict"),
        ("{'0.1': [10, 2, 2]}", (C,), None, "a1111-dict"),
        ({0.1: [10, 2, 2], 3: [5, 1, 4]}, (C, RestartInterval(5, 1, 3.0, 4.0)), None, "a1111-dict"),
        ({"num_steps": 10, "num_iterations": 2, "start_time": 0.1, "end_time": 2}, (C,), None, "refiners"),
        ({"N": 10, "K": 2, "t_min": 0.1, "t_max": 2}, (C,), None, "fields"),
        ({"n_restart": 10, "k": 2, "t_min": 0.1, "t_max": 2}, (C,), None, "fields"),
        ('{"n": 10, "K": 2, "t_min": 0.1, "t_max": 2}', (C,), None, "fields"),
    ],
)
def test_notations(given, intervals, steps, source):
    config = parse(given)
    assert (config.intervals, config.steps, config.source) == (intervals, steps, source)
    assert parse(config) is config
    assert parse(config.to_json()).intervals == intervals


def test_numbers_have_their_types():
    interval = parse([np.int64(3), np.int32(2), 0, 1]).intervals[0]
    assert [type(v) for v in dataclasses.astuple(interval)] == [int, int, float, float]


def test_to_json_is_official():
    assert json.loads(parse("default").to_json()) == {"0": [3, 2, 0.06, 0.3], "1": [3, 1, 0.3, 0.59]}


def test_equality_is_about_intervals_and_steps():
    assert parse("default") == parse("[3,2,0.06,0.30],[3,1,0.30,0.59]") == parse([A, B])
    assert parse("18 [3,2,0.06,0.30]") != parse("[3,2,0.06,0.30]")


@pytest.mark.parametrize(("N", "K"), [(2, 1), (3, 2), (9, 30), (7, 0)])
def test_evaluations(N, K):
    assert RestartInterval(N, K, 0.1, 0.2).evaluations == 2 * K * (N - 1)


def test_k_0_is_allowed_with_a_note():
    config = parse("[3, 2, 0.06, 0.3], [5, 0, 0.3, 0.59]")
    assert config.intervals[1].evaluations == 0
    assert config.notes == ("interval 1 disabled (K = 0)",)
    assert dataclasses.replace(config).notes == config.notes


A1111 = [(20, 11, 9, 1), (25, 16, 9, 1), (30, 21, 9, 1), (36, 18, 9, 2), (40, 20, 10, 2), (50, 26, 12, 2)]


@pytest.mark.parametrize(("steps", "main", "R", "K"), [*A1111, (35, 26, 9, 1)])
def test_a1111_rule_keeps_the_step_count(steps, main, R, K):
    config = parse("a1111", steps=steps)
    assert config.intervals == (RestartInterval(R + 1, K, 0.1, 2.0),)
    assert (config.steps, config.source) == (main, "a1111")
    assert 2 * main - 1 + config.intervals[0].evaluations == 2 * steps - 1
    assert f"{steps} steps are {main} on the main grid" in config.notes[0]
    assert parse(None, steps=steps, rule="a1111") == config


def test_a1111_rule_below_20_steps_is_no_restart():
    config = parse("a1111", steps=19)
    assert (config.intervals, config.steps) == ((), 19)
    assert config.notes == ("a1111 rule: no restart below 20 steps, got 19",)


def test_whole_number_keys_need_the_rule():
    assert parse({1: [10, 2, 2]}, rule="a1111").intervals == (RestartInterval(10, 2, 1.0, 2.0),)
    with pytest.raises(ConfigError, match=r"t_max missing; to write A1111's .* use decimal keys"):
        parse({1: [10, 2, 2]})
    with pytest.raises(ConfigError, match=r"official keys are integer labels, got 0\.1"):
        parse({0.1: [10, 2, 2]}, rule="official")
    with pytest.raises(ConfigError, match="rule must be one of official, a1111, got 'auto'"):
        parse("[3,2,1,2]", rule="auto")


PLACE = r"^restart config: line 1 column \d+: "


@pytest.mark.parametrize(
    ("given", "message"),
    [
        # row 1: not JSON
        ("gibberish", "line 1 column 1: 'gibberish' is not known; expected"),
        ("[3, 2,\n 0.06; 0.3]", r"line 2 column 6: cannot read '; 0.3\]' \(invalid syntax\); expected \[N, K"),
        ('{"0": [3, 2, 0.06, 0.3]', "line 1 column 24: the text ends where a bracket is still open"),
        ("[3, 2, 0.06, 0.3] again", r"line 1 column \d+: cannot read '.*again' \(invalid syntax"),
        ('{"0" [3]}', r"line 1 column 6: a comma or colon is missing before '\[3\]}'"),
        ("[3, 2, @, 1]", r"line 1 column 8: cannot read '@, 1\]' \(invalid syntax"),
        ("{[3]: 2}", r"line 1 column 2: expected a key, got '\[3\]'"),
        ("[[[[3]]]]", "line 1 column 4: nested too deeply"),
        ("[3,2,0.06,0.3], 5", "line 1 column 17: only lists may follow each other"),
        ("[3, 2, 0.1, x]", "line 1 column 13: expected a number or a list, got 'x'"),
        ("[3, 2, 0.1, " + "1" * 50 + "]", "line 1 column 13: .* is too long for a number"),
        # row 2: the wrong thing at the top
        ("[1,2]", r"interval 0: \[N, K, t_min, t_max\] takes 4 numbers, got 2: t_min, t_max missing"),
        ("18", r"expected \[N, K, t_min, t_max\], a list of these, an object .*; got 18"),
        (3.5, "expected .*; got 3.5"),
        (b"[3,2,1,2]", "expected .*; got b'"),
        ({1, 2}, "expected .*; got {1, 2}"),
        ('{"0": null}', r"interval 0: expected \[N, K, t_min, t_max\], got null"),
        # row 3: a missing number
        ('{"0": [3, 2, 0.06]}', PLACE + "interval 0: .* got 3: t_max missing"),
        ([[3, 2, 0.06, 0.3], [3, 2]], "interval 1: .* got 2: t_min, t_max missing"),
        ([3, 2, 0.06, 0.3, 1], "takes 4 numbers, got 5"),
        ({"N": 3, "K": 2}, "interval 0: t_min, t_max missing"),
        # rows 4 to 6 and 8: N and K
        ("[1, 2, 0.06, 0.3]", PLACE + "interval 0: N must be an integer ≥ 2, got 1"),
        ("[0, 2, 0.06, 0.3]", "N must be an integer ≥ 2, got 0"),
        ("[-4, 2, 0.06, 0.3]", "N must be an integer ≥ 2, got -4"),
        ('["3", 2, 0.06, 0.3]', "N must be an integer ≥ 2; integer expected, got '3'"),
        ("[2.5, 2, 0.06, 0.3]", "integer expected, got 2.5"),
        ("[3.0, 2, 0.06, 0.3]", "integer expected, got 3.0"),
        ("[true, 2, 0.06, 0.3]", "integer expected, got true"),
        ("[3, null, 0.06, 0.3]", "K must be an integer ≥ 0; integer expected, got null"),
        ([3, True, 0.06, 0.3], "K must be an integer ≥ 0; integer expected, got true"),
        ("[3, -1, 0.06, 0.3]", "K must be an integer ≥ 0, got -1"),
        # row 9: order of the levels
        ("[3, 2, 0.3, 0.06]", "t_min must be below t_max, got t_min = 0.3 and t_max = 0.06"),
        ("[3, 2, 0.3, 0.3]", "t_min must be below t_max"),
        # rows 10, 11: constants Python's JSON takes
        ('{"0": [3, 2, NaN, 0.3]}', "line 1 column 14: NaN is not a finite number"),
        ('{"0": [3, 2,\n -Infinity, 0.3]}', "line 2 column 2: -Infinity is not a finite number"),
        ("[3, 2, 0.06, inf]", "line 1 column 14: inf is not a finite number"),
        ("[3, 2, 0.06, 1e999]", "t_max must be a finite number ≥ 0, got inf"),
        ([3, 2, math.nan, 0.3], "interval 0: t_min must be a finite number ≥ 0, got nan"),
        ([3, 2, 0.06, math.inf], "t_max must be a finite number ≥ 0, got inf"),
        ([3, 2, 0.06, 10**400], "t_max must be a finite number ≥ 0, got an integer beyond"),
        ([3, 2, "0.06", 0.3], "t_min must be a finite number ≥ 0, got '0.06'"),
        ([3, 2, False, 0.3], "t_min must be a finite number ≥ 0, got false"),
        # row 12 and ComfyUI's units
        ("[3, 2, -100, 0.3]", "t_min must be ≥ 0, got -100 .*timestep.*write the sigma it stands for"),
        ("[3, 2, 25%, 50%]", "t_min must be ≥ 0, got 25% .*percentage.*write the sigma it stands for"),
        ('[3, 2, 0.1, "50%"]', "t_max must be ≥ 0, got 50%"),
        # row 17: keys twice
        ('{"0": [3,2,0.1,0.2],\n "0": [3,2,0.1,0.2]}', 'line 2 column 2: the key "0" is there twice'),
        ('{"0": [3,2,0.1,0.2], "00": [3,2,0.1,0.2]}', 'the key "00" is there twice'),
        ("{0.1: [10, 2, 2], 0.10: [10, 2, 2]}", "line 1 column 19: the key 0.10 is there twice"),
        ({"N": 3, "n": 3, "K": 2, "t_min": 0.1, "t_max": 1}, "N is given twice, the second time as 'n'"),
        # row 18: unknown keys
        ('{"N": 3, "Kk": 2, "t_min": 0.1, "t_max": 1}', "unknown key 'Kk'; did you mean 'K'"),
        ({"N": 3, "K": 2, "tmin": 0.1, "t_max": 1}, "unknown key 'tmin'; did you mean 't_min'"),
        ({"N": 3, "zebra": 2}, "unknown key 'zebra'; allowed are N, n, "),
        ({"0": [3, 2, 0.1, 1], "steps": 18}, "unknown key 'steps'; the other keys are numbers"),
        # row 19: absurd counts
        ("[3, 1000000000, 0.1, 0.2]", "ask for 4,000,000,000 network evaluations .* the limit is 10,000,000"),
        ([3, 10**4000, 0.1, 0.2], r"ask for more than 10\^18"),
        # other notations
        ({0.1: [10, 2, 2], 0.5: [3, 2, 0.1, 0.2]}, "interval 1: with decimal keys .* got 0.5: .3, 2"),
        ("{0.5: 3}", "with decimal keys .* got 0.5: 3"),
        ({math.nan: [10, 2, 2]}, "t_min must be a finite number ≥ 0, got nan"),
        ({"0": [3, 2, 0.1, 1], None: 3}, "unknown key null"),
        ("1 {}", "steps must be an integer ≥ 2, got 1"),
        ("a1111", "the a1111 rule splits the step count: give steps"),
        ("defualt", "'defualt' is not known; did you mean 'default'"),
        ("configs/params_vp.txt", "looks like a file name; read the file and pass its text"),
        (pathlib.Path("params.json"), "is a path; read the file and pass its text"),
    ],
)
def test_refused(given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse(given)
    assert str(caught.value).startswith("restart config: ")
    assert str(caught.value).count("restart config:") == 1


@pytest.mark.parametrize("of", [np.array, torch.tensor])
def test_arrays_are_lists(of):
    """An array of float64 holds the values of the list; of one dimension, one interval."""
    for values in ([3.0, 2.0, 0.06, 0.3], [[3.0, 2.0, 0.06, 0.3], [3.0, 1.0, 0.3, 0.59]]):
        array = of(values) if of is np.array else of(values, dtype=torch.float64)
        rows = values if isinstance(values[0], list) else [values]
        listed = [[int(N), int(K), t_min, t_max] for N, K, t_min, t_max in rows]
        assert parse(array).intervals == parse(listed).intervals


@pytest.mark.parametrize(
    "wrong",
    [
        np.array([2.5, 1, 0.1, 0.2]),
        np.array([np.nan, 1, 0.1, 0.2]),
        np.array(["a"]),
        np.ones((1, 1, 4)),
        np.array([np.inf, 1, 0.1, 0.2]),
        torch.tensor([True, False]),
        np.array([1j, 2, 3, 4]),
    ],
)
def test_arrays_of_something_else_are_refused(wrong):
    with pytest.raises(ConfigError):
        parse(wrong)


def test_a1111_rule_refuses_a_bad_step_count():
    for steps in (1, 2.5, True, "30"):
        with pytest.raises(ConfigError, match="steps must be an integer ≥ 2"):
            parse("a1111", steps=steps)


def test_direct_construction_is_checked_too():
    with pytest.raises(ConfigError, match="interval 0 must be a RestartInterval"):
        RestartConfig(([3, 2, 0.1, 0.2],))
    with pytest.raises(ConfigError, match="steps must be an integer"):
        RestartConfig((A,), steps=18.0)
    with pytest.raises(ConfigError, match="the limit is 10,000,000"):
        RestartConfig((RestartInterval(2, MAX_EVALUATIONS // 2 + 1, 0.1, 0.2),))
    assert RestartConfig((RestartInterval(2, MAX_EVALUATIONS // 2, 0.1, 0.2),)).intervals[0].K == 5_000_000


# Restart, arXiv 2306.14878, with the paper's grid: where t_min of its tables lands.
@pytest.mark.parametrize(
    ("steps", "landed"),
    [
        (14, [0.0421, 0.1312, 0.3489, 0.8229, 0.8229, 1.7672, 19.9456]),
        (18, [0.0599, 0.1395, 0.2964, 0.5853, 1.0882, 1.9233, 19.3525]),
        (20, [0.0449, 0.0990, 0.3839, 0.6928, 1.1943, 1.9794, 16.0223]),
        (36, [0.0555, 0.1273, 0.2675, 0.5233, 0.9654, 1.6954, 20.2393]),
    ],
)
def test_snapped_t_min(steps, landed):
    grid = np.append(karras(steps, 0.002, 80.0), 0.0)
    found = [grid[snap(grid, t)] for t in (0.06, 0.14, 0.30, 0.59, 1.09, 1.92, 19.35)]
    np.testing.assert_allclose(found, landed, atol=5.1e-5)


def test_snap_counts_the_final_0_and_takes_the_first_on_a_tie():
    assert snap([4.0, 2.0, 0.0], 0.9) == 2
    assert snap([4.0, 2.0, 0.0], 3.0) == 0
    assert snap((4.0, 2.0, 0.0), 1.0) == 1
    assert snap(np.array([4.0, 2.0, 0.0]), 100.0) == 0


levels = st.floats(0, 1e3, allow_nan=False).map(lambda v: v + 0.0)
intervals = st.builds(
    lambda N, K, a, b: RestartInterval(N, K, min(a, b), max(a, b) + (a == b)),
    st.integers(2, 40),
    st.integers(0, 40),
    levels,
    levels,
)


@settings
@given(st.lists(intervals, max_size=5))
def test_every_notation_says_the_same(items):
    rows = [[v.N, v.K, v.t_min, v.t_max] for v in items]
    expected = tuple(items)
    config = RestartConfig(expected)
    assert parse(config.to_json()) == config
    assert parse(rows).intervals == expected
    assert parse(json.dumps(rows)).intervals == expected
    assert parse(f"36 {config.to_json()}") == RestartConfig(expected, 36)
    if items:
        assert parse(",".join(map(json.dumps, rows))).intervals == expected
    named = [{"N": v.N, "K": v.K, "t_min": v.t_min, "t_max": v.t_max} for v in items]
    assert parse(named).intervals == parse(json.dumps(named)).intervals == expected
    by_t_min = {v.t_min: v for v in items}
    a1111 = {t: [v.N, v.K, v.t_max] for t, v in by_t_min.items()}
    assert parse(a1111, rule="a1111").intervals == tuple(by_t_min.values())


alphabet = st.text(alphabet="[]{}:,;\"' \n.-+%0123456789eEaNKtrunlmi_x", max_size=40)


@settings
@given(alphabet)
def test_any_text_is_read_or_refused(text):
    try:
        config = parse(text, steps=30)
    except ConfigError as error:
        assert str(error).startswith("restart config: ")
    else:
        assert parse(config.to_json()).intervals == config.intervals


@settings
@given(st.data())
def test_a_damaged_text_is_read_or_refused(data):
    text = '18 {"0": [3, 2, 0.06, 0.30], "1": [10, 3, 19.35, 40.79]}'
    at = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:at] + data.draw(st.sampled_from(["", *'[]{}:,;"% 0-.eN'])) + text[at + 1 :]
    try:
        parse(damaged)
    except ConfigError as error:
        assert str(error).startswith("restart config: ")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3) | st.floats(), inner, max_size=3),
    max_leaves=8,
)


@settings
@given(values, st.sampled_from([None, "official", "a1111"]))
def test_any_object_is_read_or_refused(value, rule):
    try:
        parse(value, steps=30, rule=rule)
    except ConfigError as error:
        assert str(error).startswith("restart config: ")


FORMS = [[3, 2, 0.06, 0.30], [3, 1, 0.30, 0.59]]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("\ufeff[[3, 2, 0.06, 0.30], [3, 1, 0.30, 0.59]]", None),  # a byte order mark
        ("[[3, 2, 0.06, 0.30], [3, 1, 0.30, 0.59],]", None),  # commas after the last value
        ('{"0": [3, 2, 0.06, 0.30,], "1": [3, 1, 0.30, 0.59],}', None),
        ("[3, 2, 0.06, 0.30], [3, 1, 0.30, 0.59],", None),
        ("[(3, 2, 0.06, 0.30), (3, 1, 0.30, 0.59)]", None),  # tuples
        ("((3, 2, 0.06, 0.30), (3, 1, 0.30, 0.59))", None),
        ("(3, 2, 0.06, 0.30), (3, 1, 0.30, 0.59)", None),
        ("{“0”: [3, 2, 0.06, 0.30], ‘1’: [3, 1, 0.30, 0.59]}", None),  # curly quotes
        ("[3, 2, 0.06, 0.30]\n[3, 1, 0.30, 0.59]\n", None),  # a segment a line
        ("[3, 2, 0.06, 0.30],\r\n\r\n(3, 1, 0.30, 0.59)", None),
        ("# two levels\n[3, 2, 0.06, 0.30]  // low\n/* and\n high */ [3, 1, 0.30, 0.59] # the end", None),
        ('# vp\n18 {"0": [3, 2, 0.06, 0.30], "1": [3, 1, 0.30, 0.59]}  # of the paper\n\n', 18),
        ("29 ((3, 2, 0.06, 0.30), (3, 1, 0.30, 0.59))", 29),
    ],
)
def test_what_people_paste(text, steps):
    config = parse(text)
    assert [[v.N, v.K, v.t_min, v.t_max] for v in config.intervals] == FORMS
    assert config.steps == steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '18 {"0": [3, 2, 0.1, 0.3]}\n\n20 {"0": [3, 2, 0.1, 0.3]}\n# end\n',
            "line 1 column 4: the text holds 2 configurations, at lines 1, 3; pass one",
        ),
        ("18; [[3, 2, 0.1, 0.3]]\n18; [[3, 3, 0.1, 0.3]]\n", "2 configurations, at lines 1, 2"),
        ('{"0": [3, 2, 0.1, 0.3]}\n{"0": [3, 4, 0.1, 0.3]}', "2 configurations, at lines 1, 2"),
        ('18 {"0": [3, 2, 0.1, 0.3]}\n' * 9, "9 configurations, at lines 1, 2, 3, 4, 5, …"),
        ("[3, 2, 0.1, 0.3] [3, 1, 0.3, 0.6]", r"column 18: a comma or colon is missing before '\[3, 1, 0.3, 0.6\]'"),
        ("[3, 2, 0.1, 0.3)", r"column 16: cannot read '\)' \(closing parenthesis '\)' does not match"),
        ("(3, 2, 0.1, 0.3]", r"column 16: cannot read '\]' \(closing parenthesis '\]' does not match"),
        ("[3, 2,, 0.1, 0.3]", r"column 7: cannot read ', 0.1, 0.3\]' \(invalid syntax"),
        ("[,]", r"column 2: cannot read ',\]' \(invalid syntax"),
        ("# one\n/* two\n */ [3, 2, x, 1]", "line 3 column 12: expected a number or a list, got 'x'"),
        ('{"0#1": [3, 2, 0.1, 0.3], "2": 3}', "unknown key '0#1'"),
        ("/* open [3, 2, 0.1, 0.3]", "line 1 column 1: "),
        ("[3, 2, 0.1, 0.3]]", "line 1 column 18: the text ends where a bracket was not opened"),
        ("[3, 2, 0.1, 0.3]], [[3, 1, 0.3, 0.6]", r"line 1 column 1: cannot read .* \(it is no list or object\)"),
        ("[x for x in y]", r"line 1 column 1: expected .* got '\[x for x in y\]'"),
        ("[3, 2, 0.1, 0x3]", "line 1 column 13: expected a number or a list, got '0x3'"),
        ("[3, 2, 1_0, 2_0]", "line 1 column 8: expected a number or a list, got '1_0'"),
        ("[3, 1 + 1, 0.1, 0.3]", r"line 1 column 5: expected a number or a list, got '1 \+ 1'"),
        ("[3, 2, b'1', f'2']", "line 1 column 8: expected a number or a list, got .b'1'"),
        ('["3" "4", 2, 0.1, 0.3]', "line 1 column 2: expected a number or a list, got "),
        ("{**{}}", r"line 1 column 4: expected a key, got '\*\*'"),
        ("[*[3], 2]", r"line 1 column 2: expected a number or a list, got '\*\[3\]'"),
        ("[3, 2, -25%, 1]", "t_min must be ≥ 0, got -25% .*percentage"),
        ("[3, 2, 0.1, 0.3]\n  [é, 1, 0.3, 0.6]", "line 2 column 4: expected a number or a list, got 'é'"),
        ("[éé, x]", "line 1 column 2: expected a number or a list, got 'éé'"),
        ("[3, 'éé', 0x1, 2]", "line 1 column 11: expected a number or a list, got '0x1'"),
        ("[" * 5000, r"line 1 column \d+: cannot read|the text ends where a bracket is still open"),
        ("{3}", "line 1 column 1: expected a key and a value, got '.3.'"),
        ("[3, 2, 0.1, 0.3\0]", "line 1 column "),
    ],
)
def test_what_people_paste_wrongly(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_numbers_of_numpy_and_torch():
    given = [np.int64(3), torch.tensor(2), np.float32(0.25), torch.tensor(0.5)]
    assert parse(given).intervals == (RestartInterval(3, 2, 0.25, 0.5),)
    with pytest.raises(ConfigError, match="N must be an integer ≥ 2; integer expected"):
        parse([np.bool_(True), 2, 0.1, 0.3])
    with pytest.raises(ConfigError, match="t_max must be a finite number ≥ 0"):
        parse([3, 2, 0.1, np.float32("nan")])
