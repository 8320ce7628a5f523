r"""The training loop: EDM's loss, an average of the weights, and checkpoints to go on from.

Loss (EDM, arXiv 2206.00364, eq. 8): with ln σ ~ N(P_mean, P_std²) and λ(σ) = 1/c_out², weight times squared error of
the denoiser is the squared error of the raw network against its target,

    λ‖D(y + n; σ) − y‖² = ‖F − (y − c_skip·(y + n))/c_out‖²,  n ~ N(0, σ²).

The σ of a batch are stratified, one per 1/B of probability (Kingma et al., arXiv 2107.00630, appendix I.1). They are
drawn with numpy on the host, so their coefficients come from the network's own `Parameterization` in float64.

A network that predicts how uncertain its error is at a noise level, u(σ), is trained by eq. 21 of EDM2 (arXiv
2312.02696), λ‖D − y‖²/exp(u) + u, which gives all levels the same weight as they are learned; what is reported is the
loss without u. One whose weights are kept at unit length puts them there before every step.

The loop does not need to know when training ends: the rate is warm-up, then lr·√(decay_steps/step), and averages of the
weights are EDM2's, each over a fixed share of the past (averages.py). Every step draws from `default_rng([seed,
step])`, so a run that was killed and resumed sees the same data and noise.

Limiting case: label_dropout = 1 trains without classes.
"""

from __future__ import annotations

import csv
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...common.errors import CheckpointError, RestartValueError
from ...common.files import write_atomically
from ...models import Network, build_network
from ..datasets import Images
from . import averages

FORMAT = 2
AVERAGES = "averages"  # the folder of stored averages, in that of the run
_inverse_normal = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])


@dataclass(frozen=True)
class Options:
    """The options of a run, which are stored in its checkpoints. Lengths are in steps.

    bf16: the network is computed in bfloat16 where torch's autocast does so; weights, norms and the loss stay float32.

    Raises RestartValueError for a value that must be > 0 and is not.
    """

    batch: int = 64
    lr: float = 2e-3
    warmup_steps: int = 500
    decay_steps: int = 2000
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    ema_stds: tuple[float, ...] = (0.05, 0.1)
    label_dropout: float = 0.1
    P_mean: float = -1.2
    P_std: float = 1.2
    seed: int = 0
    bf16: bool = False

    def __post_init__(self) -> None:
        positive = ("batch", "lr", "warmup_steps", "decay_steps", "clip", "P_std")
        bad = [name for name in positive if not getattr(self, name) > 0]
        if bad:
            raise RestartValueError(f"{bad[0]} must be > 0, got {getattr(self, bad[0])}")
        if not self.ema_stds:
            raise RestartValueError("ema_stds must name the length of one average at least, such as (0.1,)")
        for std in self.ema_stds:
            averages.gamma_of(std)

    def rate(self, step: int) -> float:
        """Return the learning rate of step 1, 2, …"""
        return self.lr * min(step / self.warmup_steps, 1.0) * math.sqrt(self.decay_steps / max(step, self.decay_steps))


@dataclass
class Run:
    """A run in memory: network, averages by their length (σ_rel), optimizer, and how far it got."""

    network: Network
    averages: dict[float, Network]
    optimizer: torch.optim.Optimizer
    options: Options
    data: str
    step: int = 0
    seconds: float = 0.0
    mean_loss: float | None = None

    @property
    def ema(self) -> Network:
        """The longest average."""
        return self.averages[max(self.averages)]


def draw_sigma(rng: np.random.Generator, B: int, P_mean: float, P_std: float) -> np.ndarray:
    """Draw B stratified noise levels with ln σ ~ N(P_mean, P_std²), float64 [B], in random order."""
    u = (rng.permutation(B) + rng.uniform(1e-9, 1, B)) / B
    return np.exp(P_mean + P_std * _inverse_normal(np.clip(u, 1e-12, 1 - 1e-12)))


