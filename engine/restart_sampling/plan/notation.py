r"""Restart intervals: what they are, and how they are read from every notation in use.

An interval [N, K, t_min, t_max] (arXiv 2306.14878, Algorithm 2) acts when the state arrives at t_min: it is
raised to t_max by fresh noise of std √(t_max² − t_min²) and solved back down over N grid points (N − 1 steps), K times.
t_min snaps to the nearest point of the main grid.

| notation           | example                                       | meaning |
|--------------------|-----------------------------------------------|---------|
| official JSON      | `{"0": [3, 2, 0.06, 0.30]}`                   | label: [N, K, t_min, t_max] |
| params line        | `18 {"0": […]}`, `18; {…}`, `29 [[…], […]]`   | N_main, then intervals |
| list               | `[3, 2, 0.06, 0.30]`, or a list of such lists | [N, K, t_min, t_max] |
| ComfyUI node       | `[3,2,0.06,0.30],[3,1,0.30,0.59]`, `default`  | [N, K, t_min, t_max] |
| A1111, official SD | `{0.1: [10, 2, 2]}`                           | t_min: [N, K, t_max] |
| A1111's own rule   | `a1111`, with the step count                  | see :func:`a1111` |
| named fields       | `{"N": 3, "K": 2, "t_min": 0.06, "t_max": 1}` | also n, n_restart, k |
| refiners           | num_steps, num_iterations, start_time, end_time | N, K, t_min, t_max |
| RePaint            | `repaint:j=10,r=10`                           | r − 1 jumps over j points at every j-th |

These rules decide which notation it is; none is tried:
1. Text that starts with an integer followed by `;`, `[`, `(` or `{` is a params line; the integer is N_main.
2. An object with a key that is not a number has named fields; unknown ones are errors.
3. An object whose keys are all integers is official: labels without meaning, 4 numbers each.
4. An object with at least one decimal key is A1111's: every key is a t_min, with 3 numbers each.
5. Where A1111's t_min are all whole numbers, 3 would apply: `rule="a1111"` says that they are t_min.
6. A list that starts with a list, object or interval is many intervals; any other list is one interval.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..common.checks import choice, did_you_mean, integer, is_integer, is_number, real, scalar
from ..common.errors import ConfigError
from .text import Items, key_number, place, plain, read_text, shown

MAX_EVALUATIONS = 10_000_000
RULES = ("official", "a1111")
_ORDER = ("N", "K", "t_min", "t_max")
_FIELDS = {
    "N": "N",
    "n": "N",
    "n_restart": "N",
    "N_restart": "N",
    "num_steps": "N",
    "K": "K",
    "k": "K",
    "num_iterations": "K",
    "t_min": "t_min",
    "start_time": "t_min",
    "t_max": "t_max",
    "end_time": "t_max",
}
_REFINERS = {"num_steps", "num_iterations", "start_time", "end_time"}
_NAMES = ("none", "default", "a1111", "repaint")
_FORMS = (
    '[N, K, t_min, t_max], a list of these, an object {"0": [N, K, t_min, t_max]}, none, default, a1111 or '
    "repaint:j=10,r=10"
)
_A1111_HINT = '; to write A1111\'s {t_min: [N, K, t_max]} use decimal keys, as in {"1.0": [9, 2, 3]}'
_T_MAX_NOTE = "A1111 also snaps t_max to its grid; here t_max is used as given"


@dataclass(frozen=True)
class RestartInterval:
    """K jumps from t_min up to t_max, each solved back down over N grid points.

    Limiting case: K = 0 is no jump, and the interval is disabled.

    Raises:
        ConfigError: values that could not run as written.
    """

    N: int
    K: int
    t_min: float
    t_max: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "N", _integer("N", self.N, 2))
        object.__setattr__(self, "K", _integer("K", self.K, 0))
        object.__setattr__(self, "t_min", _level("t_min", self.t_min))
        object.__setattr__(self, "t_max", _level("t_max", self.t_max))
        if self.t_min >= self.t_max:
            raise ConfigError(f"t_min must be below t_max, got t_min = {self.t_min} and t_max = {self.t_max}")

    @property
    def evaluations(self) -> int:
        """Network evaluations with Heun, 2·K·(N − 1)."""
        return 2 * self.K * (self.N - 1)


@dataclass(frozen=True)
class RestartConfig:
    """Restart intervals in the given order.

    Two configurations are equal when their intervals and steps are.

    Attributes:
        intervals: as given, not yet placed on a grid.
        steps: N_main if the notation carries it, else None.
        source: the name of the notation.
        notes: what a reader should know, one line each.
        resampling: (j, r) of RePaint, whose intervals are the points of the grid that the plan will have; else None.
    """

    intervals: tuple[RestartInterval, ...] = ()
    steps: int | None = None
    source: str = field(default="", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    resampling: tuple[int, int] | None = None

    @classmethod
    def repaint(cls, j: int = 10, r: int = 10) -> RestartConfig:
        """Return the resampling of RePaint (arXiv 2201.09865, Appendix B).

        On the way down, at every j-th point of the main grid but the last ones of the noisy end, counted from 0, the
        clean image, the state jumps j points up and comes back, r − 1 times: j is the jump length, r the number of
        times that a stretch is walked. It is Restart with N = j + 1, K = r − 1 and the main grid's own points.

        Limiting case: r = 1 jumps nowhere.
        """
        return cls(source="repaint", resampling=(_integer("j", j, 1), _integer("r", r, 1)))

    @property
    def jumps(self) -> bool:
        """Whether there is any jump."""
        return any(i.K > 0 for i in self.intervals) or (self.resampling is not None and self.resampling[1] > 1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "intervals", tuple(self.intervals))
        for i, interval in enumerate(self.intervals):
            if not isinstance(interval, RestartInterval):
                raise ConfigError(f"interval {i} must be a RestartInterval, got {shown(interval)}")
        if self.steps is not None:
            object.__setattr__(self, "steps", _integer("steps", self.steps, 2))
        total = sum(interval.evaluations for interval in self.intervals)
        if total > MAX_EVALUATIONS:
            count = f"{total:,}" if total < 10**18 else "more than 10^18"
            raise ConfigError(
                f"the intervals ask for {count} network evaluations per sample, the limit is "
                f"{MAX_EVALUATIONS:,}; lower N or K"
            )
        disabled = (f"interval {i} disabled (K = 0)" for i, v in enumerate(self.intervals) if v.K == 0)
        object.__setattr__(self, "notes", (*self.notes, *(n for n in disabled if n not in self.notes)))

    @classmethod
    def parse(cls, obj: Any, *, steps: int | None = None, rule: str | None = None) -> RestartConfig:
        """Read intervals from any notation of the module docstring.

        Args:
            obj: text, None, RestartConfig, RestartInterval, dict or list. None, "" and "none" are no intervals. Paths
                are not opened: pass the text.
            steps: the step count asked for; only "a1111" uses it, and splits it.
            rule: decides on objects with whole-number keys: "official" (labels) or "a1111" (t_min). With obj None,
                "a1111" is A1111's own rule.

        Raises:
            ConfigError: names the interval, the field, what was given and what is allowed; for text also line and
                column.
        """
        if rule is not None:
            choice("rule", rule, RULES)
        if isinstance(obj, RestartConfig):
            return obj
        try:
            if obj is None:
                return a1111(steps) if rule == "a1111" else cls(source="none")
            return _from_text(obj, steps, rule) if isinstance(obj, str) else _from_object(obj, rule)
        except ConfigError as error:
            raise ConfigError(f"restart config: {error}") from None

    def to_json(self) -> str:
        """Return text that `parse` reads back: the official JSON, `{"0": [N, K, t_min, t_max], …}`, or RePaint's."""
        if self.resampling is not None:
            return "repaint:j={},r={}".format(*self.resampling)
        return json.dumps({str(i): [v.N, v.K, v.t_min, v.t_max] for i, v in enumerate(self.intervals)})


