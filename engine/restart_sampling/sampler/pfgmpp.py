r"""PFGM++ (Xu et al., arXiv 2302.04265): noise whose size is drawn for each sample.

PFGM++ adds D further dimensions of norm r = σ√D to the data x (N dimensions) and perturbs both: a draw of x at level σ
is a Gaussian direction times a random size, and D → ∞ is diffusion. Restart raises such a state from t_0 to t_1 by
moving the augmented point, of norm r_0 = t_0·√D, along a random direction (g_N, g_D) with |g_D| = 1 until its norm is
r_1 = t_1·√D. With q = r_0·u, u the cosine between the point's D part and g_D, the displacement is
m = −q + √(q² + r_1² − r_0²), and x ← x + S_noise·m·g_N. (The other root, −q − √…, is equally likely, since g and −g
are. So one is enough.)

Now g_N = ε/√χ²_D with ε standard normal in N dimensions and χ²_D the squared norm of D more normals, and u is one
coordinate of a uniform unit vector in D dimensions. So the whole move is a Gaussian one with a std of its own for every
sample and draw,

    c = √D·(−t_0·u + √(t_0²·u² + t_1² − t_0²)) / √χ²_D        for a jump or churn, times S_noise,
    c = σ_max·√D / √χ²_D                                       for the initial latent,

and nothing else of a plan changes: each sample gets a table of its own, which differs in the column S alone. χ² and u
come from stream 2 of the seed: from normals 0 … D − 1 and D … 2D − 1 of the draw. Their squares are summed as integers,
which is exact in any order, so the size depends on (seed, draw) alone, to the last bit, on any machine.

Limiting cases: D → ∞ is the diffusion table; t_1 = t_0 adds nothing; t_0 = 0 is the prior's form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

import restart_kernels
from restart_kernels import layout
from restart_kernels.philox.coefficients import STREAM_PFGM

from ..common.errors import ConfigError, RestartValueError
from .noise import seed_tensor
from .table import Table, Variant

_SCALE = 2.0**36  # a square of a normal is below 46: 2²¹ of them fit in 63 bits
LARGEST_D = 2**21


def sizes(seeds: Sequence[int] | torch.Tensor, draw: int, D: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (√(χ²_D / D), u) of each seed's draw, float64 [B] each; u is in [−1, 1].

    Args:
        seeds: int64 [B].
        draw: 0 for the initial latent, k for the k-th injection.
        D: dimensions of the augmentation, 1 … 2²¹.
    """
    parts = []
    for some in seed_tensor(seeds).split(max(1, LARGEST_D // D)):
        z = restart_kernels.normal(some, draw, 2 * D, stream=STREAM_PFGM).to(torch.float64).view(-1, 2, D)
        sums = (z * z * _SCALE).round().to(torch.int64).sum(-1)
        parts.append(torch.cat([sums.to(torch.float64) / _SCALE, z[:, 1, :1]], dim=1))
    chi_squared, other, coordinate = torch.cat(parts).numpy().T
    return np.sqrt(chi_squared / D), coordinate / np.sqrt(other)


def tables(bound: Sequence[Table], seeds: torch.Tensor, D: int) -> list[Table]:
    """Return the table of each sample: `bound[b]` with the stds that seed b draws.

    Args:
        bound: the table of each sample's plan; one object may stand for many samples.
        seeds: int64 [B].
        D: dimensions of the augmentation.

    Raises:
        ConfigError: the plan samples a flow, its solver shares draws, or D is beyond 2²¹.
    """
    if D > LARGEST_D:
        raise ConfigError(
            f"PFGM++ with D = {D:,} is not supported, at most {LARGEST_D:,}; a larger D is diffusion to four digits"
        )
    result: list[Table | None] = [None] * len(bound)
    groups: dict[int, list[int]] = {}
    for place, table in enumerate(bound):
        groups.setdefault(id(table), []).append(place)
    for places in groups.values():
        table = bound[places[0]]
        if any(step.draws for step in table.plan.steps):
            raise ConfigError(
                f"solver {table.plan.config.solver!r} shares noise between its evaluations, which PFGM++ cannot; use "
                "another solver"
            )
        for place, S in zip(places, stds(table, seeds[places], D), strict=True):
            coef = table.coef.copy()
            coef[:, layout.S] = S
            result[place] = replace(table, coef=coef)
    return [table for table in result if table is not None]


def check(variant: Variant) -> None:
    """Raise RestartValueError for a run that begins or pastes as a PFGM++ network cannot."""
    if variant.start == "latents":
        raise RestartValueError("latents are not taken with a PFGM++ network")
    if variant.paste is not None:
        raise RestartValueError("a known image is not pasted with a PFGM++ network, whose noise has another law")


def stds(table: Table, seeds: Sequence[int] | torch.Tensor, D: int) -> np.ndarray:
    """Return column S of each seed's table, float64 [B, NFE + 1]: 0 where nothing is injected."""
    plan = table.plan
    if plan.process != "ve":
        raise ConfigError(f"a PFGM++ network needs a 've' schedule, this plan samples a {plan.process!r} process")
    columns = np.zeros((len(seeds), len(table.coef)))
    columns[:, 0] = plan.initial_noise / sizes(seeds, 0, D)[0]
    row = 0
    for step in plan.steps:
        row += len(step.stages)
        if not step.noise:
            continue
        # What a VE plan adds on arrival, as one move from t_0 to t_1. For a solver's own noise t_0 is below the end of
        # the step.
        sigma = step.noise / plan.config.s_noise
        t_1 = max(step.lift_to, step.s)
        t_0 = np.sqrt(max((t_1 - sigma) * (t_1 + sigma), 0.0))
        size, u = sizes(seeds, step.draw, D)
        m = -t_0 * u + np.sqrt((t_0 * u) ** 2 + sigma**2)
        columns[:, row] = plan.config.s_noise * m / size
    return columns
