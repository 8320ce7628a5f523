r"""Speed rows: samples per second, and the time that a sampler spends outside the network.

Candidates run in rotation in one process (timing.py) on the same seeds, so ratios are taken within a round. A rotation
is the candidates of one budget, or with `together` those of all budgets; speeds of two rotations are of different
minutes. Rows of one rotation have the same `rotation`, and only those are compared. Times are medians over the rounds:

samples_per_s       with its quartiles _q1 and _q3.
ratio               evaluations per second over those of the plain float64 loop at this budget: Restart's for the
                    restart family, EDM's stochastic one for sde, Heun's for ode; None on a flow, which has none.
ms_per_evaluation   of a batch.
ms_outside_network  the part of it outside the network. On a CPU every network call is timed; if a batch is cut into
                    slices, the slowest one counts. On CUDA it is the rest beside the network alone, which is run as the
                    candidate runs it, in a CUDA graph or not.

The other fields of a row are explained in costs.py.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...common.errors import RestartError
from ...models.denoiser import Denoiser
from ...sampler.executors import Observer
from . import costs
from .candidate import Candidate, Runner, fields
from .costs import build, labels_for, synchronize
from .rows import Row, append, environment
from .samplers import candidates
from .timing import interleaved, quartiles, ratios

BASELINES = {"ode": "torch/heun-fp64", "sde": "torch/edm-stochastic-fp64", "restart": "torch/restart-fp64"}
FILE = "speed.jsonl"

Progress = Callable[[str], None]
Work = Sequence[tuple[Candidate, int]]


class NetworkSeconds(Observer):
    """Adds up the seconds spent in the network, by thread."""

    parts = ("network",)

    def __init__(self) -> None:
        self.started: dict[int, float] = {}
        self.by_thread = defaultdict[int, float](float)

    def before(self, part: str, evaluation: object) -> None:
        self.started[threading.get_ident()] = time.perf_counter()

    def after(self, part: str, evaluation: object, F: Tensor | None = None) -> None:
        thread = threading.get_ident()
        self.by_thread[thread] += time.perf_counter() - self.started[thread]


class Variant:
    """A candidate drawing one batch; on a CPU, `network_seconds` has the network's seconds of each run."""

    def __init__(self, runner: Runner, batch: int, denoiser: Denoiser) -> None:
        self.runner, self.seeds, self.device = runner, range(batch), denoiser.device
        self.labels = labels_for(denoiser, batch)
        self.network_seconds: list[float] = []
        self.timed = self.device.type == "cpu"

    def __call__(self) -> None:
        if not self.timed:
            self.runner.draw(self.seeds, self.labels)
            synchronize(self.device)
            return
        with self.runner.observed(seconds := NetworkSeconds()):
            self.runner.draw(self.seeds, self.labels)
        self.network_seconds.append(max(seconds.by_thread.values()))


def measure(
    denoiser: Denoiser,
    model: str,
    work: Work,
    *,
    batch: int = 64,
    dtype: str = "fp32",
    rounds: int = 5,
    warm: int = 1,
    out: Path | None = None,
    restart: Any = None,
    together: bool = False,
    progress: Progress | None = None,
) -> list[Row]:
    """Return a row for each candidate that fits its budget, and append it to `out`/speed.jsonl after its rotation.

    Args:
        work: (candidate, budget) pairs; those of one budget run in rotation, together with the plain float64 loops.
        restart: replaces the interval of the candidates' rule.
        together: all of `work` is one rotation, which takes the memory of all samplers at once.
        progress: is called with a line for each rotation, and for each candidate that is left out, with the reason.
    """
    say = progress or (lambda line: None)
    found: list[Row] = []
    budgets = list(dict.fromkeys(nfe for _, nfe in work))
    rotations = [budgets] if together else [[nfe] for nfe in budgets]
    for some in rotations:
        chosen = [(candidate, nfe) for candidate, nfe in work if nfe in some]
        say(
            f"speed, at most {', '.join(map(str, some))} evaluations: {len(chosen)} samplers, {warm + rounds} rounds "
            f"of {batch} samples"
        )
        for row in _rotation(denoiser, model, chosen, batch, dtype, rounds, warm, restart, say):
            if out is not None:
                append(out / FILE, row)
            found.append(row)
    return found


def _rotation(
    denoiser: Denoiser,
    model: str,
    chosen: Work,
    batch: int,
    dtype: str,
    rounds: int,
    warm: int,
    restart: Any,
    say: Progress,
) -> Iterator[Row]:
    """Yield the rows of candidates that run in one rotation."""
    named = {f"{candidate.name}@{nfe}": (candidate, nfe) for candidate, nfe in chosen}
    bases = {name: f"{BASELINES[candidate.family]}@{nfe}" for name, (candidate, nfe) in named.items()}
    loops = {candidate.name: candidate for candidate in candidates(denoiser.parameterization.process)}
    for name in bases.values():
        loop, _, nfe_ = name.rpartition("@")
        if loop in loops:
            named.setdefault(name, (loops[loop], int(nfe_)))
    variants: dict[str, Variant] = {}
    for name, (candidate, nfe) in named.items():
        try:
            runner = build(candidate, denoiser, nfe, batch, dtype, restart)
        except RestartError as error:
            say(f"{candidate.name} is left out: {error}")
            continue
        if runner is None:
            say(f"{candidate.name} is left out: no configuration fits in {nfe} evaluations")
            continue
        variants[name] = Variant(runner, batch, denoiser)
    seconds = interleaved(variants, rounds, warm)
    where = environment(denoiser.device)
    rotation = uuid.uuid4().hex[:8]
    for name in (name for name in bases if name in variants):
        (candidate, nfe), variant = named[name], variants[name]
        row = fields(candidate, variant.runner, denoiser, model, kind="speed", nfe=nfe, batch=batch, dtype=dtype)
        row |= _times(variant, seconds[name], batch, warm)
        row["ratio"] = None
        if bases[name] in variants:
            evaluation = [s / variants[bases[name]].runner.nfe for s in seconds[bases[name]]]
            row["ratio"] = ratios(evaluation, [s / variant.runner.nfe for s in seconds[name]])[1]
        row |= costs.of(candidate, variant.runner, denoiser, nfe, batch, dtype, restart)
        row |= {"rotation": rotation, "rounds": rounds, "disturbed": int(seconds.disturbed), **where}
        yield {key: round(v, 6) if isinstance(v, float) else v for key, v in row.items()}


def _times(variant: Variant, seconds: Sequence[float], batch: int, warm: int) -> Row:
    """Return samples per second, and the time of an evaluation in all and outside the network."""
    nfe = variant.runner.nfe
    q1, median, q3 = quartiles(seconds)
    if variant.timed:
        outside = [s - n for s, n in zip(seconds, variant.network_seconds[warm:], strict=True)]
        outside_ms = 1e3 * quartiles(outside)[1] / nfe
    else:
        outside_ms = 1e3 * (median / nfe - costs.network_alone(variant.runner, variant.device))
    return {
        "samples_per_s": batch / median,
        "samples_per_s_q1": batch / q3,
        "samples_per_s_q3": batch / q1,
        "ms_per_evaluation": 1e3 * median / nfe,
        "ms_outside_network": outside_ms,
    }
