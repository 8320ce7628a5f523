r"""Contenders: the samplers a benchmark compares, by name.

A contender gets a denoiser and a budget of network evaluations and gives back a runner: the largest configuration that
fits.
Three kinds, one file each: this engine's plans (engine.py), plain PyTorch loops (plain.py) and diffusers' schedulers
(libraries.py). All draw from the same network and from the same initial latents, draw 0 of the seed. Noise along the
way is each one's own: the engine's draws of the seed, or torch generators.

Names are `heun`, `heun+restart`, `preset:cifar10-edm-43`, `torch/restart-fp64`, `diffusers/heun`. :func:`select` also
takes a family (ode, sde, restart), a maker (engine, torch, diffusers), a glob, and "all", which is all but the presets.
In :func:`work` each of these may have a budget of its own, `heun@35`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

from torch import Tensor

from ...common.checks import integer
from ...common.errors import ConfigError, RestartValueError
from ...models.denoiser import Denoiser
from ...plan.plan import Plan

FAMILIES = ("ode", "sde", "restart")
MAKERS = ("engine", "torch", "diffusers")


class Runner(Protocol):
    """A contender made ready for one denoiser and one budget.

    Attributes:
        nfe: network evaluations per sample that really run, at most the budget.
        plan: the engine's plan as asked for; None for other makers.
        key: names what is drawn; equal keys draw equal samples.
        network: F as the runner calls it; a wrapper may take its place before the first draw.
    """

    nfe: int
    plan: Plan | None
    key: str
    network: Any

    def draw(self, seeds: Sequence[int], class_labels: Any = None) -> tuple[Tensor, Tensor | None]:
        """(x float32 [n, *shape] in about [-1, 1], classes int64 [n] on the CPU or None); classes from the seed by
        default.
        """
        ...


Make = Callable[..., "Runner | None"]  # (denoiser, nfe, batch_size, dtype, restart)


@dataclass(frozen=True)
class Contender:
    """A sampler to be measured.

    Attributes:
        name: how it is asked for and keyed. title: how it is shown. family: "ode", "sde" or "restart".
        by: "engine", "torch" or "diffusers". source: paper and equation, or the library's class.
    """

    name: str
    family: str
    by: str
    title: str
    source: str
    make: Make = field(repr=False, compare=False)

    def runner(
        self, denoiser: Denoiser, nfe: int, *, batch_size: int = 64, dtype: str = "fp32", restart: Any = None
    ) -> Runner | None:
        """The largest configuration of at most `nfe` evaluations, or None where none fits.

        `restart` replaces the interval of the contender's rule: [N, K, t_min, t_max] or any known format.
        """
        nfe = integer("nfe", nfe, 1, error=RestartValueError)
        if restart is not None and self.family != "restart":
            raise ConfigError(f"{self.name!r} has no Restart interval; leave `restart` out")
        return self.make(denoiser, nfe, batch_size, dtype, restart)

    def with_restart(self, restart: Any) -> Contender:
        """The same contender with this interval; itself where it has none, is a preset, or `restart` is None."""
        if restart is None or self.family != "restart" or self.name.startswith("preset:"):
            return self

        def make(denoiser: Denoiser, nfe: int, batch_size: int, dtype: str, own: Any) -> Runner | None:
            return self.make(denoiser, nfe, batch_size, dtype, restart if own is None else own)

        return replace(self, make=make)


def contenders() -> tuple[Contender, ...]:
    """All of them, presets last.

    Those of a library that is not installed are there too; their runners say what to install.
    """
    from . import engine, libraries, plain

    return (*engine.contenders(), *plain.contenders(), *libraries.contenders(), *engine.presets())


def find(name: str) -> Contender:
    """The contender called `name`; ConfigError names the closest ones."""
    table = {contender.name: contender for contender in contenders()}
    if name in table:
        return table[name]
    raise ConfigError(f"sampler {name!r} is not known; {_hint(name, list(table))}")


def select(*names: str) -> tuple[Contender, ...]:
    """The contenders that any of `names` stands for, each once, in the order of :func:`contenders`."""
    everyone = contenders()
    chosen: set[str] = set()
    for name in names:
        found = {contender.name for contender in everyone if _matches(contender, name)}
        if not found:
            groups = ["all", "presets", *FAMILIES, *MAKERS]
            raise ConfigError(
                f"sampler {name!r} is not known; give names, globs such as 'heun*' or groups ({', '.join(groups)}); "
                f"{_hint(name, [c.name for c in everyone], groups)}"
            )
        chosen |= found
    return tuple(contender for contender in everyone if contender.name in chosen)


def work(names: Sequence[str], budgets: Sequence[int]) -> list[tuple[Contender, int]]:
    """(contender, budget) pairs: every name at every budget, and `NAME@NFE` at that one alone; each pair once, by
    budget.

    ConfigError: a name or a budget that is none.
    """
    asked: dict[int, list[str]] = {}
    for name in names:
        plain, at, nfe = name.rpartition("@")
        if not at:
            for budget in budgets:
                asked.setdefault(budget, []).append(name)
        elif nfe.isdecimal() and int(nfe) > 0:
            asked.setdefault(int(nfe), []).append(plain)
        else:
            raise ConfigError(
                f"{name!r} asks for a budget that is no number ≥ 1; write for example {plain or 'heun'}@35"
            )
    order = [*budgets, *sorted(nfe for nfe in asked if nfe not in budgets)]
    return [(contender, nfe) for nfe in order if nfe in asked for contender in select(*asked[nfe])]


def _matches(contender: Contender, name: str) -> bool:
    preset = contender.name.startswith("preset:")
    if name == "presets" or name.startswith("preset:"):
        return preset and fnmatchcase(contender.name, "*" if name == "presets" else name)
    return not preset and (
        name in ("all", contender.name, contender.family, contender.by) or fnmatchcase(contender.name, name)
    )


def _hint(name: str, known: Sequence[str], groups: Sequence[str] = ()) -> str:
    """The closest of names and groups; all names where none is close."""
    close = difflib.get_close_matches(str(name), [*known, *groups], n=3)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"choose one of {', '.join(k for k in known if not k.startswith('preset:'))}"


DRAW0 = "draw0"  # in the key of a plain loop that begins from draw 0 of the seed


def other_latents(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a plain loop that began from latents of its own, as they did before they had the engine's."""
    key = str(row.get("key") or "")
    return row.get("by") == "torch" and key.startswith("torch-") and f"-{DRAW0}-" not in key


def fields(
    contender: Contender, runner: Runner, denoiser: Denoiser, model: str, *, kind: str, nfe: int, batch: int, dtype: str
) -> dict[str, Any]:
    """What every row says about what was measured; `nfe` is the budget that was asked for."""
    plan = runner.plan
    recipe = plan or getattr(runner, "recipe", None)
    restart = recipe.config.restart.to_json() if recipe is not None and recipe.intervals else ""
    return {
        "kind": kind,
        "sampler": contender.name,
        "title": contender.title,
        "family": contender.family,
        "by": contender.by,
        "source": contender.source,
        "nfe": runner.nfe,
        "nfe_asked": nfe,
        "key": runner.key,
        "plan": plan.digest if plan else "",
        "config": plan.config.to_dict() if plan else {},
        "restart": restart,
        "model": model,
        "model_sha256": str(denoiser.info.get("sha256", ""))[:12],
        "dtype": dtype,
        "batch": batch,
    }
