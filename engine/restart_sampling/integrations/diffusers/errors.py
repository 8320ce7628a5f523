"""The error of a scheduler whose pipeline does not drive it as it must be driven."""

from __future__ import annotations

from ...common.errors import RestartError


class SchedulerError(RestartError, RuntimeError):
    """A scheduler that is driven in a way it cannot follow."""


def no_hand_over() -> SchedulerError:
    """Return the error for pipelines that stop half-way, or compare timesteps to find where to go on."""
    return SchedulerError(
        "timesteps of a Restart run cannot be compared or cut short: denoising_end and denoising_start are not "
        "supported; use list(scheduler.timesteps) for the values"
    )
