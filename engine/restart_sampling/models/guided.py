r"""Autoguidance: a denoiser guided by another one, a weaker version of itself (arXiv 2406.02507).

Under guidance the second output is that of the other network, F = F_g + w·(F − F_g). Mixing F is mixing D if both have
the same parameterization, which is checked; plans are cut to the levels that both know. The guide is told what the
network is told of each sample, or, with `null=True`, the nulls: an unconditional guide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..common.checks import shown
from ..common.errors import RestartTypeError, RestartValueError
from .conditions import SAME, Condition
from .parameterization import Parameterization

if TYPE_CHECKING:
    from .denoiser import Denoiser


def guided(main: Denoiser, guide: Denoiser, null: bool) -> Denoiser:
    """Return `main` guided by `guide`.

    Raises:
        RestartTypeError, RestartValueError: the two do not fit together.
    """
    if not isinstance(guide, type(main)):
        raise RestartTypeError(f"guided_by needs a Denoiser, got {shown(guide)}; use rs.load or Denoiser.from_function")
    for denoiser in (main, guide):
        if denoiser.guide is not None:
            raise RestartValueError(
                f"{denoiser.name!r} has a guide of its own, {denoiser.guide.name!r}; guidance mixes the outputs of two "
                "networks"
            )
    if main.shape != guide.shape:
        raise RestartValueError(
            f"samples of {main.name!r} have shape {list(main.shape)} and those of the guide {guide.name!r} "
            f"{list(guide.shape)}; they must be equal"
        )
    levels = _common_levels(main, guide)
    for name in {**main.conditions, **guide.conditions}:
        one, other = (f"{c[name]}" if name in c else "none" for c in (main.conditions, guide.conditions))
        if one != other:
            raise RestartValueError(
                f"condition {name!r} of {main.name!r} is {one} and that of the guide {guide.name!r} {other}; both "
                "networks are told the same"
            )
    conditions = dict(main.conditions)
    for name, spec in main.conditions.items():
        if spec.shared:
            continue
        if null and spec.null is None:
            raise RestartValueError(f"null=True needs a null of condition {name!r}, and {main.name!r} has none")
        if not null:
            conditions[name] = Condition(spec.shape, spec.dtype, SAME, default=spec.default)
    return replace(main, guide=guide, conditions=conditions, parameterization=levels)


def _common_levels(main: Denoiser, guide: Denoiser) -> Parameterization:
    """Return the parameterization of both, on the levels that both know."""
    a, b = main.parameterization, guide.parameterization
    low, high = max(a.sigma_min, b.sigma_min, 1e-4), min(a.sigma_max, b.sigma_max, 1e4)
    levels = np.geomspace(low, high, 33)
    if a.process == b.process and low < high:
        same = (
            np.allclose(x, y, rtol=1e-9, atol=0)
            for x, y in zip(
                (*a.coefficients(levels), a.round_sigma(levels)),
                (*b.coefficients(levels), b.round_sigma(levels)),
                strict=True,
            )
        )
        if all(same):
            return replace(a, sigma_min=max(a.sigma_min, b.sigma_min), sigma_max=min(a.sigma_max, b.sigma_max))
    raise RestartValueError(
        f"the guide {guide.name!r} has another parameterization ({b.name}) than {main.name!r} ({a.name}); guidance "
        "mixes their outputs, so the coefficients of both must be equal"
    )
