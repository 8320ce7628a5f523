r"""Ensemble rows: several members of each input, drawn by every sampler from the same seeds, scored against truths.

A row of kind "ensemble" is one candidate at one budget. Member k of input i has the seed first_seed + i·members + k, so
all candidates begin from the same latents, and a job with the same --first-seed draws the same members. Inputs are
drawn and scored one after the other, and no sample is kept. Rows that exist are not measured again.

Only the engine's candidates are measured: plain loops and schedulers of other libraries are told classes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from ....common.errors import NonFiniteError
from ....jobs.inputs.inputs import Inputs
from ....models.denoiser import Denoiser
from ..candidate import Candidate, Runner, fields
from ..rows import Row, append, environment, find, read
from .reference import Reference
from .scores import EnsembleScorer

FILE = "ensembles.jsonl"
MEASURED = ("model", "model_sha256", "dtype", "conditions", "reference", "inputs", "members", "first_seed")
KEYS = ("kind", "sampler", "nfe", "key", *MEASURED)


def measure(
    denoiser: Denoiser,
    model: str,
    work: Sequence[tuple[Candidate, int]],
    *,
    inputs: Inputs,
    truths: Reference,
    out: Path,
    batch: int = 64,
    dtype: str = "fp32",
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Measure `work` and return its rows, which are appended to `out`/ensembles.jsonl as they are made.

    Args:
        work: candidates with their budgets. inputs: conditions, and how many members of each are drawn from which seed.
        truths: of each input.

    Raises:
        RestartValueError: the truths are not of these inputs and samples, or not finite; nothing is drawn then.
    """
    count = len(inputs.source)
    truths.fit(denoiser.shape, count, f"{inputs.path} has conditions of")
    told = {"conditions": f"{Path(str(inputs.path)).name} {inputs.record()['inputs']['sha256'][:12]}"}
    told |= {"reference": truths.name()}
    rows: list[Row] = []
    for candidate, budget in work:
        if candidate.by != "engine":
            progress(f"{candidate.name}: left out, since it can be told classes alone")
            continue
        runner = candidate.runner(denoiser, budget, batch_size=batch, dtype=dtype)
        if runner is None:
            progress(f"{candidate.name}: nothing fits into {budget} evaluations")
            continue
        row = fields(candidate, runner, denoiser, model, kind="ensemble", nfe=budget, batch=batch, dtype=dtype)
        row |= {**told, "inputs": count, "members": inputs.per_input, "first_seed": inputs.first}
        row |= {"n": count * inputs.per_input}
        if any(one["sampler"] == row["sampler"] and one["key"] == row["key"] for one in rows):
            continue  # a smaller budget bought the same plan
        if known := find(read(out / FILE), **{name: row[name] for name in KEYS}):
            rows.append(known[-1])
            continue
        scorer = EnsembleScorer()
        try:
            for number, members in enumerate(_drawn(runner, inputs, batch, denoiser.device)):
                scorer.add(members, truths[number])
        except NonFiniteError as error:
            progress(f"{candidate.name}, {runner.nfe} NFE: not scored, {error}")
            continue
        row |= scorer.result().row() | environment(denoiser.device)
        append(out / FILE, row)
        rows.append(row)
        progress(f"{candidate.name}, {runner.nfe} NFE, {count} inputs × {inputs.per_input}: {_said(row)}")
    return rows


def _drawn(runner: Runner, inputs: Inputs, batch: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the members [m, *shape] of each input, drawn in batches that may hold members of several inputs."""
    m, waiting = inputs.per_input, torch.empty(0)
    seeds = inputs.seeds.parts[0]
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        numbers = np.asarray(part, np.int64)
        x, _ = runner.draw(inputs.noise(numbers).tolist(), conditions=inputs.told(numbers, device))
        waiting = torch.cat([waiting, x.cpu()]) if len(waiting) else x.cpu()
        while len(waiting) >= m:
            yield waiting[:m]
            waiting = waiting[m:]


def _said(row: Row) -> str:
    ratio = row["spread_skill"]
    return f"CRPS {row['crps_fair']:.4g}" + ("" if ratio is None else f", spread / skill {ratio:.3g}")
