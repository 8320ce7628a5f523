r"""The list of all candidates for networks of a process, "ve" or "flow", and how a benchmark asks for them by name.

Names are `heun`, `heun+restart`, `preset:cifar10-edm-43`, `torch/restart-fp64`, `diffusers/heun`. :func:`select` also
takes a family (ode, sde, restart), a maker (engine, torch, diffusers), a glob, "presets" (but those of EDM2, which
`preset:edm2-*` names), and "all", which is every candidate that is not a preset. In :func:`work` each of these may have
a budget of its own, `heun@35`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...common.checks import did_you_mean
from ...common.errors import ConfigError
from . import engine, libraries, plain
from .candidate import FAMILIES, MAKERS, Candidate


def candidates(process: str = "ve") -> tuple[Candidate, ...]:
    """Return all candidates for networks of a process, presets last; plain loops, libraries and presets are of "ve".

    Those of a library that is not installed are among them; their runners say what to install.
    """
    if process != "ve":
        return engine.candidates(process)
    return (*engine.candidates(), *plain.candidates(), *libraries.candidates(), *engine.presets())


def find(name: str, process: str = "ve") -> Candidate:
    """Return the candidate called `name`. Raises ConfigError, which names the closest one."""
    table = {candidate.name: candidate for candidate in candidates(process)}
    if name in table:
        return table[name]
    raise ConfigError(f"sampler {name!r} is not known{did_you_mean(name, table, _choices(table))}")


def select(*names: str, process: str = "ve") -> tuple[Candidate, ...]:
    """Return the candidates that any of `names` stands for, each once, in the order of :func:`candidates`."""
    every = candidates(process)
    known = [candidate.name for candidate in every]
    groups = ["all", "presets", *FAMILIES, *MAKERS]
    chosen: set[str] = set()
    for name in names:
        found = {candidate.name for candidate in every if _matches(candidate, name)}
        if not found:
            raise ConfigError(
                f"sampler {name!r} is not known; give names, globs such as 'heun*' or groups ({', '.join(groups)})"
                + did_you_mean(name, [*known, *groups], _choices(known))
            )
        chosen |= found
    return tuple(candidate for candidate in every if candidate.name in chosen)


def work(names: Sequence[str], budgets: Sequence[int], process: str = "ve") -> list[tuple[Candidate, int]]:
    """Return (candidate, budget) pairs for networks of a process, each once and ordered by budget.

    Every name is paired with every budget, and `NAME@NFE` with that budget alone. Raises ConfigError for a name of no
    such candidate or a budget that is not a number ≥ 1.
    """
    asked: dict[int, list[str]] = {}
    for name in names:
        plain_name, at, nfe = name.rpartition("@")
        if not at:
            for budget in budgets:
                asked.setdefault(budget, []).append(name)
        elif nfe.isdecimal() and int(nfe) > 0:
            asked.setdefault(int(nfe), []).append(plain_name)
        else:
            raise ConfigError(
                f"{name!r} asks for a budget that is no number ≥ 1; write for example {plain_name or 'heun'}@35"
            )
    order = [*budgets, *sorted(nfe for nfe in asked if nfe not in budgets)]
    return [(candidate, nfe) for nfe in order if nfe in asked for candidate in select(*asked[nfe], process=process)]


def _matches(candidate: Candidate, name: str) -> bool:
    preset = candidate.name.startswith("preset:")
    if name == "presets":
        return preset and not candidate.group
    if name.startswith("preset:"):
        return preset and fnmatchcase(candidate.name, name)
    return not preset and (
        name in ("all", candidate.name, candidate.family, candidate.by) or fnmatchcase(candidate.name, name)
    )


def _choices(names: Sequence[str] | dict[str, Candidate]) -> str:
    """Return what to say about a name that is close to none."""
    return f"choose one of {', '.join(name for name in names if not name.startswith('preset:'))}"
