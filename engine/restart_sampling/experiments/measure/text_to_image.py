r"""Text to image: samplers at several guidance scales on the same prompts and seeds, scored by plug-ins.

The study of "Restart" (arXiv 2306.14878, section 5.2): image quality, a Fréchet distance to real images, against text
alignment, a CLIP score, along the guidance scale. Every cell, a sampler at a budget and a scale, is a job in a folder
of its own, OUT/images/SAMPLER@NFE-wSCALE: it can be looked at, and a study that was stopped goes on. Image i has prompt
i and seed first + i in every cell.

Of a file with more prompts than are asked for, a choice by a fixed seed is taken, and stored in OUT/prompts.jsonl. A
row has the mean of each score with its standard error over images, `fd` and `fd_n` where a reference is given, the
SHA-256 of the prompts and of the scorers' files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...common.errors import ConfigError, RestartValueError
from ...common.files import file_sha256, write_atomically
from ...jobs.generate import run_job
from ...jobs.inputs.inputs import Inputs
from ...jobs.inputs.prompts import Prompts, read_prompts
from ...models.denoiser import Denoiser
from ...plan.plan import Plan
from .candidate import Candidate
from .engine import plan_of
from .evaluator import Evaluator
from .image_sets import open_images
from .rows import Row, append, environment, find, read
from .score import Scorer as Distance
from .scorers.base import Scorer
from .scorers.registry import scored

KIND, FILE, PROMPTS = "text-to-image", "text_to_image.jsonl", "prompts.jsonl"
CHOICE = 0  # seed of the choice of prompts
SEEN = 50  # images that scorers see at once
SAME = ("kind", "sampler", "plan", "model_sha256", "dtype", "n", "first_seed", "prompts_sha256", "features", "scorers")


def measure(
    denoiser: Denoiser,
    model: str,
    work: Sequence[tuple[Candidate, int]],
    prompts: Path,
    scales: Sequence[float],
    out: Path,
    *,
    scorers: Sequence[Scorer] = (),
    evaluators: Sequence[Evaluator] = (),
    n: int | None = None,
    column: str | None = None,
    first_seed: int = 0,
    batch: int = 8,
    dtype: str = "fp32",
    restart: Any = None,
    job: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Draw and score every cell, append its rows to OUT/text_to_image.jsonl, and return them; known ones are kept.

    Args:
        denoiser: with an encoder of prompts. model: its name in rows.
        work: candidates of this engine and their budgets of evaluations. scales: guidance scales.
        prompts, column: the file and its column. n: how many of them, None for all.
        scorers, evaluators: what scores; an evaluator adds fd. job: further options of `run_job`, such as decode.

    Raises:
        RestartError: something cannot be read, drawn or scored; what is finished stays.
    """
    chosen = choose(read_prompts(prompts, column), out, n)
    mine: list[Row] = []
    for candidate, budget in work:
        for scale in scales:
            plan = guided(candidate, budget, scale, restart, denoiser)
            if plan is None:
                progress(f"{candidate.name} does not fit into {budget} evaluations")
                continue
            row: Row = {
                "kind": KIND,
                "sampler": candidate.name,
                "title": candidate.title,
                "family": candidate.family,
                "by": candidate.by,
                "model": model,
                "model_sha256": str(denoiser.info.get("sha256", ""))[:12],
                "guidance_scale": float(scale),
                "nfe": plan.nfe,
                "network_calls": plan.network_calls,
                "plan": plan.digest,
                "config": plan.config.to_dict(),
                "restart": plan.config.restart.to_json() if plan.intervals else "",
                "dtype": dtype,
                "n": len(chosen),
                "first_seed": first_seed,
                "prompts": Path(prompts).name,
                "prompts_sha256": chosen.sha256[:12],
                "scorers": {scorer.name: scorer.sha256 for scorer in scorers},
            }
            names: list[tuple[str | None, str | None]] = [(one.features, one.reference) for one in evaluators]
            names = names or [(None, None)]
            known = [_known(out, row | {"features": features, "reference": title}) for features, title in names]
            if None not in known:
                mine += [found for found in known if found is not None]
                continue
            folder = out / "images" / f"{candidate.name.replace(':', '-').replace('/', '-')}@{plan.nfe}-w{scale:g}"
            inputs = Inputs.read(denoiser, chosen.path, prompt_column=chosen.column, first_seed=first_seed)
            options: dict[str, Any] = {"batch": batch, "options": {"dtype": dtype}, "model": model} | (job or {})
            bad = run_job(denoiser, plan, None, folder, inputs=inputs, **options)
            if bad:
                raise RestartValueError(
                    f"{folder} has {len(bad)} samples that are NaN or infinite, seed {bad[0]} among them; not scored"
                )
            for found in score(folder, chosen, scorers, evaluators):
                mine.append(row | found | environment(denoiser.device))
                append(out / FILE, mine[-1])
            progress(f"{candidate.title}, {plan.nfe} NFE, w {scale:g}: {said(mine[-1])}")
    return mine