def snap(grid: Sequence[float] | np.ndarray, t_min: float) -> int:
    """Return argmin_i |t_i − t_min| over `grid`, the final 0 included; the first index on a tie."""
    return int(np.argmin(np.abs(np.asarray(grid, dtype=np.float64) - t_min)))


def a1111(steps: int | None) -> RestartConfig:
    """Return AUTOMATIC1111's rule: the interval [R + 1, K, 0.1, 2], paid for out of `steps` Heun steps.

    Below 20 steps there is no restart; 20 to 35 give R = 9, K = 1; from 36 on R = ⌊steps/4⌋, K = 2. The main
    grid keeps steps − R·K points (`.steps`), so NFE stays 2·steps − 1.
    """
    if steps is None:
        raise ConfigError("the a1111 rule splits the step count: give steps as well")
    steps = _integer("steps", steps, 2)
    if steps < 20:
        return RestartConfig((), steps, "a1111", (f"a1111 rule: no restart below 20 steps, got {steps}",))
    R, K = (9, 1) if steps < 36 else (steps // 4, 2)
    main = steps - R * K
    notes = (f"a1111 rule: {steps} steps are {main} on the main grid and {K} × {R} in the interval", _T_MAX_NOTE)
    return RestartConfig((RestartInterval(R + 1, K, 0.1, 2.0),), main, "a1111", notes)


def restart_of(restart: Any, restart_list: Any, default: Any) -> Any:
    """Return `restart`, or `restart_list`, its name in other samplers.

    Args:
        default: the value that `restart` has if nothing was given.

    Raises:
        ConfigError: both are given.
    """
    if restart_list is None:
        return restart
    if restart != default:
        raise ConfigError("restart and restart_list are two names of one setting; give one of them")
    return restart_list


def _from_text(text: str, steps: int | None, rule: str | None) -> RestartConfig:
    text = plain(text)
    name = text.strip().lower()
    if name in ("", "none"):
        return RestartConfig(source="none")
    if name == "default":
        intervals = (RestartInterval(3, 2, 0.06, 0.30), RestartInterval(3, 1, 0.30, 0.59))
        return RestartConfig(intervals, source="comfyui")
    if name == "a1111":
        return a1111(steps)
    if name.split(":")[0].strip() == "repaint":
        return _repaint(name)
    if name.endswith((".json", ".txt")):
        raise ConfigError(f"{shown(text)} looks like a file name; read the file and pass its text")
    if re.fullmatch(r"[a-z][\w-]*", name):
        hint = did_you_mean(name, _NAMES, f"expected {_FORMS}")
        raise ConfigError(f"line 1 column 1: {shown(text)} is not known{hint}")
    read = read_text(text, _FORMS)
    source = "params" if read.steps is not None else "comfyui" if read.row else ""
    return _from_object(read.value, rule, read.steps, source)


def _repaint(text: str) -> RestartConfig:
    """Return the resampling of RePaint from "repaint:j=10,r=10"; j and r have these values unless given."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.partition(":")[2].split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in ("j", "r") or name in found or not re.fullmatch(r"\d+", value):
            raise ConfigError(
                f"expected repaint:j=10,r=10 (jump length, times each stretch is walked), got {shown(text)}"
            )
        found[name] = int(value)
    return RestartConfig.repaint(**found)


def _of_array(values: list[Any]) -> list[Any]:
    """Return the values of an array of floats with whole numbers as integers, since N and K are integers in a list."""
    return [
        _of_array(value)
        if isinstance(value, list)
        else int(value)
        if isinstance(value, float) and value.is_integer()
        else value
        for value in values
    ]


def _from_object(obj: Any, rule: str | None, steps: int | None = None, source: str = "") -> RestartConfig:
    if isinstance(obj, os.PathLike):
        raise ConfigError(f"{shown(obj)} is a path; read the file and pass its text")
    if getattr(obj, "ndim", 0) and hasattr(obj, "tolist"):  # arrays of NumPy and tensors
        with contextlib.suppress(RuntimeError, TypeError):  # a tensor without values stays what it is, and is refused
            obj = _of_array(obj.tolist())
    if isinstance(obj, Mapping):
        intervals, kind = _from_mapping(obj, rule)
    elif isinstance(obj, RestartInterval):
        intervals, kind = [obj], "interval"
    elif isinstance(obj, (list, tuple)):
        many = not obj or isinstance(obj[0], (list, tuple, Mapping, RestartInterval))
        intervals, kind = [_interval(item, i) for i, item in enumerate(obj if many else [obj])], "list"
    else:
        raise ConfigError(f"expected {_FORMS}; got {shown(obj)}")
    return RestartConfig(tuple(intervals), steps, source or kind, (_T_MAX_NOTE,) if kind == "a1111-dict" else ())


def _from_mapping(obj: Mapping[Any, Any], rule: str | None) -> tuple[list[RestartInterval], str]:
    """Return (intervals, notation), by rules 2 to 5 of the module docstring."""
    numbers_of_keys = [key_number(key) for key in obj]
    names = [key for key, number in zip(obj, numbers_of_keys, strict=True) if number is None]
    if names and len(names) < len(obj):
        raise ConfigError(f"{place(obj)}unknown key {shown(names[0])}; the other keys are numbers")
    if names:
        return [_interval(obj, 0)], "refiners" if _REFINERS & set(obj) else "fields"
    decimal = any(isinstance(number, float) for number in numbers_of_keys)
    if decimal and rule == "official":
        raise ConfigError(f"{place(obj)}official keys are integer labels, got {', '.join(map(str, obj))}")
    if not decimal and rule != "a1111":
        return [_interval(value, i, _A1111_HINT) for i, value in enumerate(obj.values())], "official"
    intervals = []
    for i, (t_min, value) in enumerate(zip(numbers_of_keys, obj.values(), strict=True)):
        if not isinstance(value, (list, tuple)) or len(value) != 3:
            raise ConfigError(
                f"{place(value)}interval {i}: with decimal keys this is {{t_min: [N, K, t_max]}}, 3 numbers "
                f"each; got {t_min}: {shown(value)}"
            )
        N, K, t_max = value
        intervals.append(_interval(Items((N, K, t_min, t_max), place(value)), i))
    return intervals, "a1111-dict"


def _interval(item: Any, index: int, hint: str = "") -> RestartInterval:
    """Read one interval from a list of 4 numbers or named fields; `hint` goes with lists of 3."""
    if isinstance(item, RestartInterval):
        return item
    try:
        if not isinstance(item, (list, tuple, Mapping)):
            raise ConfigError(f"expected [N, K, t_min, t_max], got {shown(item)}")
        values = _by_name(item) if isinstance(item, Mapping) else _by_order(item, hint)
        for name in ("t_min", "t_max"):
            _refuse_comfy_units(name, values[name])
        return RestartInterval(**values)
    except ConfigError as error:
        raise ConfigError(f"{place(item)}interval {index}: {error}") from None


def _by_order(item: Sequence[Any], hint: str) -> dict[str, Any]:
    count = len(item)
    if count != 4:
        missing = f": {', '.join(_ORDER[count:])} missing" if count < 4 else ""
        raise ConfigError(f"[N, K, t_min, t_max] takes 4 numbers, got {count}{missing}{hint if count == 3 else ''}")
    return dict(zip(_ORDER, item, strict=True))


def _by_name(item: Mapping[Any, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in item.items():
        name = _FIELDS.get(key) if isinstance(key, str) else None
        if name is None:
            text = key[:40] if isinstance(key, str) else shown(key)
            allowed = f"allowed are {', '.join(_FIELDS)}"
            hint = did_you_mean(text, _ORDER) or did_you_mean(text, _FIELDS, allowed)
            raise ConfigError(f"unknown key {shown(key)}{hint}")
        if name in values:
            raise ConfigError(f"{name} is given twice, the second time as {key!r}")
        values[name] = value
    missing = [name for name in _ORDER if name not in values]
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing")
    return values


def _refuse_comfy_units(name: str, value: Any) -> None:
    """Refuse ComfyUI's percentages and negative timesteps, which are levels only together with a model."""
    if isinstance(value, str) and value.strip().endswith("%"):
        unit = f"{value.strip()} (a percentage of the sampling)"
    elif is_number(value, infinite=True) and value < 0:
        unit = f"{shown(value)} (for ComfyUI a negative number is a timestep)"
    else:
        return
    raise ConfigError(f"{name} must be ≥ 0, got {unit}; that needs a model's schedule: write the sigma it stands for")


def _integer(name: str, value: Any, least: int) -> int:
    if not is_integer(value):
        raise ConfigError(f"{name} must be an integer ≥ {least}; integer expected, got {shown(value)}")
    return integer(name, value, least, show=shown)


def _level(name: str, value: Any) -> float:
    value = scalar(value)
    if not is_number(value, infinite=True):
        raise ConfigError(f"{name} must be a finite number ≥ 0, got {shown(value)}")
    return real(name, value, 0.0, show=shown)
