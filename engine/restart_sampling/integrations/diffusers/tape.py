r"""The tape: a plan bound to a network as one row per model call, and the two registers that run it.

A pipeline calls its scheduler once per network call with (model output F, timestep, sample). That is a row of the
engine's table (table.py): y = Y_X·x + Y_H·h + Y_F·F + S·ε, g = G_X·x + G_H·h + G_F·F, x ← y at the end of a solver
step, h ← g. So the
scheduler needs no solver: entry k of `timesteps` is evaluation k of the plan, and row k + 1 of the table is what
    follows it.

The sample that the pipeline holds between two calls is `scale`·y. In VP scale it is c_in(σ)·y = y/√(σ² + 1), which is
what the network gets, in VE scale y itself; flow states are not scaled. The finished sample has σ = 0 and the factor 1.
A Restart run visits the same timestep more than once, so where a run stands is counted, never looked up."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restart_kernels import layout

from ...models.parameterization import Parameterization
from ...plan.limits import stop_at_last_level
from ...plan.notation import RestartConfig, RestartInterval
from ...plan.plan import Plan
from ...sampler.table import bind


@dataclass(frozen=True)
class Tape:
    """What a scheduler reads, in order.

    `plan` is the plan as it runs on this network. For evaluation k of n: `sigma`[k] its level, `timestep`[k] what the network
    is told, `scale`[k] the factor between the plan's state and the pipeline's sample (`scale`[n]: of the finished one),
    `coef`[k], `flags`[k], `draw`[k] the row after it, `c_skip`[k], `c_out`[k] the weights of D, `opens`[k] whether a solver
    step begins there.
    """

    plan: Plan
    sigma: np.ndarray
    timestep: np.ndarray
    scale: np.ndarray
    coef: np.ndarray
    flags: tuple[int, ...]
    draw: tuple[int, ...]
    c_skip: np.ndarray
    c_out: np.ndarray
    opens: tuple[bool, ...]

    @classmethod
    def build(cls, plan: Plan, parameterization: Parameterization, scaled: bool) -> Tape:
        """Bind `plan`. `scaled`: the pipeline's sample is c_in times the plan's state (VP scale)."""
        table = bind(plan, parameterization)
        coefficients = parameterization.coefficients(table.sigma[1:])
        opens = tuple(row.stage == 0 for row in table.plan.rows)
        end = float(parameterization.coefficients(s).c_in) if (s := table.plan.steps[-1].s) > 0 else 1.0
        scale = np.append(table.coef[:-1, layout.C_IN], end) if scaled else np.ones(table.nfe + 1)
        return cls(
            table.plan,
            table.sigma[1:],
            table.coef[:-1, layout.C_NOISE],
            scale,
            table.coef[1:],
            tuple(table.code[1:, layout.FLAGS].tolist()),
            tuple(table.code[1:, layout.DRAW].tolist()),
            coefficients.c_skip,
            coefficients.c_out,
            opens,
        )

    def __len__(self) -> int:
        return len(self.flags)


@dataclass
class Registers:
    """x and h of a run, at least float32, and the sample handed out last (to see whether the pipeline changed it)."""

    x: Tensor | None = None
    h: Tensor | None = None
    handed: Tensor | None = None
    version: int = -1
    x_is_handed: bool = False

    def take(self, sample: Tensor, scale: float) -> Tensor:
        """x at the beginning of a solver step: the register, or the pipeline's sample where it is another one.

        The register keeps float32 where the pipeline works in half precision; masks and callbacks make another sample.
        """
        own = self.x_is_handed and self.x is not None and sample is self.handed
        if not own or sample.is_inference() or sample._version != self.version:
            self.x = sample.to(torch.promote_types(sample.dtype, torch.float32)) / scale
        assert self.x is not None
        return self.x

    def advance(self, tape: Tape, k: int, F: Tensor, sample: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        """Run the row after evaluation k; returns the next sample in the dtype of F.

        `noise` gives standard normals of the sample's shape for the number of a draw.
        """
        c, flags = tape.coef[k].tolist(), tape.flags[k]
        x = self.take(sample, float(tape.scale[k])) if tape.opens[k] or self.x is None else self.x
        dtype = F.dtype
        F = F.to(x.dtype)

        def affine(weights: list[float]) -> Tensor:
            terms = [(w, v) for w, v in zip(weights, (x, self.h, F), strict=True) if w and v is not None]
            total = torch.zeros_like(x)
            for weight, value in terms:
                total = total.add_(value, alpha=weight)
            return total

        y = affine(c[layout.Y_X : layout.Y_F + 1])
        if c[layout.S]:
            y = y.add_(noise(tape.draw[k]).to(y), alpha=c[layout.S])
        if flags & layout.STORE_H:  # before x, which g reads
            self.h = affine(c[layout.G_X : layout.G_F + 1])
        if flags & layout.STORE_X:
            self.x = y
        out = (y * float(tape.scale[k + 1])).to(dtype)
        self.handed, self.version = out, -1 if out.is_inference() else out._version
        self.x_is_handed = bool(flags & layout.STORE_X)
        return out


def tail(plan: Plan, m: int) -> tuple[Plan, tuple[str, ...]]:
    """`plan` from point m of its main grid on, and what was left out of it, one line each.

    An interval stays if the run comes by its t_min and its t_max is not above the level where the run begins: a jump
    that is would undo more of the image than was asked for."""
    to_zero = plan.steps[-1].s == 0
    level = plan.grid[m]
    kept = [i for i in plan.intervals if i.index > m and i.t_max <= level]
    left_out = tuple(
        f"Restart interval {i.number} ({i.t_min:.4g} to {i.t_max:.4g}) is left out of a run that begins at {level:.4g}"
        for i in plan.intervals
        if i not in kept
    )
    options = plan.config.to_dict()
    for name in ("steps", "sigma_min", "sigma_max"):
        options.pop(name, None)
    restart = RestartConfig(tuple(RestartInterval(i.N, i.K, i.t_min, i.t_max) for i in kept))
    later = Plan.build(**{**options, "sigmas": plan.grid[m:-1], "restart": restart})
    return later if to_zero else stop_at_last_level(later), left_out


class Timesteps(Tensor):
    """The timesteps of a tape, float32 [n], whose tails are made by the scheduler.

    Image-to-image pipelines take `timesteps[i:]` and begin there. On a tape entry i may lie between a predictor and its
    corrector, or inside an interval, so `owner.cut(i)` says what runs. Pipelines that hand over half-way
    (`denoising_end`,
    `denoising_start`) cut elsewhere and compare values; they get an error instead of a wrong image. Everything else, and every
    result, is an ordinary tensor.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    owner: Any

    @classmethod
    def make(cls, values: Tensor, owner: Any) -> Timesteps:
        result = values.as_subclass(cls)
        result.owner = owner
        return result

    def __getitem__(self, key: Any) -> Tensor:
        plain = self.as_subclass(Tensor)
        if isinstance(key, slice) and key.step is None:
            start = 0 if key.start is None else operator.index(key.start)
            if start > 0 and key.stop is None:
                return self.owner.cut(start)
            if start == 0 and key.stop is not None and 1 < operator.index(key.stop) < len(plain):
                raise self.owner.no_hand_over()
        return plain[key]

    def __lt__(self, other: Any) -> Tensor:
        raise self.owner.no_hand_over()

    def __deepcopy__(self, memo: dict[int, Any]) -> Timesteps:
        import copy

        return Timesteps.make(self.as_subclass(Tensor).clone(), copy.deepcopy(self.owner, memo))
