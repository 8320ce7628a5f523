r"""Lowering: the steps of a plan, in terms of D, become rows of the machine, in terms of the network's output F.

It is linear algebra in float64. Within a step every quantity is a vector over

    (x, h, h2, h3, F_0, F_1, …, ε_0, ε_1, …)

x and the history as the registers hold them at the start of the step, the outputs of its evaluations, and the draws its
forms share. With D_k = c_skip(t_k)·z_k + c_out(t_k)·F_k each stage's input z_k, the result and what is kept are such
vectors. Row k follows evaluation k. Its y is the next stage's input, or the result, and must be a combination of what
the row can read: the registers and F_k, and of at most two draws, since a draw can be made again. Besides, the row may
store y in x and one further combination g, without noise, in a history register.

What to store is a small search, row by row: after row k, the part of everything that follows which depends on past F's
(`needs`) has to lie in the span of the registers. Of all ways the first one that works is taken: x is kept where it is,
the first register that is free is used, and g is the need that depends most on past F's. For a step of two
evaluations that is the known part of its result, so its last row is y = h + Y_F·F and does not read x: Heun moves 24
bytes per element and step with a bf16 network instead of 28. A solver for which no way works is refused.

A soft mask changes the state after a row (row/reference.py): what the network sees is then no combination of anything,
and D_k depends on it through c_skip. So each pasted state is a coordinate of its own, P_1 … P_S, which x has if the row
stores it. With a hard mask that makes no difference: under the mask everything is overwritten.

The noise that is added on arrival is in x and in nothing else. It has a coordinate as well, so that what is kept for
the next step is never written as a combination of x that would bring it along.

Rounding errors grow where large terms cancel, so ways in which a combination has terms much larger than their sum are
tried only if all others fail.

No solver is special-cased, and nothing here knows a noise level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..common.errors import ConfigError
from ..models.parameterization import Coefficients
from ..plan.trajectory import Step
from ..solvers.trace import Form

Vector = np.ndarray
R = 3  # history registers of the largest machine
TOLERANCE = 1e-10  # of a residual, relative to the vector; a plan's coefficients are good to about 1e-15
TERMS = 2  # noise terms of a row
GROWTH = 8.0  # a combination whose terms are so much larger than their sum is taken only if there is no other way
TOO_MUCH = (
    f"needs more than x, {R} kept combinations of earlier evaluations and the newest one; combine earlier evaluations, "
    "or keep fewer"
)


@dataclass(frozen=True)
class Combination:
    """x·x + Σ_j history[j]·h_j + F·F_k, and what is left of the draws: number within the step → coefficient."""

    x: float
    history: tuple[float, ...]
    F: float
    noise: dict[int, float]


@dataclass(frozen=True)
class Lowered:
    """What a row computes: y, whether x takes it, and g with the register that takes it, counted from 0."""

    y: Combination
    store_x: bool
    g: Combination | None = None
    slot: int = 0


@dataclass(frozen=True)
class State:
    """What the registers hold, as vectors; None where nothing will read it."""

    x: Vector
    history: tuple[Vector | None, ...]

    @property
    def live(self) -> list[int]:
        return [j for j, h in enumerate(self.history) if h is not None]


class Refused(Exception):
    """No row of the machine computes this; the message says why."""


class Lowering:
    """Lowers the steps of one plan, in order: what a step leaves in the registers is what the next one finds.

    Args:
        pasted: whether rows paste a known image by a soft mask.
    """

    def __init__(self, pasted: bool = False) -> None:
        self.pasted = pasted
        # The history of the next step: its forms as combinations of (x, h, h2, h3).
        self._kept: tuple[Vector, ...] = ()

    def step(self, step: Step, c: Coefficients) -> list[Lowered]:
        """Return the rows of a step, one for each evaluation.

        Args:
            c: the coefficients of the network at the step's evaluations, [S] each.

        Raises:
            ConfigError: the step needs what no row can compute.
        """
        S, M = len(step.stages), len(step.draws)
        seen = S if self.pasted else 0  # coordinates of pasted states
        basis = np.eye(1 + R + S + seen + 1 + M)
        F, P, (fresh,), noise = np.split(basis[1 + R :], (S, S + seen, S + seen + 1))
        history = [sum((a * e for a, e in zip(kept, basis, strict=False)), 0 * basis[0]) for kept in self._kept]
        D: list[Vector] = []

        def vector(form: Form) -> Vector:
            total = form.x * basis[0]
            for weights, vectors in ((form.history, history), (form.D, D), (form.noise, noise)):
                for weight, v in zip(weights, vectors, strict=False):
                    total = total + weight * v
            return total

        z: list[Vector] = []
        for k, stage in enumerate(step.stages):
            z.append(vector(stage.z))
            D.append(c.c_skip[k] * (P[k - 1] if self.pasted and k else z[k]) + c.c_out[k] * F[k])
        targets, keep = [*z[1:], vector(step.result)], [vector(form) for form in step.keep]
        used = [any(kept[1 + j] for kept in self._kept) for j in range(R)]
        state = State(basis[0], tuple(basis[1 + j] if used[j] else None for j in range(R)))
        stored = list(P) if self.pasted else [*targets]
        stored[-1] = stored[-1] + fresh * bool(step.noise)
        for limit in (GROWTH, np.inf):
            search = _Search(targets, stored, keep, M, bool(step.noise), limit)
            found = search.run(state, 0)
            if found is not None:
                break
        else:
            raise ConfigError(search.reason)
        rows, end = found
        self._kept = tuple(_over_registers(v, end) for v in keep)
        return rows


class _Search:
    """The search for the rows of one step."""

    def __init__(
        self, targets: list[Vector], stored: list[Vector], keep: list[Vector], M: int, fresh: bool, limit: float
    ) -> None:
        self.limit = limit  # of the growth of rounding errors
        self.targets, self.keep, self.S, self.M, self.fresh = targets, keep, len(targets), M, fresh
        self.stored = stored  # what x holds after each row that stores it
        self.draws = slice(len(targets[0]) - M, None)
        self.reason = ""

    def run(self, state: State, k: int) -> tuple[list[Lowered], State] | None:
        """Return the rows from k on and the registers at the end, or None if there are none."""
        last = k == self.S - 1
        target = self.targets[k]
        try:
            y = self._combination(target, state, k)
        except Refused as why:
            self.reason = f"what follows evaluation {k} {why}"
            return None
        if len(y.noise) + (last and self.fresh) > TERMS:
            self.reason = f"what follows evaluation {k} needs more than {TERMS} draws; share fewer of them"
            return None
        needs = self._needs(k)
        for store_x in (True,) if last else (False, True):
            x = self.stored[k] if store_x else state.x
            for g, slot in self._stores(State(x, state.history), needs, k):
                after = state.history if g is None else (*state.history[:slot], g, *state.history[slot + 1 :])
                end = State(x, after)
                if not all(self._spanned(v, end) for v in needs):
                    continue
                try:
                    stored = None if g is None else self._combination(g, state, k)
                except Refused:
                    continue
                if stored is not None and stored.noise:
                    continue
                row = Lowered(y, store_x, stored, slot)
                if last:
                    return [row], end
                rest = self.run(end, k + 1)
                if rest is not None:
                    return [row, *rest[0]], rest[1]
        self.reason = self.reason or f"what follows evaluation {k} {TOO_MUCH}"
        return None

    def _needs(self, k: int) -> list[Vector]:
        """Return the parts of what comes after row k that must be in the registers then: what depends on no later F.

        The draws of stages and result are left out, since a row can make them again; of what is kept they are not.
        """
        known = np.zeros(len(self.targets[0]), dtype=bool)
        known[: 2 + R + k] = True
        known[1 + R + self.S : min(2 + R + self.S + k, self.draws.start)] = True  # P_1 … P_{k + 1}
        later = [np.where(known, v, 0.0) for v in self.targets[k + 1 :]]
        with_noise = known.copy()
        with_noise[self.draws] = True
        return [*later, *(np.where(with_noise, v, 0.0) for v in self.keep)]

    def _stores(self, state: State, needs: list[Vector], k: int) -> Iterator[tuple[Vector | None, int]]:
        """Yield (g, register) to try, the best first; (None, 0) is to store nothing.

        What is kept for the next step gets a register even where the new state would do, so that it outlives the state.
        """
        last = k == self.S - 1
        outputs = slice(1, 1 + R + self.S)
        wanted = sorted(needs, key=lambda v: -np.abs(v[outputs]).max())
        if last:
            there = State(0 * state.x, state.history)
            wanted = [v for v in wanted if not self._spanned(v, there)]
        else:
            pasted = slice(
                outputs.stop, self.draws.start
            )  # a pasted state takes the place of x, so x may be wanted too
            wanted = [v for v in wanted if v[outputs].any() or v[pasted].any()]
        if not last and wanted:
            yield self._without_noise(wanted[0]), 0
        if not last:
            yield None, 0
        for v in wanted:
            for part in (v, *self._without_a_draw(v, state.x), *self._without_pasted(v)):
                for slot in range(R):
                    yield part if last else self._without_noise(part), slot
        if last:
            yield None, 0

    def _without_noise(self, v: Vector) -> Vector:
        """Return v without its draws, which a later row makes again."""
        g = v.copy()
        g[self.draws] = 0.0
        return g

    def _without_pasted(self, v: Vector) -> Iterator[Vector]:
        """Yield v without pasted states, if it has any: this row cannot read yet what x will hold."""
        pasted = slice(1 + R + self.S, self.draws.start)
        if v[pasted].any():
            g = v.copy()
            g[pasted] = 0.0
            yield g

    def _without_a_draw(self, v: Vector, x: Vector) -> Iterator[Vector]:
        """Yield v − κ·x with κ such that one of the draws in both is gone: x, once stored, brings its own."""
        target = self.targets[-1]
        for m in range(self.M):
            i = self.draws.start + m
            if x[i] and target[i]:
                yield v - target[i] / x[i] * x

    def _spanned(self, v: Vector, state: State) -> bool:
        """Whether v, its draws apart where it is no kept form, is a combination of the registers."""
        registers = [state.x, *(state.history[j] for j in state.live)]
        noisy = bool(np.abs(v[self.draws]).max(initial=0.0))
        rows = slice(None) if noisy else slice(0, self.draws.start)
        A = np.array(registers)[:, rows].T
        return _within(A, v[rows], TOLERANCE, self.limit)

    def _combination(self, v: Vector, state: State, k: int) -> Combination:
        """Return v as a combination of registers and F_k with the fewest registers; Refused if there is none."""
        F = 1 + R + k
        free = np.zeros(len(v), dtype=bool)  # coordinates that need no register
        free[F] = True
        free[self.draws] = True
        plain = bool(state.x[0] == 1 and np.abs(state.x[1:]).max() == 0)
        if plain:
            free[0] = True
        old = np.nonzero(~free)[0]
        scale = max(float(np.abs(v).max()), 1e-300)
        choices: list[tuple[int, ...]] = [(), *((j,) for j in state.live)]
        choices += [c for n in range(2, R + 1) for c in combinations(state.live, n)]
        for with_x in (False,) if plain else (False, True):
            for chosen in choices:
                if not chosen and np.abs(v[old]).max(initial=0.0) > 0 and not with_x:
                    continue
                registers = [h for j in chosen if (h := state.history[j]) is not None] + ([state.x] if with_x else [])
                weights = _weights(registers, v, old)
                rest = v
                for w, r in zip(weights, registers, strict=True):
                    rest = rest - w * r if w else rest
                if np.abs(rest[old]).max(initial=0.0) > TOLERANCE * scale:
                    continue
                if sum(abs(w) * np.abs(r).max() for w, r in zip(weights, registers, strict=True)) > self.limit * scale:
                    continue
                history = [0.0] * R
                for j, w in zip(chosen, weights, strict=False):
                    history[j] = float(w)
                x = float(weights[-1]) if with_x else float(rest[0]) if plain else 0.0
                tail = rest[self.draws]
                noise = {m: float(a) for m, a in enumerate(tail) if abs(a) > TOLERANCE * scale}
                return Combination(x, tuple(history), float(rest[F]), noise)
        raise Refused(TOO_MUCH)


def _weights(registers: Sequence[Vector], v: Vector, old: np.ndarray) -> list[float]:
    """Return weights with Σ w_j·r_j ≈ v on the coordinates `old`."""
    if not registers:
        return []
    A = np.array(registers)[:, old]
    if len(registers) == 1:
        i = int(np.abs(A[0]).argmax()) if len(old) else 0
        return [float(v[old][i] / A[0][i]) if len(old) and A[0][i] else 0.0]
    return [float(w) for w in np.linalg.lstsq(A.T, v[old], rcond=None)[0]]


def _within(A: np.ndarray, v: Vector, tolerance: float, limit: float) -> bool:
    """Whether v is a combination of the columns of A whose terms are together at most `limit` times as large as v."""
    weights = np.linalg.lstsq(A, v, rcond=None)[0]
    scale = max(float(np.abs(v).max()), 1e-300)
    grown = np.abs(weights) @ np.abs(A).max(0)
    return float(np.abs(v - A @ weights).max()) <= tolerance * scale and grown <= limit * scale


def _over_registers(v: Vector, end: State) -> Vector:
    """Return a kept form as a combination of (x, h, h2, h3) at the end of a step: of one register if that is it."""
    result = np.zeros(1 + R)
    for j, h in enumerate(end.history):
        if h is not None and np.array_equal(h, v):
            result[1 + j] = 1.0
            return result
    registers = [end.x, *(end.history[j] for j in end.live)]
    weights = np.linalg.lstsq(np.array(registers).T, v, rcond=None)[0]
    result[[0, *(1 + j for j in end.live)]] = weights
    return result