def choose(prompts: Prompts, out: Path, n: int | None) -> Prompts:
    """Return n of the prompts, written to OUT/prompts.jsonl.

    Raises RestartValueError if there are fewer, or if the folder holds another choice.
    """
    n = len(prompts) if n is None else n
    if n > len(prompts):
        raise RestartValueError(f"{prompts.path} has {len(prompts):,} prompts, and {n:,} were asked for; give --n less")
    places = np.sort(np.random.default_rng(CHOICE).choice(len(prompts), n, replace=False))
    lines = [
        json.dumps({"prompt": one.text, "line": one.line, "meta": one.meta}, ensure_ascii=False)
        for one in prompts.of(places.tolist())
    ]
    content = "".join(line + "\n" for line in lines).encode()
    path = out / PROMPTS
    out.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() != content:
        raise RestartValueError(
            f"{path} holds other prompts ({file_sha256(path)[:12]}…), of an earlier study; choose another folder"
        )
    write_atomically(path, lambda file: file.write(content))
    return read_prompts(path, "prompt")


def guided(candidate: Candidate, budget: int, scale: float, restart: Any, denoiser: Denoiser) -> Plan | None:
    """Return the plan of a candidate of at most `budget` evaluations at a guidance scale, None if none fits.

    Raises ConfigError for a candidate of another library.
    """
    if candidate.by != "engine":
        raise ConfigError(
            f"{candidate.name!r} is not of this engine, whose samplers alone draw from prompts; leave it out"
        )
    own = restart if candidate.family == "restart" else None
    plan = plan_of(candidate, budget, own, denoiser.parameterization.process)
    return None if plan is None else Plan.build(**{**plan.config.to_dict(), "guidance_scale": float(scale)})


def score(
    folder: Path, prompts: Prompts, scorers: Sequence[Scorer], evaluators: Sequence[Evaluator]
) -> list[dict[str, Any]]:
    """Return the fields that the images of a job have: one dict for each evaluator, or one without a distance.

    Raises RestartError: an image is missing or cannot be scored.
    """
    values: dict[str, list[torch.Tensor]] = {scorer.name: [] for scorer in scorers}
    distances = [Distance(one) for one in evaluators]
    at = 0
    for images, labels in open_images(folder).batches(SEEN):
        texts = [one.text for one in prompts.of(range(at, min(at + len(images), len(prompts))))]
        if len(texts) != len(images):
            raise RestartValueError(f"{folder} has more images than prompts; remove what is not of the job")
        for scorer in scorers:
            values[scorer.name].append(scored(scorer, images, texts))
        for distance in distances:
            distance.add(images, torch.full_like(labels, -1))
        at += len(images)
    if at != len(prompts):
        raise RestartValueError(
            f"{folder} has {at:,} images for {len(prompts):,} prompts; the same command draws the rest"
        )
    means: dict[str, Any] = {}
    for name, parts in values.items():
        every = torch.cat(parts)
        means[name] = round(float(every.mean()), 6)
        means[f"{name}_se"] = round(float(every.std()) / math.sqrt(len(every)), 6) if len(every) > 1 else None
    return [
        means
        | {"features": one.evaluator.features, "reference": one.evaluator.reference, "fd_n": at}
        | {"fd": round(one.result()["fd"], 6)}
        for one in distances
    ] or [means | {"features": None, "reference": None}]


def said(row: Row) -> str:
    """Return the scores of a row in words."""
    parts = [f"FD {row['fd']:.3f}"] if row.get("fd") is not None else []
    parts += [f"{name} {row[name]:.4f}" for name in row["scorers"]]
    return ", ".join(parts) or "drawn"


def _known(out: Path, row: Row) -> Row | None:
    same = find(read(out / FILE), **{name: row.get(name) for name in (*SAME, "reference")})
    return same[-1] if same else None
