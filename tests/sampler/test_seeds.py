"""Seed lists: order, laziness, round trips, and every bad input."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restart_sampling.common.errors import SeedError
from restart_sampling.sampler.seeds import Seeds, parse_seeds

TOP = 2**63 - 1


@pytest.mark.parametrize(
    ("given", "expected", "text"),
    [
        ("0-3,100", [0, 1, 2, 3, 100], "0-3,100"),
        (" 7 , 2-4 ", [7, 2, 3, 4], "7,2-4"),
        ("0,1,2", [0, 1, 2], "0-2"),
        ("3,2,1", [3, 2, 1], "3,2,1"),
        ("5-5", [5], "5"),
        ("007", [7], "7"),
        ("1-9:4", [1, 5, 9], "1-9:4"),
        ("1-12:4", [1, 5, 9], "1-9:4"),
        (str(TOP), [TOP], str(TOP)),
        (0, [0], "0"),
        (np.int64(3), [3], "3"),
        (range(4), [0, 1, 2, 3], "0-3"),
        (range(1, 10, 4), [1, 5, 9], "1-9:4"),
        ([5, 3, 4], [5, 3, 4], "5,3-4"),
        ((9, 8), [9, 8], "9,8"),
        (np.arange(3, dtype=np.uint8), [0, 1, 2], "0-2"),
        (np.array(4), [4], "4"),
        (iter([2, 3]), [2, 3], "2-3"),
    ],
)
def test_read(given, expected, text):
    seeds = parse_seeds(given)
    assert list(seeds) == expected
    assert len(seeds) == len(expected)
    assert [seeds[i] for i in range(-len(seeds), len(seeds))] == expected * 2
    assert str(seeds) == text
    assert parse_seeds(text) == seeds == parse_seeds(seeds)
    assert hash(parse_seeds(list(seeds))) == hash(seeds)
    assert seeds.numpy().tolist() == expected
    assert seeds.numpy().dtype == np.int64
    assert all(seed in seeds for seed in expected)
    assert max(expected) + 1 not in seeds


def test_the_same_seeds_are_equal_however_written():
    assert parse_seeds("0-4:2") == parse_seeds("0,2,4")
    assert parse_seeds("0,1") != parse_seeds("1,0")
    assert parse_seeds("0") != "0"


def test_a_hundred_billion_seeds_are_cheap():
    tracemalloc.start()
    seeds = parse_seeds("0-99999999999,200000000000")
    assert len(seeds) == 100_000_000_001
    assert seeds[-1] == 200_000_000_000
    assert 99_999_999_999 in seeds
    assert 100_000_000_000 not in seeds
    assert str(seeds[10**10 : 10**10 + 64]) == "10000000000-10000000063"
    assert list(map(len, itertools.islice(seeds.chunks(64), 3))) == [64, 64, 64]
    assert parse_seeds(range(3, 10**15, 8))[10**9] == 8 * 10**9 + 3
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_the_largest_range_but_one():
    assert len(parse_seeds(f"1-{TOP}")) == TOP
    with pytest.raises(SeedError, match=r"at most 2\^63 − 1 seeds"):
        parse_seeds(f"0-{TOP}")
    with pytest.raises(SeedError, match=r"a seed must be below 2\^63"):
        parse_seeds(range(2**64))


def test_chunks_cover_everything_once_in_order():
    seeds = parse_seeds("0-9,20-29,100")
    assert [str(chunk) for chunk in seeds.chunks(8)] == ["0-7", "8-9,20-25", "26-29,100"]
    assert list(seeds.chunks(100)) == [seeds]
    for n in (0, -1, 2.0, True):
        with pytest.raises(SeedError, match="the size of chunks must be an integer ≥ 1"):
            seeds.chunks(n)


def test_slices():
    seeds = parse_seeds("0-9,20-29")
    assert str(seeds[8:12]) == "8-9,20-21"
    assert str(seeds[:-15]) == "0-4"
    assert len(seeds[5:5]) == 0
    assert (list(Seeds()), str(Seeds()), hash(Seeds()), Seeds().numpy().tolist()) == ([], "", 0, [])
    with pytest.raises(SeedError, match="step 1"):
        seeds[::2]
    with pytest.raises(IndexError):
        seeds[20]


def test_long_lists_are_shortened_in_repr():
    assert repr(parse_seeds("0-63,100")) == "Seeds('0-63,100', count=65)"
    assert repr(parse_seeds(list(range(0, 40, 2)))) == "Seeds('0,2,4,6,8,10,12,14,…', count=20)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        # row 36
        ("", "the seed list is empty; write seeds as in 0-63,100"),
        ("  ", "the seed list is empty"),
        ([], "the seed list is empty"),
        (range(0), "the seed list is empty"),
        # row 37
        ("5-2", "'5-2' runs down; write '2-5'"),
        (range(5, 0, -1), r"range\(5, 0, -1\) runs down"),
        # row 38
        ("-5", "bad part '-5'; seeds are integers ≥ 0"),
        (-5, "a seed must be ≥ 0, got -5"),
        ([1, -1], "a seed must be ≥ 0, got -1"),
        (range(-1, 3), "a seed must be ≥ 0, got -1"),
        # row 39
        ("1,1", "seed 1 is given twice, in '1' and in '1'"),
        ("0-3,2", "seed 2 is given twice, in '0-3' and in '2'"),
        ("2,9,0-3", "seed 2 is given twice, in '0-3' and in '2'"),
        ("10-20,3,15-30", "seed 15 is given twice, in '10-20' and in '15-30'"),
        ([4, 5, 4], "seed 4 is given twice"),
        (np.array([7, 7]), "seed 7 is given twice"),
        ("0-8:2,4", "seed 4 is given twice, in '0-8:2' and in '4'"),
        ("1-99:6,3-99:10", "seed 13 is given twice, in '1-97:6' and in '3-93:10'"),
        # rows 40, 41
        ("9223372036854775808", r"a seed must be below 2\^63, got 9223372036854775808"),
        ("0-18446744073709551616", r"a seed must be below 2\^63, got 18446744073709551616"),
        ([2**63], r"a seed must be below 2\^63"),
        (np.array([2**63], dtype=np.uint64), r"a seed must be below 2\^63"),
        ("9" * 5000, r"a seed must be below 2\^63, got a much larger number"),
        # row 43
        ("a", "seed list: bad part 'a'"),
        ("1-", "bad part '1-'"),
        ("1..5", r"bad part '1\.\.5'"),
        ("1 2", "bad part '1 2'"),
        ("1,,2", "bad part ''"),
        ("1,", "bad part ''"),
        ("1.0", r"bad part '1\.0'"),
        ("٣", "bad part"),
        ("0-8:0", "the stride of '0-8:0' must be ≥ 1"),
        ("x" * 100, r"bad part 'x+\.\.\.'"),
        # types
        (None, "got NoneType"),
        (True, "a seed must be an integer, got True"),
        (1.0, "a seed must be an integer, got 1.0"),
        ([1, 2.5], "a seed must be an integer, got 2.5"),
        (["1"], "a seed must be an integer, got '1'"),
        ([[1, 2]], "a seed must be an integer, got"),
        (np.array([0.5]), "a seed must be an integer, got 0.5"),
        ({1, 2}, "got set"),
        (b"1", "got bytes"),
        (",".join(f"{2000 * k}-{2000 * k + 2}:2" for k in range(1001)), "at most 1000 strided parts"),
    ],
)
def test_refused(given, message):
    with pytest.raises(SeedError, match=message):
        parse_seeds(given)


fast = settings(deadline=None, derandomize=True, database=None, max_examples=100)


@fast
@given(st.lists(st.integers(0, 60) | st.integers(0, TOP), unique=True, min_size=1, max_size=40), st.integers(1, 50))
def test_lists_round_trip(values, n):
    seeds = parse_seeds(values)
    assert list(seeds) == values == list(parse_seeds(str(seeds)))
    assert list(itertools.chain.from_iterable(seeds.chunks(n))) == values
    assert all(seeds[i:j] == parse_seeds(values[i:j]) for i in range(len(values)) for j in (i + 1, len(values)))
    assert set(range(62)) & set(values) == {v for v in range(62) if v in seeds}


ranges = st.builds(lambda a, n, s: range(a, a + n, s), st.integers(0, 30), st.integers(1, 30), st.integers(1, 7))


@fast
@given(st.lists(ranges, min_size=1, max_size=4))
def test_duplicates_are_found_exactly(parts):
    text = ",".join(f"{p[0]}-{p[-1]}:{p.step}" for p in parts)
    values = list(itertools.chain.from_iterable(parts))
    if len(set(values)) == len(values):
        assert list(parse_seeds(text)) == values
    else:
        with pytest.raises(SeedError, match=r"seed \d+ is given twice") as caught:
            parse_seeds(text)
        assert values.count(int(str(caught.value).split()[1])) > 1


@fast
@given(st.text(alphabet="0123456789-,: a", max_size=20))
def test_any_text_is_read_or_refused(text):
    try:
        seeds = parse_seeds(text)
    except SeedError:
        return
    assert parse_seeds(str(seeds)) == seeds
