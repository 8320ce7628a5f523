"""Is a pipeline's call the one that is due? A wrong order gives a wrong image, so it is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .errors import SchedulerError

BEGIN = "; to begin later, call set_begin_index({0}) first and loop over timesteps[{0}:]"


def check_order(
    given: Any, k: int, own: Tensor, values: Sequence[float], tails: Mapping[int, Tensor], *, first: bool
) -> None:
    """Raise SchedulerError unless the timestep `given` is entry k.

    Entries are recognised by their place in memory, so that a GPU is not asked for values.

    Args:
        own: the timesteps of this run. values: the same on the host.
        tails: the timesteps of the runs that begin later, by the entry where they begin.
        first: whether no call of this run was made yet.
    """
    if isinstance(given, Tensor) and given.numel() == 1:
        place = given.untyped_storage().data_ptr()
        if place == own.untyped_storage().data_ptr():
            at = given.storage_offset() - own.storage_offset()
            if at != k:
                raise SchedulerError(
                    f"step was called with entry {at} of timesteps, but entry {k} is next; call it once for each, in "
                    "order" + (BEGIN.format(at) if k == 0 and first else "")
                )
            return
        for begin, later in tails.items():
            if place == later.untyped_storage().data_ptr():
                raise SchedulerError(
                    f"step was called with timesteps[{begin}:], which is a run of its own" + BEGIN.format(begin)
                )
        given = given.item()
    if isinstance(given, (int, float)) and abs(given - values[k]) > 4e-3 * abs(given) + 0.5:
        raise SchedulerError(
            f"step was called with timestep {given:g}, but entry {k} of timesteps is {values[k]:g}; "
            "call it once for each entry, in order"
        )


def check_input(sample: Tensor, scaled: Tensor | None) -> None:
    """Raise SchedulerError unless the pipeline scaled the network's input, and gave `step` the sample itself.

    Args:
        scaled: what scale_model_input returned for this call, None if it was not called.
    """
    if scaled is None:
        raise SchedulerError(
            "the network's input was not scaled: this pipeline does not call scale_model_input; "
            "make the scheduler with state='vp'"
        )
    if sample is scaled:
        raise SchedulerError(
            "step was given the scaled input instead of the sample, as DiTPipeline does; "
            "make the scheduler with state='vp'"
        )
