r"""Quality rows: blocks of seeds, drawn once, evaluated, and pooled.

A row of kind "quality" is one candidate at one budget on one block of seeds; kind "pooled" is all blocks together, with
the spread over blocks. All candidates draw the same seeds, so their rows are paired. Rows that exist are not measured
again, whatever the order: a run that was stopped goes on, and more blocks can be added later.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...common.errors import NonFiniteError
from ...common.images import to_uint8
from ...models.denoiser import Denoiser
from . import image_cache
from .candidate import Candidate, Runner, fields
from .evaluator import Evaluator
from .rows import Row, append, environment, find, ranking, read

FILE = "quality.jsonl"
CACHED = 1000  # seeds of one file of the cache
METRICS = ("fd", "fd_balanced", "kid", "precision", "recall", "density", "coverage", "accuracy")
KEYS = ("kind", "sampler", "nfe", "key", "model", "model_sha256", "dtype", "features", "reference")
Work = Sequence[tuple[Candidate, int]]


def measure(
    denoiser: Denoiser,
    model: str,
    work: Work,
    *,
    n: int,
    first_seed: int,
    block: int = 1000,
    out: Path,
    cache: Path | None = None,
    batch: int = 64,
    dtype: str = "fp32",
    evaluator: Evaluator | Sequence[Evaluator],
    progress: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Measure `work` on the seeds first_seed … first_seed + n − 1, block by block: every candidate's first block first.

    Args:
        work: candidates with their budgets. n: samples of each; the last block may be shorter.
        out: folder of quality.jsonl. cache: folder of drawn images, default `image_cache.default_folder()`.
        evaluator: one or several, that is one set of features or several; each has rows of its own, of the same images.

    Returns: the quality rows, and a pooled row for every candidate and budget that runs.
    """
    cache = cache or image_cache.default_folder()
    ready: list[tuple[Candidate, int, Runner]] = []
    for candidate, budget in work:
        runner = candidate.runner(denoiser, budget, batch_size=batch, dtype=dtype)
        if runner is None:
            progress(f"{candidate.name}: nothing fits into {budget} evaluations")
        elif all(runner.key != other.key or candidate.name != name.name for name, _, other in ready):
            ready.append((candidate, budget, runner))
    evaluators = list(evaluator) if isinstance(evaluator, Sequence) else [evaluator]
    rows: list[Row] = []
    for one in evaluators:
        if ready and one.training_set is not None:
            like = fields(ready[0][0], ready[0][2], denoiser, model, kind="quality", nfe=0, batch=batch, dtype=dtype)
            rows += training_rows(like, one, one.training_set, n, min(n, block), out, denoiser.device)
    for start in range(first_seed, first_seed + n, block):
        size = min(block, first_seed + n - start)
        for candidate, budget, runner in ready:
            row = fields(candidate, runner, denoiser, model, kind="quality", nfe=budget, batch=batch, dtype=dtype)
            row |= {"n": size, "first_seed": start}
            drawn: tuple[Tensor, Tensor | None] | None = None  # once for all evaluators
            for one in evaluators:
                mine = {**row, "features": one.features, "reference": one.reference}
                same = _known(read(out / FILE), one, mine)
                if same is not None:
                    rows.append(same)
                    continue
                drawn = drawn or block_of(denoiser, runner, cache, start, size, batch)
                mine |= {name: round(value, 6) for name, value in one.measure(*drawn).items()}
                mine |= environment(denoiser.device)
                append(out / FILE, mine)
                rows.append(mine)
                name = ranking([mine])
                what = f"FD {mine[name]:.4g}" + ", equal classes" * (name == "fd_balanced")
                what += f", by {one.features}" * (len(evaluators) > 1)
                progress(f"{candidate.name}, {runner.nfe} NFE, seeds {start} …: {what}")
    pooled: list[Row] = []
    for one in evaluators:
        own = find(rows, features=one.features, reference=one.reference)
        pooled += pool(denoiser, ready, own, one, cache, out)
    return rows + pooled