def edm_loss(
    network: Network, F: Callable[..., Tensor], y: Tensor, labels: Tensor | None, sigma: np.ndarray, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Return ‖F − (y − c_skip·x)/c_out‖², with x = y + σ·noise, as a mean over elements: what is trained, and itself.

    The two differ where the network predicts its uncertainty.

    Args:
        network: whose parameterization is used. F: the network, or a compiled form of it, which is called.
        y, noise: float32 [B, C, H, W]. labels: one-hot float32 [B, label_dim] or None. sigma: float64 [B].
    """
    c = network.parameterization.coefficients(sigma)

    def column(values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(y.device)[:, None, None, None]

    x = y + column(sigma) * noise
    target = (y - column(c.c_skip) * x) / column(c.c_out)
    c_noise = column(c.c_noise).flatten()
    error = (F(column(c.c_in) * x, c_noise, labels) - target).square().mean(dim=(1, 2, 3))
    u = network.logvar(c_noise)
    return (error if u is None else error / u.exp() + u).mean(), error.detach().mean()


def start(config: dict[str, Any], options: Options, data: str, device: torch.device) -> Run:
    """Return a fresh run: a network initialised from `options.seed`, its copies as averages, and Adam."""
    network = build_network(config, seed=options.seed).to(device)
    averaged = {std: build_network(config).to(device) for std in options.ema_stds}
    for net in (network, *averaged.values()):
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        net.load_state_dict(network.state_dict())
    network.train().requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=options.lr, betas=options.betas, fused=True)
    return Run(network, averaged, optimizer, options, data)


def save(run: Run, path: Path) -> None:
    """Write a checkpoint in one step, so that `path` is always a whole one. Raises OSError."""
    content = {
        "format": FORMAT,
        "config": run.network.config,
        "options": asdict(run.options),
        "data": run.data,
        "step": run.step,
        "seconds": run.seconds,
        "network": run.network.state_dict(),
        "mean_loss": run.mean_loss,
        "averages": {str(std): net.state_dict() for std, net in run.averages.items()},
        "optimizer": run.optimizer.state_dict(),
    }
    write_atomically(path, lambda file: torch.save(content, file))


def resume(path: Path, device: torch.device) -> Run:
    """Return the run stored in a checkpoint of :func:`save`. Raises CheckpointError."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; start training without --resume") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: not a readable training checkpoint ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a training checkpoint of this version (format {FORMAT})")
    lists: dict[str, Any] = {name: tuple(content["options"][name]) for name in ("betas", "ema_stds")}
    options = Options(**(content["options"] | lists))
    run = start(content["config"], options, content["data"], device)
    run.network.load_state_dict(content["network"])
    for std, net in run.averages.items():
        net.load_state_dict(content["averages"][str(std)])
    run.optimizer.load_state_dict(content["optimizer"])
    run.step, run.seconds, run.mean_loss = content["step"], content["seconds"], content.get("mean_loss")
    return run


def one_step(run: Run, F: Callable[..., Tensor], images: Tensor, labels: Tensor | None) -> tuple[float, float]:
    """Advance `run` by one step on uint8 `images` [N, C, H, W] with classes int64 [N]; return loss and gradient norm.

    Raises RestartValueError if the gradient is not finite.
    """
    options, config = run.options, run.network.config
    run.step += 1
    rng = np.random.default_rng([options.seed, run.step])
    index = torch.from_numpy(rng.integers(len(images), size=options.batch)).to(images.device)
    y = images[index].to(torch.float32) / 127.5 - 1
    one_hot = None
    if labels is not None:
        one_hot = nn.functional.one_hot(labels[index], config["label_dim"]).to(torch.float32)
        keep = torch.from_numpy(rng.uniform(size=options.batch) >= options.label_dropout).to(images.device)
        one_hot *= keep[:, None]
    sigma = draw_sigma(rng, options.batch, options.P_mean, options.P_std)
    noise = torch.from_numpy(rng.standard_normal(y.shape, dtype=np.float32)).to(y.device)

    for group in run.optimizer.param_groups:
        group["lr"] = options.rate(run.step)
    run.optimizer.zero_grad(set_to_none=True)
    run.network.constrain()
    trained, loss = edm_loss(run.network, F, y, one_hot, sigma, noise)
    trained.backward()
    norm = nn.utils.clip_grad_norm_(run.network.parameters(), options.clip)
    if not torch.isfinite(norm):
        raise RestartValueError(
            f"step {run.step}: the gradient is not finite; resume from the checkpoint with a lower lr"
        )
    run.optimizer.step()
    with torch.no_grad():
        for std, net in run.averages.items():
            share = 1 - averages.beta(run.step, std)
            torch._foreach_lerp_(list(net.parameters()), list(run.network.parameters()), share)
    return float(loss), float(norm)


