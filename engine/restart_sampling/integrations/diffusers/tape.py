r"""The tape: a plan bound to a network as one row per model call, and the registers that run it.

A pipeline calls its scheduler once per network call with (model output F, timestep, sample). That is a row of the
engine's table (table.py): y = Y_X·x + Σ Y_H·h + Y_F·F + S·ε + S2·ε2, g = G_X·x + Σ G_H·h + G_F·F, x ← y at the end of a
solver step, one of the registers h ← g. So the scheduler needs no solver: entry k of `timesteps` is evaluation k of the
plan, and row k + 1 of the table is the update after it.

The sample that the pipeline holds between two calls is `scale`·y. In VP scale it is c_in(σ)·y = y/√(σ² + 1), which is
what the network gets, in VE scale y itself; flow states are not scaled. The finished sample has σ = 0 and the factor 1.
A Restart run visits the same timestep more than once, so calls are counted and timesteps are never looked up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from restart_kernels import layout
from restart_kernels.registers import HISTORY

from ...models.parameterization import Parameterization
from ...plan.plan import Plan
from ...sampler.table import bind


@dataclass(frozen=True)
class Tape:
    """What a scheduler reads, in order: one entry of each array per evaluation k of n.

    Attributes:
        plan: the plan as it runs on this network.
        sigma: the level of the evaluation.
        timestep: what the network is told.
        scale: the factor between the plan's state and the pipeline's sample; scale[n] is that of the finished one.
        coef, flags, draws: the row after the evaluation, `draws` its two numbers.
        c_skip, c_out: the weights of D.
        opens: whether a solver step begins there.
    """

    plan: Plan
    sigma: np.ndarray
    timestep: np.ndarray
    scale: np.ndarray
    coef: np.ndarray
    flags: tuple[int, ...]
    draws: tuple[tuple[int, int], ...]
    c_skip: np.ndarray
    c_out: np.ndarray
    opens: tuple[bool, ...]

    @classmethod
    def build(cls, plan: Plan, parameterization: Parameterization, scaled: bool) -> Tape:
        """Bind `plan` to a network. `scaled`: the pipeline's sample is c_in times the plan's state (VP scale)."""
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
            tuple((a, b) for a, b in table.code[1:, [layout.DRAW, layout.DRAW2]].tolist()),
            coefficients.c_skip,
            coefficients.c_out,
            opens,
        )

    def __len__(self) -> int:
        return len(self.flags)

    @cached_property
    def last_use(self) -> dict[int, int]:
        """The last row that has each draw. Solvers may share one between rows."""
        terms = zip(self.coef[:, [layout.S, layout.S2]].tolist(), self.draws, strict=True)
        return {draw: k for k, (stds, draws) in enumerate(terms) for std, draw in zip(stds, draws, strict=True) if std}

    def timesteps(self, device: Any) -> Tensor:
        """Return what the network is told, float32 [n] on `device`."""
        return torch.from_numpy(self.timestep).to(device, torch.float32)


@dataclass
class Registers:
    """The registers x and h, h2, h3 of a run, at least float32.

    `handed` is the sample that was returned last, and `version` its version then: they show whether the pipeline
    changed it. `x_is_handed` says that it is x, rounded.
    """

    x: Tensor | None = None
    history: list[Tensor | None] = field(default_factory=lambda: [None] * len(HISTORY))
    handed: Tensor | None = None
    version: int = -1
    x_is_handed: bool = False

    def take(self, sample: Tensor, scale: float) -> Tensor:
        """Return x at the beginning of a solver step: the register, or the pipeline's sample if that is another one.

        The register keeps float32 while the pipeline works in half precision; masks and callbacks make another sample.
        """
        own = self.x_is_handed and sample is self.handed
        if self.x is None or not own or sample.is_inference() or sample._version != self.version:
            self.x = sample.to(torch.promote_types(sample.dtype, torch.float32)) / scale
        return self.x

    def advance(self, tape: Tape, k: int, F: Tensor, sample: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        """Run the row after evaluation k; returns the next sample in the dtype of F.

        `noise` gives standard normals of the sample's shape for the number of a draw.
        """
        c, flags = tape.coef[k].tolist(), tape.flags[k]
        x = self.take(sample, float(tape.scale[k])) if tape.opens[k] or self.x is None else self.x
        dtype = F.dtype
        F = F.to(x.dtype)

        def affine(*columns: int) -> Tensor:
            registers = (x, *self.history, F)
            terms = [(c[i], v) for i, v in zip(columns, registers, strict=True) if c[i] and v is not None]
            total = torch.zeros_like(x)
            for weight, value in terms:
                total = total.add_(value, alpha=weight)
            return total

        y = affine(layout.Y_X, *(in_y for in_y, *_ in HISTORY), layout.Y_F)
        for std, draw in zip((c[layout.S], c[layout.S2]), tape.draws[k], strict=True):
            if std:
                y = y.add_(noise(draw).to(y), alpha=std)
        for j, (_, _, _, store) in enumerate(HISTORY):
            if flags & store:  # before x, which g reads
                self.history[j] = affine(layout.G_X, *(in_g for _, in_g, *_ in HISTORY), layout.G_F)
        if flags & layout.STORE_X:
            self.x = y
        out = (y * float(tape.scale[k + 1])).to(dtype)
        self.handed, self.version = out, -1 if out.is_inference() else out._version
        self.x_is_handed = bool(flags & layout.STORE_X)
        return out
