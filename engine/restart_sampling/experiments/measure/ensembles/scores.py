r"""Scores of ensembles: m members x_1 … x_m of each input against its truth y, point by point, in float64.

| score | what it is | if calibrated |
|---|---|---|
| crps | mean of Σ_k \|x_k − y\|/m − Σ_jk \|x_j − x_k\|/(2m²), of the ensemble as it is; lower is better | |
| crps_fair | the same with 2m(m − 1): an unbiased estimate for m → ∞, so it compares across m (Ferro 2014) | |
| crps_fair_error | standard error of crps_fair over the inputs, None for one input | |
| spread | √ of the mean of the members' variance, with m − 1 | |
| rmse | √ of the mean of (mean_k x_k − y)² | |
| spread_skill | √((m + 1)/m)·spread/rmse (Fortin et al. 2014); below 1 the ensemble is too narrow | 1 |
| ranks | how often y is larger than 0, 1 … m of the members (Hamill 2001); among equal values by lot | flat |
| rank_deviation | ½ Σ_r \|share_r − 1/(m + 1)\|, the share of truths that would have to move | √(m/(2πN)) |

N is the number of independent ranks, which is smaller than that of points where neighbours resemble each other. The
CRPS is computed by scoringrules: its estimators "qd" and "pwm", which are the two forms above, sorted. Members and
truth are moved by −y first, so that a large mean, as of temperatures in kelvin, costs no digits.

The first dimension of a sample is its variables; a sample of one dimension is one variable. Scores are of each variable
and of all points together, so variables of several units should be brought to one scale first. Inputs are added one
after the other, and the memory depends neither on their number nor, beyond that of one input, on their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....common.checks import shown
from ....common.errors import BackendError, RestartTypeError, RestartValueError

BLOCK = 1 << 21  # values that are scored at once
SEED = 0  # by which ranks of equal values are drawn
DIGITS = 8  # of a number in a row


@dataclass(frozen=True)
class Variable:
    """The scores of one variable, or of all together; see the table at the top.

    `spread_skill` is None where the mean of the members is the truth everywhere.
    """

    crps: float
    crps_fair: float
    spread: float
    rmse: float
    spread_skill: float | None
    ranks: tuple[int, ...]
    rank_deviation: float


@dataclass(frozen=True)
class Scores:
    """The scores of ensembles.

    Attributes:
        inputs, members: how many inputs, and members of each.
        total: of all points. variables: of each variable.
        crps_fair_error: standard error of the total's crps_fair over the inputs.
    """

    inputs: int
    members: int
    total: Variable
    variables: tuple[Variable, ...]
    crps_fair_error: float | None

    def row(self) -> dict[str, Any]:
        """Return the fields of a row: the total's by name, and a list of the variables' if there are several."""
        found = {"inputs": self.inputs, "members": self.members} | _rounded(asdict(self.total))
        found |= _rounded({"crps_fair_error": self.crps_fair_error})
        if len(self.variables) > 1:
            found["variables"] = [_rounded(asdict(variable)) for variable in self.variables]
        return found


class EnsembleScorer:
    """Adds up the ensembles of inputs, and returns their scores.

    Args:
        seed: by which ranks of equal values are drawn; input i has draws of its own, whatever was added before.

    Raises:
        BackendError: scoringrules is not installed.
    """

    def __init__(self, seed: int = SEED) -> None:
        self.seed, self.inputs, self.members = seed, 0, 0
        self.shape: tuple[int, ...] = ()
        self._crps = _crps()
        self._mean = self._second = 0.0  # of crps_fair over inputs: its mean, and Σ (… − mean)²

    def add(self, members: Tensor | np.ndarray, truth: Tensor | np.ndarray) -> None:
        """Add the members [m, *shape] of the next input and its truth [*shape], numbers of any kind.

        Raises:
            RestartTypeError, RestartValueError: one sentence with the number of the input, from 0: members and truth of
            different shapes, another number of members or another shape than before, NaN or infinite values.
        """
        x, y = _numbers(f"the members of input {self.inputs}", members), _numbers(f"truth {self.inputs}", truth)
        self._fit(x, y)
        m, C = len(x), len(y) if y.ndim > 1 else 1
        x, y = x.reshape(m, C, -1), y.reshape(C, -1)
        sums, ranks = np.zeros((C, 4)), np.zeros((C, m + 1), np.int64)
        for c in range(C):
            draws = np.random.default_rng([self.seed, self.inputs, c])
            for part in _parts(y.shape[1], m):
                away = self._away(x[:, c, part], y[c, part])
                sums[c] += self._sums(away)
                ranks[c] += np.bincount(_ranks(away, draws), minlength=m + 1)
        if not self.inputs:
            self._sum, self._ranks = np.zeros_like(sums), np.zeros_like(ranks)
            self._points = y.shape[1]
        self._sum += sums / self._points
        self._ranks += ranks
        self.inputs += 1
        fair = float(sums[:, 1].mean()) / self._points
        apart = fair - self._mean
        self._mean += apart / self.inputs
        self._second += apart * (fair - self._mean)

    def result(self) -> Scores:
        """Return the scores of what was added. Raises RestartValueError if nothing was."""
        n, m = self.inputs, self.members
        if not n:
            raise RestartValueError("no ensemble was added, so there is nothing to score")
        means = self._sum / n
        error = math.sqrt(self._second / (n - 1) / n) if n > 1 else None
        variables = tuple(_variable(*each, m) for each in zip(means, self._ranks, strict=True))
        return Scores(n, m, _variable(means.mean(0), self._ranks.sum(0), m), variables, error)

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        """Raise RestartValueError unless members and truth go together, and with those before."""
        i = self.inputs
        if x.ndim < 2 or not y.ndim or x.shape[1:] != y.shape or not y.size:
            raise RestartValueError(
                f"input {i} has members {list(x.shape)} and a truth {list(y.shape)}; they must be [members, …] and […] "
                "with at least one dimension"
            )
        if len(x) < 2:
            raise RestartValueError(f"input {i} has {len(x)} member; an ensemble has at least 2")
        if i and len(x) != self.members:
            raise RestartValueError(f"input {i} has {len(x)} members, and those before it {self.members}")
        if i and y.shape != self.shape:
            raise RestartValueError(f"truth {i} has the shape {list(y.shape)}, and those before it {list(self.shape)}")
        self.members, self.shape = len(x), y.shape

    def _away(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return x − y of members [m, p] and truth [p], sorted by member, float64 [p, m]."""
        for what, values in ((f"truth {self.inputs}", y), (f"a member of input {self.inputs}", x)):
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise RestartValueError(f"{what} holds NaN or infinite values (inputs count from 0); leave it out")
        away = x.T.astype(np.float64) - y.astype(np.float64)[:, None]
        away.sort(axis=1)
        return away

    def _sums(self, away: np.ndarray) -> np.ndarray:
        """Return the sums over points of crps, crps_fair, variance and squared error of the mean."""
        zero = np.zeros(len(away))
        options: dict[str, Any] = {"sorted_ensemble": True, "backend": "numpy"}  # numba rounds otherwise
        crps, fair = (self._crps(zero, away, -1, estimator=name, **options).sum() for name in ("qd", "pwm"))
        return np.array([crps, fair, away.var(axis=1, ddof=1).sum(), np.square(away.mean(axis=1)).sum()])


