"""The network that is timed: EDM's CIFAR-10 DDPM++ (arXiv 2206.00364, Table 7) with random weights, or a tiny one."""

from __future__ import annotations

import torch
from torch import Tensor

import restart_sampling as rs
from restart_sampling.experiments.measure import loops
from restart_sampling.models import build_network
from restart_sampling.sampler.executors import make_executor

CIFAR10 = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 32,
    "img_channels": 3,
    "label_dim": 0,
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.0,
}
TINY = {
    **CIFAR10,
    "img_resolution": 8,
    "model_channels": 8,
    "channel_mult": [1, 1],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
PRESET = "cifar10-edm-43"


def denoiser(quick: bool) -> rs.Denoiser:
    """Return the network as a denoiser.

    Every weight is random, also those that training starts at zero: a product with zeros is faster than with data.
    """
    network = build_network(TINY if quick else CIFAR10, seed=0)
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        if p.ndim > 1:
            p.data.normal_(0.0, p[0].numel() ** -0.5, generator=generator)
    shape = (network.img_channels, network.img_resolution, network.img_resolution)
    return rs.Denoiser(network, network.parameterization, shape, name="cifar10-size, random weights")


def plan(quick: bool) -> rs.Plan:
    return rs.Plan.build(steps=3, restart=[2, 1, 0.1, 0.5]) if quick else rs.preset(PRESET)


class Runs:
    """The variants of drawing one batch of `batch` samples with one network: `paper`, `eager`, and the graph modes.

    `paper` is the float64 loop of `experiments/measure/loops.py` around the same network, compiled if the engine's is.
    """

    def __init__(
        self,
        model: rs.Denoiser,
        plan: rs.Plan,
        batch: int,
        device: torch.device,
        dtype: str = "fp32",
        compile: str = "off",
    ) -> None:
        self.batch, self.device, self.seeds = batch, device, range(batch)
        self.sampler = rs.Sampler(model, plan, batch, graph="off", compile=compile, device=device, dtype=dtype)
        self.eager = self.sampler.executor
        self.executors = {"eager": self.eager}
        prepared = self.sampler.network

        def network(x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
            return prepared(x.to(self.sampler.net_dtype), c_noise.contiguous(), labels)

        self.D = loops.edm_denoiser_of(model, network=network)
        self.intervals = loops.intervals_of(plan)
        c = plan.config
        self.grid = loops.edm_grid(c.steps, c.sigma_min, c.sigma_max).to(device)

    def __call__(self, variant: str) -> Tensor:
        if variant == "paper":
            noise = loops.SampleGenerators(self.seeds, self.device)
            latents = noise.latents(self.sampler.denoiser.shape)
            return loops.restart_loop_fp64(self.D, latents, self.grid, self.intervals, noise)
        if variant not in self.executors:
            self.executors[variant] = make_executor(variant, self.device, self.sampler.backend)
        self.sampler.workspace.executor = self.executors[variant]
        self.sampler.workspace.pads = True
        return self.sampler.run(self.seeds)

    @property
    def note(self) -> str:
        """Return why the variant that ran last ran otherwise than asked; empty if it did as asked."""
        return "; ".join(note for note in (self.sampler.executor.note, *self._network_notes()) if note)

    def _network_notes(self) -> tuple[str, ...]:
        return tuple(n for n in getattr(self.sampler.network, "notes", ()) if "runs eagerly" in n or "again" in n)
