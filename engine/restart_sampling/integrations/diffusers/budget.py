"""From the number of network calls that a pipeline asks for to a plan; the paper's settings for Stable Diffusion."""

from __future__ import annotations

from collections.abc import Callable

from ...common.errors import ConfigError
from ...plan.budget import most_points
from ...plan.notation import RestartConfig, RestartInterval
from ...plan.plan import Plan
from ...plan.presets import find

PUBLISHED = (2, 3, 5, 8)  # guidance scales for which the paper gives intervals (Restart, Table 10): presets sd15-w2 ..
DEFAULT_GUIDANCE = 7.5  # of StableDiffusionPipeline
SHARE = 0.6  # most of a budget that "auto" gives to the intervals; the paper's share is 36 of 66


def fit(build: Callable[[int], Plan], budget: int, per_step: int) -> Plan:
    """Return the plan with the most points on its main grid whose evaluations fit in `budget`.

    Args:
        build: makes the plan with that many points on the main grid; its evaluations grow with them.
        per_step: the most evaluations that one point can add.

    Raises:
        ConfigError: nothing fits; says what the smallest plan takes.
    """
    plans: dict[int, Plan] = {}
    refused: ConfigError | None = None

    def cost(n: int) -> int | None:
        nonlocal refused
        try:
            plans[n] = build(n)
        except ConfigError as error:
            refused = refused or error
            return None
        return plans[n].nfe

    n = most_points(cost, budget, per_step, start=budget)
    if n is not None:
        return plans[n]
    smallest = min((plan.nfe for plan in plans.values()), default=None)
    if smallest is None and refused is not None:
        raise refused
    why = f" ({refused})" if refused is not None else ""
    raise ConfigError(
        f"{budget} network calls do not hold this plan: the smallest found takes {smallest}{why}; "
        "ask for more steps, lower K or N, or set steps_are='main'"
    )


def nearest_published(guidance_scale: float) -> int:
    """Return the published guidance scale nearest to the given one, the lower on a tie."""
    return min(PUBLISHED, key=lambda w: (abs(w - guidance_scale), w))


def automatic(guidance_scale: float, budget: int | None) -> RestartConfig:
    """Return the paper's intervals for Stable Diffusion at the nearest published guidance scale.

    They are meant for 66 evaluations. A `budget` below that gets intervals with fewer points, then fewer repeats, so
    that they take at most six tenths of it; a budget that is too small for one jump gets none. Above, the main grid
    grows.
    """
    published = RestartConfig.parse(find(f"sd15-w{nearest_published(guidance_scale)}").plan_options["restart"])
    if budget is None or published_cost(published) <= SHARE * budget:
        return published
    most = max(i.N for i in published.intervals)
    for K in range(max(i.K for i in published.intervals), 0, -1):
        for N in range(most, 2, -1):
            shrunk = RestartConfig(
                tuple(RestartInterval(min(i.N, N), min(i.K, K), i.t_min, i.t_max) for i in published.intervals)
            )
            if published_cost(shrunk) <= SHARE * budget:
                return shrunk
    return RestartConfig(())


def published_cost(config: RestartConfig) -> int:
    """Return the evaluations of the intervals with Heun inside."""
    return sum(i.evaluations for i in config.intervals)
