r"""A candidate is a sampler to be measured; a runner is a candidate made ready for one network and one budget.

There are three kinds of candidates, one file each: this engine's plans (engine.py), plain PyTorch loops (plain.py) and
diffusers' schedulers (libraries.py); samplers.py lists them all. Every runner uses the same network and starts from the
same initial latents, draw 0 of the seed. Later noise differs: the engine has its draws of the seed, the others have
torch generators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from ...common.checks import integer
from ...common.errors import ConfigError, RestartValueError
from ...models.denoiser import Denoiser
from ...models.registry import BUNDLED
from ...plan.plan import Plan
from ...sampler.executors import Observer

FAMILIES = ("ode", "sde", "restart")
MAKERS = ("engine", "torch", "diffusers")


class Runner(Protocol):
    """A candidate made ready for one denoiser and one budget.

    Attributes:
        nfe: network evaluations per sample that really run, at most the budget.
        network_calls: network calls for these, two where guidance acts.
        plan: the engine's plan as asked for; None for other makers.
        key: names what is drawn; equal keys draw equal samples.
    """

    nfe: int
    network_calls: int
    plan: Plan | None
    key: str

    @property
    def network(self) -> Any:
        """F as the runner calls it."""
        ...

    def observed(self, observer: Observer) -> AbstractContextManager[None]:
        """Return a context in which `observer` is told of every network call, and of the engine's updates."""
        ...

    def draw(
        self, seeds: Sequence[int], class_labels: Any = None, conditions: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (x float32 [n, *shape] in about [−1, 1], classes int64 [n] on the CPU or None).

        Without `class_labels` the class of a sample is that of its seed. Only the engine's runners take `conditions`,
        values by name, [n, *shape] each; others raise RestartValueError.
        """
        ...


Make = Callable[..., "Runner | None"]  # (denoiser, nfe, batch_size, dtype, restart)


@dataclass(frozen=True)
class Candidate:
    """A sampler to be measured.

    Attributes:
        name: by which it is asked for and keyed.
        family: "ode", "sde" or "restart".
        by: "engine", "torch" or "diffusers".
        title: the name that is shown.
        source: paper and equation, or the library's class.
        make: returns the runner of (denoiser, nfe, batch_size, dtype, restart), or None if nothing fits.
        group: of a preset that is listed by itself, as `Preset.group`.
    """

    name: str
    family: str
    by: str
    title: str
    source: str
    make: Make = field(repr=False, compare=False)
    group: str = ""

    def runner(
        self, denoiser: Denoiser, nfe: int, *, batch_size: int = 64, dtype: str = "fp32", restart: Any = None
    ) -> Runner | None:
        """Return the largest configuration of at most `nfe` evaluations, or None if none fits.

        `restart` replaces the interval of the candidate's rule: [N, K, t_min, t_max] or any known format. Raises
        ConfigError if the candidate has no Restart interval.
        """
        nfe = integer("nfe", nfe, 1, error=RestartValueError)
        if restart is not None and self.family != "restart":
            raise ConfigError(f"{self.name!r} has no Restart interval; leave `restart` out")
        return self.make(denoiser, nfe, batch_size, dtype, restart)

    def with_restart(self, restart: Any) -> Candidate:
        """Return the same candidate with this interval.

        It is unchanged if it has no interval, if it is a preset, and if `restart` is None.
        """
        if restart is None or self.family != "restart" or self.name.startswith("preset:"):
            return self

        def make(denoiser: Denoiser, nfe: int, batch_size: int, dtype: str, own: Any) -> Runner | None:
            return self.make(denoiser, nfe, batch_size, dtype, restart if own is None else own)

        return replace(self, make=make)


def _guide(denoiser: Denoiser) -> dict[str, Any]:
    """Return the fields that say by what `--guide` and `--guide-null` a denoiser is guided; none without a guide."""
    if (guide := denoiser.guide) is None:
        return {}
    name = guide.name if guide.name in BUNDLED else str(guide.info.get("path", guide.name))
    return {"guide": name, "guide_null": denoiser.info["guide"]["null"]}


def fields(
    candidate: Candidate, runner: Runner, denoiser: Denoiser, model: str, *, kind: str, nfe: int, batch: int, dtype: str
) -> dict[str, Any]:
    """Return the fields of a row that say what was measured; `nfe` is the budget that was asked for."""
    plan = runner.plan
    recipe = plan or getattr(runner, "recipe", None)
    restart = recipe.config.restart.to_json() if recipe is not None and recipe.intervals else ""
    return {
        "kind": kind,
        "sampler": candidate.name,
        "title": candidate.title,
        "family": candidate.family,
        "by": candidate.by,
        "source": candidate.source,
        "nfe": runner.nfe,
        "network_calls": runner.network_calls,
        "nfe_asked": nfe,
        "key": runner.key,
        "plan": plan.digest if plan else "",
        "config": plan.config.to_dict() if plan else {},
        "restart": restart,
        "model": model,
        **_guide(denoiser),
        "model_sha256": str(denoiser.info.get("sha256", ""))[:12],
        "dtype": dtype,
        "batch": batch,
    }
