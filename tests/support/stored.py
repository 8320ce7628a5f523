"""Jobs of pictures as tests of formats draw them, and what stands in for a job's inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import restart_sampling as rs
from restart_sampling.jobs.collect import OpenShard
from restart_sampling.jobs.folder import JobFolder
from restart_sampling.jobs.formats.base import ShardData
from restart_sampling.jobs.generate import run_job
from restart_sampling.jobs.signals import Stop
from restart_sampling.jobs.verify import verify

PLAN = rs.Plan.build(steps=4, restart="[3, 1, 0.3, 1.0]")
SMOOTH = 0.6 * torch.sin(torch.arange(4096) / 300)
SEEDS, SIZE = "0-23", 12  # two shards


class Network:
    """A denoiser of smooth pictures whose rows do not see one another; asks to stop when `batches` are drawn."""

    def __init__(self, batches: int = 0, shape: tuple[int, ...] = (3, 16, 24), classes: int = 0) -> None:
        self.stop, self.batches, self.shape, self.classes = Stop(), batches, shape, classes
        self.calls = self.samples = 0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, class_labels: Any = None) -> torch.Tensor:
        self.calls += 1
        self.samples += len(x)
        if self.calls == self.batches * PLAN.nfe:
            self.stop()
        return SMOOTH[: x[0].numel()].view(x.shape[1:]) + 0.02 * torch.tanh(
            x / (1 + sigma.view(-1, *[1] * (x.ndim - 1)))
        )

    @property
    def denoiser(self) -> rs.Denoiser:
        return rs.Denoiser.from_function(self, self.shape, label_dim=self.classes, name="tanh")


def draw(out: Path, network: Network | None = None, seeds: str = SEEDS, **options: Any) -> Network:
    """Draw a job, or go on with it."""
    network = network or Network()
    options = dict(batch=8, shard_size=SIZE, sheets=0) | options
    assert run_job(network.denoiser, PLAN, seeds, out, stop=network.stop, **options) == []
    return network


def report(out: Path) -> Any:
    """What `verify` finds."""
    *_, (_, last) = verify(out)
    return last


# --- inputs ------------------------------------------------------------------------------------------------------

PROMPTS = (
    "a red cube, on top of a blue sphere",
    'two lines\nand "quotes", a back\\slash: a colon',
    "a NUL \0 within",
    "🐈‍⬛ ein schwarzer Kätzchen, 黒猫",
    "a.b.c.tar.gz/../x",
    "",
    "word " * 2000,  # 10 kB
    "Steps: 3, Seed: 4\tNegative",
)


def row(seed: int, per_input: int) -> dict[str, Any]:
    """What is known of a sample besides its seed."""
    number, k = divmod(seed, per_input)
    return {
        "prompt": PROMPTS[number % len(PROMPTS)],
        "negative_prompt": None if number % 2 else f"blurry, {number}",
        "input": number,
        "k": k,
        "meta": {"tag": 'two, "colours"', "include": [{"class": "cube", "count": number}], "a.b": None},
    }


def with_inputs(
    monkeypatch: pytest.MonkeyPatch, per_input: int, row: Callable[[int, int], dict[str, Any]] = row, first: int = 0
) -> None:
    """Give the jobs of a test so many samples for each of their inputs, whose rows are `row(seed − first, per_input)`.

    Rows of any content then need no file of prompts and no network that is told them.
    """
    data = OpenShard.data

    def rows(self: OpenShard, plan: str, facts: Any = None) -> ShardData:
        found = data(self, plan)
        return replace(found, rows=tuple(row(seed - first, per_input) for seed in found.seeds.tolist()))

    class Folder(JobFolder):
        def __init__(self, path: Path, record: dict[str, Any], *others: Any) -> None:
            inputs = {"kind": "prompts", "sha256": "0" * 64, "count": 24, "column": "prompt"}
            inputs |= {"per_input": per_input, "first": first, "same_seeds": False}
            super().__init__(path, {**record, "inputs": inputs}, *others)

    monkeypatch.setattr(OpenShard, "data", rows)
    monkeypatch.setattr("restart_sampling.jobs.generate.JobFolder", Folder)