def _variable(means: np.ndarray, ranks: np.ndarray, m: int) -> Variable:
    crps, fair, variance, square = means.tolist()
    spread, rmse = math.sqrt(variance), math.sqrt(square)
    ratio = math.sqrt((m + 1) / m) * spread / rmse if rmse else None
    deviation = float(np.abs(ranks / ranks.sum() - 1 / (m + 1)).sum()) / 2
    return Variable(crps, fair, spread, rmse, ratio, tuple(ranks.tolist()), deviation)


def _ranks(away: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Return how many members are below the truth, int64 [p]; of those that equal it a number that is drawn by lot."""
    found: np.ndarray = (away < 0).sum(axis=1)
    equal = (away == 0).sum(axis=1)
    tied = np.flatnonzero(equal)
    found[tied] += draws.integers(0, equal[tied], endpoint=True)
    return found


def _parts(points: int, m: int) -> Iterator[slice]:
    step = max(1, BLOCK // m)
    return (slice(start, start + step) for start in range(0, points, step))


def _numbers(what: str, value: Any) -> np.ndarray:
    """Return real numbers as an array; a tensor of any float is float64 if NumPy lacks its dtype."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.double() if value.dtype == torch.bfloat16 else value).numpy()
    found = np.asarray(value)
    if found.dtype.kind not in "fiub":
        raise RestartTypeError(f"{what} must be an array of real numbers, got {shown(value)}")
    return found


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields with numbers of DIGITS digits and lists for tuples."""

    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.{DIGITS}g}")
        return list(value) if isinstance(value, tuple) else value

    return {name: plain(value) for name, value in fields.items()}


def _crps() -> Any:
    """Return scoringrules' `crps_ensemble`. Raises BackendError, which says how to install it."""
    try:
        from scoringrules import crps_ensemble
    except ImportError:
        raise BackendError(
            "scores of ensembles need scoringrules; install it with: pip install 'restart-sampling[ensembles]'"
        ) from None
    return crps_ensemble
