"""The conditions of a request: what every sample is told, checked before any network call and read by place.

Values stay where they were given, and a batch takes its own rows. Classes are numbers until they are in the lanes.
Where a class picks rows of a default, such as the prompts that a pipeline was loaded with, they are looked up on the
way there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..common.checks import shown
from ..common.errors import RestartTypeError, RestartValueError
from ..models.conditions import CLASS, Condition, check_known, missing
from ..models.denoiser import Denoiser
from . import labels as classes
from .labels import Labels

Conditions = Mapping[str, Any] | None
Own = Sequence[Mapping[str, Any]] | None


@dataclass
class Given:
    """What the samples of a request are told.

    Attributes:
        labels: classes int64 [n] on the CPU; None without classes, and where a sample has another row than a one-hot
            one.
        samples: [n, *shape] by name; class_labels may be the numbers int64 [n].
        shared: [*shape] by name.
        tables: [classes, *shape] by name, whose rows the labels pick.
        mark: tells these shared values from those of other requests.
    """

    labels: Tensor | None = None
    samples: dict[str, Tensor] = field(default_factory=dict)
    shared: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, Tensor] = field(default_factory=dict)
    mark: object = field(default_factory=object)

    def take(self, places: slice | Tensor) -> dict[str, Tensor]:
        """Return what the samples at some places of the request are told, by name: a slice, or int64 on the CPU."""
        found = {name: _rows(value, places) for name, value in self.samples.items()}
        if self.labels is not None:
            labels = self.labels[places]
            found |= {name: table[labels.to(table.device)] for name, table in self.tables.items()}
        return found


def collect(
    denoiser: Denoiser, seeds: Tensor, class_labels: Labels, given: Conditions, own: Own, device: torch.device
) -> Given:
    """Return the conditions of a request, checked.

    Args:
        denoiser: what it declares must be there, and nothing else.
        seeds: int64 [n].
        class_labels: as of `Sampler.run`; they may also be in `given` or in `own`.
        given: values by name, [n, *shape] or [*shape].
        own: one dict for each sample, of its own values [*shape], or None.
        device: of the sampler.

    Raises:
        RestartTypeError, RestartValueError: one sentence about what is missing, unknown, given twice or undeclared.
    """
    declared, n = denoiser.conditions, len(seeds)
    values = dict(_checked_dict(given, "conditions"))
    of_samples = _by_name(own or ())
    if CLASS in values:
        class_labels = _once(CLASS, class_labels, values.pop(CLASS))
    if CLASS in of_samples:
        class_labels = _once(CLASS, class_labels, classes.of_samples(denoiser, seeds, of_samples.pop(CLASS)))
    check_known(denoiser.name, declared, (*values, *of_samples))
    found = Given()
    for name, spec in declared.items():
        if name == CLASS:
            continue
        if name in of_samples:
            each = _stacked(denoiser, name, spec, of_samples[name], device)
            values[name] = _once(name, values.get(name), each)
        if name in values:
            value = spec.read(name, values[name], None if spec.shared else n, device)
        elif spec.constant is not None:
            value = spec.constant.to(device)
            value = value if spec.shared else value.expand(n, *spec.shape)
        else:
            continue
        (found.shared if spec.shared else found.samples)[name] = value
    _classify(denoiser, seeds, class_labels, found)
    for name, spec in declared.items():
        if name not in found.samples and name not in found.shared and name not in found.tables:
            raise missing(denoiser.name, name, spec)
    return found


def check_guidance(denoiser: Denoiser, scale: float) -> None:
    """Raise RestartValueError unless the network can be guided: every condition of a sample needs its null.

    One with a guide of its own can be guided with no condition at all.
    """
    samples = {name: spec for name, spec in denoiser.conditions.items() if not spec.shared}
    without = [name for name, spec in samples.items() if spec.null is None]
    if without:
        raise RestartValueError(
            f"guidance_scale = {scale:g} needs a null of every condition, and {', '.join(map(repr, without))} of "
            f"{denoiser.name!r} has none; declare it as rs.Condition(…, null=…), give the network a guide "
            "(Denoiser.guided_by, --guide), or leave guidance_scale at 1"
        )
    if denoiser.guide is None and all(isinstance(spec.null, str) for spec in samples.values()):
        raise RestartValueError(
            f"guidance_scale = {scale:g} needs a class-conditional network, or one with another condition that has a "
            f"null, or a guide, and {denoiser.name!r} has none; leave guidance_scale at 1"
        )


def _classify(denoiser: Denoiser, seeds: Tensor, class_labels: Labels, found: Given) -> None:
    """Add the classes, and what they pick."""
    picks = {name: spec.table for name, spec in denoiser.conditions.items() if spec.table is not None}
    left = {name: table for name, table in picks.items() if name not in found.samples}
    of_network = CLASS in denoiser.conditions
    if class_labels is None and picks and len(left) < len(picks) and not of_network:
        return  # the prompt, say, is the user's own: what a class would pick besides is missing
    if class_labels is not None and picks and not left and not of_network:
        raise RestartValueError(
            f"class_labels were given, and so was {', '.join(map(repr, picks))}, which a class of {denoiser.name!r} "
            "stands for; give one of the two"
        )
    rows = classes.read(denoiser, seeds, class_labels)
    if rows is None:
        return
    found.labels = rows if rows.ndim == 1 else classes.numbers_of(rows)
    if of_network:
        found.samples[CLASS] = rows if found.labels is None else found.labels
    if left and found.labels is None:
        raise RestartValueError(
            f"class_labels pick {', '.join(map(repr, left))} of {denoiser.name!r} and must be classes or one-hot rows, "
            "not mixtures of classes"
        )
    found.tables = left


def _checked_dict(given: Any, what: str) -> Mapping[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise RestartTypeError(f"{what} must be a dict of values by name, got {shown(given)}")
    return given


def _by_name(own: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the values of samples by name, None where a sample has none."""
    names = {name: None for item in own for name in _checked_dict(item, "the conditions of a sample")}
    return {name: [item.get(name) for item in own] for name in names}


def _once(name: str, one: Any, other: Any) -> Any:
    """Return the second of two values, of which the first must not be there."""
    if one is not None:
        raise RestartValueError(f"{name} was given twice; give it once for all samples, or once for each")
    return other


def _stacked(denoiser: Denoiser, name: str, spec: Condition, values: Sequence[Any], device: torch.device) -> Tensor:
    """Return the values [n, *shape] of samples that have one each."""
    if spec.shared:
        raise RestartValueError(f"condition {name!r} is shared by all samples of a run; give it in conditions=")
    rows = []
    for i, value in enumerate(values):
        if value is None:
            if spec.constant is None:
                raise RestartValueError(f"condition {name!r} of {denoiser.name!r} is missing for sample {i}")
            value = spec.constant.to(device)
        rows.append(spec.read(name, value, None, device, unread=True))
    return torch.stack(rows)  # which is read as a whole


def _rows(value: Tensor, places: slice | Tensor) -> Tensor:
    return value[places] if isinstance(places, slice) else value[places.to(value.device)]
