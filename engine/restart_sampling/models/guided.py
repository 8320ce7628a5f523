r"""A denoiser guided by another one: autoguidance (arXiv 2406.02507), and guidance by an unconditional network.

Under guidance the second output is that of the other network, F = F_g + w·(F − F_g). Mixing F is mixing D if both have
the same parameterization, which is checked; plans are cut to the levels that both know. The guide is told of each
sample what the network is told, as far as it has conditions of these names. One that has none is an unconditional
network, as EDM2's classifier-free guidance uses it (arXiv 2312.02696). With `null=True` the guide is told its nulls.

Limiting cases: w = 1 is the network alone; a network guided by itself is the network, and with `null=True`
classifier-free guidance.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common.checks import shown
from ..common.errors import RestartTypeError, RestartValueError
from .conditions import CLASS, SAME, Condition
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
    if main.augmented_dim != guide.augmented_dim:
        one, other = (f"D = {d}" if d else "none" for d in (main.augmented_dim, guide.augmented_dim))
        raise RestartValueError(
            f"augmented dimensions of PFGM++ are {one} of {main.name!r} and {other} of the guide {guide.name!r}; both "
            "networks must know the same states"
        )
    if main.shape != guide.shape:
        raise RestartValueError(
            f"samples of {main.name!r} have shape {list(main.shape)} and those of the guide {guide.name!r} "
            f"{list(guide.shape)}; they must be equal"
        )
    levels = _common_levels(main, guide)
    for name in guide.conditions:
        one, other = (_declared(c.get(name)) for c in (main.conditions, guide.conditions))
        if one != other:
            raise RestartValueError(
                f"condition {name!r} of {main.name!r} is {one} and that of the guide {guide.name!r} {other}; the guide "
                "may have fewer conditions, and those it has must be the network's"
            )
    if CLASS in guide.conditions and main.classes and guide.classes and main.classes != guide.classes:
        raise RestartValueError(
            f"the classes of {main.name!r} and of the guide {guide.name!r} have other names; class k must be the same "
            "in both"
        )
    encoders = main.info.get("encoder"), guide.info.get("encoder")
    if all(encoders) and encoders[0] != encoders[1]:
        raise RestartValueError(
            f"samples of {main.name!r} and of the guide {guide.name!r} are encoded otherwise ({encoders[0]} and "
            f"{encoders[1]}); both networks must know the same states"
        )
    conditions = dict(main.conditions)
    for name, spec in main.conditions.items():
        if spec.shared:
            continue
        its = guide.conditions.get(name)
        if null and its is not None and its.null is None:
            raise RestartValueError(f"null=True needs a null of condition {name!r}, and {guide.name!r} has none")
        told = its.null if null and its is not None else SAME
        conditions[name] = Condition(spec.shape, spec.dtype, told, default=spec.default)
    return replace(main, guide=guide, conditions=conditions, parameterization=levels, info=_info(main, guide, null))


def _declared(spec: Condition | None) -> str:
    """Return what two networks must agree on of a condition, in words."""
    return "none" if spec is None else f"{spec}{', shared' if spec.shared else ''}"


def _info(main: Denoiser, guide: Denoiser, null: bool) -> dict[str, Any]:
    """Return what is known of the two: `info` of the network, with that of its guide beside it.

    "sha256" is of the two together, since samples of the network without this guide are other samples. It is missing
    where one of the two has none, a function say.
    """
    own, other = main.info.get("sha256"), guide.info.get("sha256")
    told = {"name": guide.name, "null": null, **guide.info}
    info = {**main.info, "guide": told}
    info.pop("sha256", None)
    if own and other:
        info |= {"network_sha256": own, "sha256": joint_sha256(own, other, null)}
    notes = [f"guide {guide.name}: {note}" for note in guide.info.get("notes", ())]
    return info | ({"notes": [*main.info.get("notes", ()), *notes]} if notes else {})


def joint_sha256(network: str, guide: str, null: bool) -> str:
    """Return the SHA-256, hex, that names the files of a network and its guide together."""
    return hashlib.sha256(f"{network} {guide}{' null' if null else ''}".encode()).hexdigest()


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
