r"""Seeds: an ordered list of int64 ≥ 0 that is never written out.

One sample has one seed, so a list of seeds names a set of samples, and no seed may stand in it twice. A billion seeds
cost as much as one: a list is stored as a few `range`s.

Text: parts separated by commas, each a seed (`100`), a run with both ends included (`0-63`), or a run with a stride
(`1-9:4` is 1, 5, 9). `str` returns this text in its shortest form, and `parse_seeds` reads it again.
"""

from __future__ import annotations

import bisect
import math
import numbers
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, overload

import numpy as np

from ..common.checks import integer, is_integer, scalar, shown
from ..common.errors import SeedError

SEED_LIMIT = 2**63
_MAX_STRIDED = 1000
_PART = re.compile(r"([0-9]+)(?:-([0-9]+)(?::([0-9]+))?)?")
_EXAMPLE = "write seeds as in 0-63,100"


class Seeds(Sequence[int]):
    """Seeds in order, lazily: `len`, iteration, indexing, slices, `in`, `str` and `chunks` cost no memory.

    :func:`parse_seeds` makes them. A slice is again `Seeds` and may be empty.
    """

    __slots__ = ("_ends", "_parts")

    def __init__(self, parts: Iterable[range] = ()) -> None:
        self._parts = _merged(parts)
        self._ends = list(accumulate(len(part) for part in self._parts))

    @classmethod
    def ascending(cls, seeds: np.ndarray) -> Seeds:
        """Build from a strictly increasing int64 array."""
        breaks = np.flatnonzero(np.diff(seeds) != 1) + 1
        return cls(range(int(run[0]), int(run[-1]) + 1) for run in np.split(seeds, breaks) if len(run))

    @property
    def parts(self) -> tuple[range, ...]:
        """The seeds as ranges, in their order."""
        return self._parts

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._parts)

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Seeds: ...
    def __getitem__(self, index: int | slice) -> int | Seeds:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise SeedError(f"a slice of seeds must have step 1, got {step}")
            return Seeds(self._between(start, stop))
        position = range(len(self))[index]
        k = bisect.bisect_right(self._ends, position)
        return self._parts[k][position - self._ends[k]]

    def _between(self, start: int, stop: int) -> Iterator[range]:
        for k in range(bisect.bisect_right(self._ends, start), len(self._parts)):
            part, first = self._parts[k], self._ends[k] - len(self._parts[k])
            if first >= stop:
                return
            yield part[max(start - first, 0) : stop - first]

    def __contains__(self, seed: object) -> bool:
        return any(seed in part for part in self._parts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Seeds):
            return NotImplemented
        return self._parts == other._parts or (
            len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        )

    def __hash__(self) -> int:
        return hash((len(self), self[0], self[-1])) if self._parts else 0

    def __str__(self) -> str:
        return ",".join(map(_written, self._parts))

    def __repr__(self) -> str:
        text = str(self) if len(self._parts) <= 8 else f"{Seeds(self._parts[:8])},…"
        return f"Seeds({text!r}, count={len(self)})"

    def chunks(self, n: int) -> Iterator[Seeds]:
        """Return consecutive pieces of n seeds, the last one shorter if n does not divide the count."""
        size = integer("the size of chunks", n, 1, error=SeedError)
        return (self[i : i + size] for i in range(0, len(self), size))

    def numpy(self) -> np.ndarray:
        """Return the seeds written out, int64 [len]: for one batch, not for a billion seeds."""
        arrays = [np.arange(part.start, part[-1] + 1, part.step, dtype=np.int64) for part in self._parts]
        return np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int64)