def training_rows(
    like: Row,
    evaluator: Evaluator,
    training_set: tuple[Tensor, Tensor],
    n: int,
    block: int,
    out: Path,
    device: torch.device,
) -> list[Row]:
    """Return the rows "train set": images of the training set, chosen at random, as a perfect sampler would draw them.

    They have 0 NFE and are the same in every run. `like` is a row of another sampler, which says what is measured on.
    """
    row = like | {"sampler": "train set", "title": "Training set", "family": "data", "by": "data", "source": ""}
    row |= {
        "nfe": 0,
        "network_calls": 0,
        "nfe_asked": 0,
        "key": "train-set",
        "plan": "",
        "config": {},
        "restart": "",
        "n": block,
    }
    row |= {"features": evaluator.features, "reference": evaluator.reference}
    images, labels = training_set
    rows = []
    for k in range(min(n, len(images)) // block):
        row = {**row, "first_seed": k * block}
        same = _known(read(out / FILE), evaluator, row)
        if same is None:
            chosen = torch.from_numpy(np.random.default_rng(k).choice(len(images), block, replace=False))
            found = evaluator.measure(images[chosen], labels[chosen])
            same = row | {name: round(value, 6) for name, value in found.items()} | environment(device)
            append(out / FILE, same)
        rows.append(same)
    return rows


def _known(rows: list[Row], evaluator: Evaluator, row: Row) -> Row | None:
    """Return the newest of `rows` that measured what `row` is about to, or None.

    Rows without `fd_balanced`, which older versions wrote, do not count if the evaluator gives it.
    """
    names = (*KEYS, "n", "first_seed", *(["blocks"] if "blocks" in row else []))
    same = [r for r in find(rows, **{k: row[k] for k in names}) if "fd_balanced" in r or not evaluator.balanced]
    return same[-1] if same else None


def block_of(
    denoiser: Denoiser, runner: Runner, cache: Path, first: int, n: int, batch: int
) -> tuple[Tensor, Tensor | None]:
    """Return (images uint8 [n, C, H, W], labels int64 [n] or None) of a block of seeds, from the cache or drawn.

    At most CACHED seeds are drawn and cached at a time, so that of a block of 50,000 no more is lost when it is
    stopped. Raises NonFiniteError if a sample is not finite: such a sampler is not evaluated by its other samples.
    """
    if n > CACHED:
        pieces = [
            block_of(denoiser, runner, cache, start, min(CACHED, first + n - start), batch)
            for start in range(first, first + n, CACHED)
        ]
        given = [labels for _, labels in pieces if labels is not None]
        return torch.cat([images for images, _ in pieces]), torch.cat(given) if given else None
    path = image_cache.path_of(cache, str(denoiser.info.get("sha256", "")), runner.key, first, n)
    found = image_cache.read(path, n, denoiser.shape) if denoiser.info.get("sha256") else None
    if found is not None:
        images, labels = found
        return images, None if bool((labels < 0).any()) else labels
    parts, classes = [], []
    for start in range(first, first + n, batch):
        x, drawn = runner.draw(range(start, min(start + batch, first + n)))
        bad = [start + i for i, ok in enumerate(torch.isfinite(x).flatten(1).all(1).tolist()) if not ok]
        if bad:
            raise NonFiniteError(
                f"{len(bad)} samples are NaN or infinite, seed {bad[0]} among them; not evaluated",
                [{"seed": s} for s in bad],
            )
        parts.append(torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2).contiguous())
        classes.append(drawn)
    images = torch.cat(parts)
    known = None if classes[0] is None else torch.cat([c.cpu() for c in classes if c is not None])
    if denoiser.info.get("sha256"):
        image_cache.write(path, images, known)
    return images, known


def pool(
    denoiser: Denoiser,
    ready: Sequence[tuple[Candidate, int, Runner]],
    rows: Sequence[Row],
    evaluator: Evaluator,
    cache: Path,
    out: Path,
) -> list[Row]:
    """Return pooled rows: the Fréchet distance of all samples together, mean and std over the blocks of all else."""
    pooled = []
    for candidate, _, runner in ready:
        blocks = [row for row in rows if row["sampler"] == candidate.name and row["key"] == runner.key]
        blocks.sort(key=lambda row: row["first_seed"])
        whole = [row for row in blocks if row["n"] == blocks[0]["n"]]
        row = {k: blocks[0][k] for k in blocks[0] if k not in (*METRICS, "kid_std")} | environment(denoiser.device)
        row |= {"kind": "pooled", "n": sum(b["n"] for b in blocks), "blocks": len(blocks), "fd_block_n": blocks[0]["n"]}
        same = _known(read(out / FILE), evaluator, row)
        if same is not None:
            pooled.append(same)
            continue
        for name in METRICS:
            values = [b[name] for b in whole if b.get(name) is not None]
            if values:
                prefix = f"{name}_block" if name.startswith("fd") else name
                row[f"{prefix}_mean"] = round(statistics.fmean(values), 6)
                row[f"{prefix}_std"] = round(statistics.stdev(values), 6) if len(values) > 1 else None
        every = [block_of(denoiser, runner, cache, b["first_seed"], b["n"], b["batch"]) for b in blocks]
        images = torch.cat([some for some, _ in every])
        row["fd"] = round(evaluator.fd(images), 6)
        if every[0][1] is not None and evaluator.balanced:
            labels = torch.cat([some for _, some in every if some is not None])
            row["fd_balanced"] = round(evaluator.fd_balanced(images, labels), 6)
        append(out / FILE, row)
        pooled.append(row)
    return pooled