def train(
    run: Run,
    images: Images,
    out: Path,
    *,
    minutes: float,
    max_steps: int | None = None,
    save_minutes: float = 5.0,
    store_steps: int | None = None,
    compile: bool = False,
    report: Callable[[Run, float, float], None] | None = None,
    every: int = 50,
) -> None:
    """Train for `minutes` or to step `max_steps`, write out/checkpoint.pt and append to out/loss.csv.

    Every `store_steps` steps the averages go to out/averages, from which averages of other lengths can be made.

    Rows of steps after the last checkpoint of a killed run are removed from the table, because those steps are made
    again. `report(run, loss, seconds per step)` is called every `every` steps with means over them.
    """
    device = next(run.network.parameters()).device
    pixels = torch.from_numpy(images.images).to(device)
    labels = None if not run.network.label_dim or images.labels is None else torch.from_numpy(images.labels).to(device)
    F = torch.compile(run.network) if compile else run.network
    if run.options.bf16:
        F = _in_bfloat16(F, device)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, table = out / "checkpoint.pt", out / "loss.csv"
    begin = lap = last_save = time.monotonic()
    before = run.seconds
    losses: list[float] = []
    fresh = not table.exists()
    if not fresh:
        _forget_after(run.step, table)
    with table.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", "seconds", "loss", "lr", "grad_norm"])
        while (now := time.monotonic()) - begin < 60 * minutes and (max_steps is None or run.step < max_steps):
            if now - last_save > 60 * save_minutes:
                save(run, checkpoint)
                last_save = now
            loss, norm = one_step(run, F, pixels, labels)
            run.seconds = before + time.monotonic() - begin
            losses.append(loss)
            if store_steps and run.step % store_steps == 0:
                for std, net in run.averages.items():
                    averages.store(out / AVERAGES, run.step, std, net)
            if len(losses) == every:
                mean, pace = sum(losses) / every, (time.monotonic() - lap) / every
                row = [
                    run.step,
                    f"{run.seconds:.1f}",
                    f"{mean:.5f}",
                    f"{run.options.rate(run.step):.6f}",
                    f"{norm:.4f}",
                ]
                writer.writerow(row)
                file.flush()
                run.mean_loss = 0.9 * (run.mean_loss or mean) + 0.1 * mean  # over about 10 rows
                if report:
                    report(run, mean, pace)
                losses, lap = [], time.monotonic()
    save(run, checkpoint)


def _in_bfloat16(F: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Return F under autocast to bfloat16, with a float32 result."""

    def call(*inputs: Tensor | None) -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return F(*inputs).float()

    return call


def _forget_after(step: int, table: Path) -> None:
    """Remove the rows of steps after `step` from the table, and a row that was cut short."""
    title, *lines = table.read_text().splitlines(keepends=True) or [""]
    valid = [line for line in lines if line.endswith("\n") and int(line.split(",")[0]) <= step]
    if len(valid) < len(lines):
        text = "".join([title, *valid])
        write_atomically(table, lambda file: file.write(text.encode()))