def parse_seeds(seeds: Any) -> Seeds:
    """Read seeds from text, an int, a range, an array or an iterable of ints.

    A range must run up and stays a range, whatever its step.

    Raises:
        SeedError: an empty list, a part that is not a seed or a run, a seed below 0 or from 2⁶³ on, or a seed given
            twice.
    """
    if isinstance(seeds, Seeds):
        parts: list[range] = list(seeds._parts)
    elif isinstance(seeds, str):
        parts = [_part(text.strip()) for text in seeds.split(",")] if seeds.strip() else []
    elif isinstance(seeds, range):
        if seeds.step < 0:
            raise SeedError(f"{seeds} runs down; seeds in a range must run up")
        parts = [seeds] if seeds else []
        for end in parts and (seeds[0], seeds[-1]):
            _seed(end)
    else:
        try:
            values = seeds.tolist() if hasattr(seeds, "tolist") else seeds
        except RuntimeError:  # a tensor without values, or of another layout
            raise SeedError(f"seeds must be an ordinary tensor of integers, got {shown(seeds)}") from None
        if isinstance(values, numbers.Number):
            values = [values]
        if isinstance(values, (set, frozenset, dict, bytes)) or not isinstance(values, Iterable):
            raise SeedError(f"seeds must be text, an int, a range or a list of ints, got {type(seeds).__name__}")
        parts = list(_runs(values))
    if not parts:
        raise SeedError(f"the seed list is empty; {_EXAMPLE}")
    if sum((part[-1] - part[0]) // part.step + 1 for part in parts) >= SEED_LIMIT:
        raise SeedError("a seed list holds at most 2^63 − 1 seeds")
    result = Seeds(parts)
    _refuse_duplicates(result._parts if isinstance(seeds, range) else parts)
    return result


def _runs(values: Iterable[Any]) -> Iterator[range]:
    """Yield `values` as runs of consecutive seeds, in order."""
    start = stop = -1
    for value in values:
        seed = _seed(value)
        if seed != stop:
            if stop > start:
                yield range(start, stop)
            start = seed
        stop = seed + 1
    if stop > start:
        yield range(start, stop)


def _part(text: str) -> range:
    """Return the range that a part of a text stands for."""
    match = _PART.fullmatch(text)
    if match is None:
        reason = "; seeds are integers ≥ 0" if re.fullmatch(r"-[0-9]+", text) else ""
        raise SeedError(f"seed list: bad part {_short(text)!r}{reason}; {_EXAMPLE}")
    first = _seed(_integer(match[1]))
    if match[2] is None:
        return range(first, first + 1)
    last, step = _seed(_integer(match[2])), _integer(match[3] or "1")
    if last < first:
        raise SeedError(f"seed list: {text!r} runs down; write {f'{last}-{first}'!r}")
    if step == 0:
        raise SeedError(f"seed list: the stride of {text!r} must be ≥ 1")
    return range(first, last + 1, step)


def _integer(digits: str) -> int:
    """Return the number of a string of digits; anything much longer than a seed is 10³⁰."""
    return int(digits) if len(digits.lstrip("0")) <= 30 else 10**30


def _seed(value: Any) -> int:
    if type(value) is int and 0 <= value < SEED_LIMIT:
        return value
    value = scalar(value)
    if not is_integer(value):
        raise SeedError(f"a seed must be an integer, got {_short(repr(value))}")
    seed = int(value)
    if seed < 0:
        raise SeedError(f"a seed must be ≥ 0, got {seed if seed > -SEED_LIMIT else 'a large negative number'}")
    if seed >= SEED_LIMIT:
        raise SeedError(f"a seed must be below 2^63, got {seed if seed < 10**30 else 'a much larger number'}")
    return seed


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _written(part: range) -> str:
    if len(part) == 1:
        return str(part[0])
    return f"{part[0]}-{part[-1]}" + (f":{part.step}" if part.step > 1 else "")


def _merged(parts: Iterable[range]) -> tuple[range, ...]:
    """Return the same seeds in order, with runs that continue each other joined and no stride on single seeds."""
    found: list[range] = []
    for part in parts:
        if not part:
            continue
        step = part.step if part[0] < part[-1] else 1
        part = range(part[0], part[-1] + 1, step)
        if found and part.step == found[-1].step == 1 and found[-1].stop == part.start:
            found[-1] = range(found[-1].start, part.stop)
        else:
            found.append(part)
    return tuple(found)


def _refuse_duplicates(parts: Sequence[range]) -> None:
    """Raise SeedError for a seed in two parts; without strides it names the smallest one."""
    runs = sorted((part for part in parts if part.step == 1), key=lambda part: part.start)
    for one, other in pairwise(runs):
        if other.start < one.stop:
            raise _twice(other.start, one, other)
    strided = [part for part in parts if part.step > 1]
    if len(strided) > _MAX_STRIDED:
        raise SeedError(f"a seed list holds at most {_MAX_STRIDED} strided parts, got {len(strided)}")
    for k, one in enumerate(strided):
        for other in chain(runs, strided[k + 1 :]):
            if (seed := _common(one, other)) is not None:
                raise _twice(seed, one, other)


def _twice(seed: int, one: range, other: range) -> SeedError:
    return SeedError(f"seed {seed} is given twice, in {_written(one)!r} and in {_written(other)!r}")


def _common(a: range, b: range) -> int | None:
    """Return the smallest seed in both ranges, by the Chinese remainder theorem, or None."""
    g = math.gcd(a.step, b.step)
    if (b.start - a.start) % g:
        return None
    modulus = b.step // g
    k = (b.start - a.start) // g * pow(a.step // g, -1, modulus) % modulus
    seed, period, low = a.start + a.step * k, a.step * modulus, max(a.start, b.start)
    seed += -((seed - low) // period) * period
    return seed if seed <= min(a[-1], b[-1]) else None
