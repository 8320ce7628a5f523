r"""How far a faster network is from the exact one: the same seeds, drawn twice.

A network of lower precision, a compiled one, or both is compared with fp32, uncompiled:

* per evaluation, on identical inputs: both networks get the inputs of the fp32 trajectory, so errors do not accumulate.
  The relative error of one sample is ‖F' − F‖ / ‖F‖. It changes D by c_out(σ)·‖F' − F‖, so a large error at a low noise
  level, where c_out is about σ, is a small one in the image.
* in the result: two complete runs from the same noise, where errors do accumulate.

Limiting case: a network compared with itself has all errors 0, a PSNR of infinity and no value that changes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..common.checks import integer
from ..common.devices import check_device
from ..common.errors import NonFiniteError, RestartValueError
from ..models.denoiser import Denoiser
from ..plan.plan import Plan
from .inputs import check_denoiser
from .labels import Labels
from .network import PreparedNetwork, prepare
from .noise import seed_tensor
from .sampler import Progress, Sampler

SHOWN = 16  # rows of the printed table


@dataclass(frozen=True)
class ParityRow:
    """Relative error of F at one noise level.

    Attributes:
        sigma: the level.
        evaluations: rows of the plan at this level.
        rms: over all of them and all samples, pooled.
        max: of the worst sample in the worst of them.
    """

    sigma: float
    evaluations: int
    rms: float
    max: float


@dataclass(frozen=True)
class Parity:
    """What `parity` found; `str` of it is a small table.

    Attributes:
        network, reference: what was compared, in words.
        rows: relative errors of F, highest noise level first.
        samples: how many were drawn.
        failures: how many of them became NaN or infinite in either run, and are left out below.
        image_rms, image_max: difference of the finished samples, in their own units ([−1, 1] for images).
        psnr: in dB at 8 bits for values in [−1, 1], infinite if the 8-bit values are equal.
        changed: share of 8-bit values (one per element) that differ.
        notes: notes of the network.
    """

    network: str
    reference: str
    rows: tuple[ParityRow, ...]
    samples: int
    failures: int
    image_rms: float
    image_max: float
    psnr: float
    changed: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        evaluations = sum(row.evaluations for row in self.rows)
        lines = [f"{self.network}  against  {self.reference}", "error of F on equal inputs, relative:"]
        lines.append(f"{'sigma':>12}{'evaluations':>13}{'rms':>11}{'largest':>11}")
        lines += [f"{r.sigma:12.5g}{r.evaluations:13d}{r.rms:11.2e}{r.max:11.2e}" for r in self._shown()]
        lines.append(
            f"finished samples ({self.samples}, {evaluations} evaluations each): rms difference {self.image_rms:.2e}, "
            f"largest {self.image_max:.2e}"
        )
        lines.append(f"at 8 bits: PSNR {self.psnr:.1f} dB, {100 * self.changed:.2f} % of the values change")
        if self.failures:
            lines.append(f"{self.failures} of {self.samples} samples became NaN or infinite; they are left out")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _shown(self) -> list[ParityRow]:
        """Return evenly spread rows with both ends, and the worst one."""
        n = len(self.rows)
        if n <= SHOWN:
            return list(self.rows)
        chosen = {round(i * (n - 1) / (SHOWN - 2)) for i in range(SHOWN - 1)}
        chosen.add(max(range(n), key=lambda i: self.rows[i].max))
        return [self.rows[i] for i in sorted(chosen)]


def parity(
    denoiser: Denoiser,
    plan: Plan,
    *,
    dtype: str = "bf16",
    compile: str = "auto",
    seeds: Iterable[int] | Tensor = range(16),
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    memory_format: str = "auto",
    class_labels: Labels = None,
    conditions: Mapping[str, Any] | None = None,
) -> Parity:
    """Compare `denoiser` at `dtype`, `compile` and `memory_format` with itself in fp32, uncompiled, over one plan.

    Args:
        denoiser: the network, in float32.
        plan: what both run.
        dtype, compile, memory_format: of the network that is compared, see `prepare`.
        seeds: the samples to draw.
        device: default: where the network is.
        batch_size: default: all seeds at once. It must divide their number, so that one shape is compiled.
        class_labels, conditions: as of `Sampler.run`; by default each sample's class is drawn from its seed.

    Raises:
        RestartError: as `Sampler` and `prepare` do, and for no seeds or a batch size that does not divide them.
    """
    check_denoiser(denoiser)
    seeds = seed_tensor(seeds)
    count = len(seeds)
    if batch_size is None:
        batch_size = count
    elif count:
        batch_size = integer("batch_size", batch_size, 1, error=RestartValueError)
    if not count or count % batch_size:
        raise RestartValueError(f"{count} seeds do not divide into batches of {batch_size}")
    device = denoiser.device if device is None else check_device(device)
    exact = prepare(denoiser, device=device, compile="off")
    network = prepare(denoiser, device=device, dtype=dtype, compile=compile, memory_format=memory_format)
    tap = _Tap(exact, network)

    def draw(function: _Tap | PreparedNetwork, dtype: str) -> tuple[Tensor, list[float]]:
        sampler = Sampler(
            replace(denoiser, network=function),
            plan,
            batch_size,
            graph="off",
            compile="off",
            device=device,
            dtype=dtype,
        )
        try:
            callback = tap.record if function is tap else None
            x = sampler.run(seeds, class_labels, conditions=conditions, callback=callback)
        except NonFiniteError as error:
            x = error.samples
        return x, [row.sigma for row in sampler.plan.rows]

    x, sigma = draw(tap, "fp32")
    y, _ = draw(network, dtype)
    good = (torch.isfinite(x) & torch.isfinite(y)).flatten(1).all(1)
    return Parity(
        network.describe(),
        exact.describe(),
        tap.rows(sigma),
        count,
        count - int(good.sum()),
        *_compare(x[good], y[good]),
        network.notes,
    )


class _Tap:
    """A network that returns what `exact` does, and gives the same inputs to `network` on the side."""

    def __init__(self, exact: PreparedNetwork, network: PreparedNetwork) -> None:
        self.exact, self.network = exact, network
        self.found: defaultdict[int, list[Tensor]] = defaultdict(list)

    def __call__(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None, **conditions: Tensor) -> Tensor:
        F = self.exact(net_in, c_noise, class_labels, **conditions)
        other = self.network(net_in.to(self.network.net_dtype), c_noise, class_labels, **conditions)
        wide = F.double().flatten(1)
        error = other.double().flatten(1) - wide
        self.last = torch.stack([error.square().sum(1), wide.square().sum(1)])
        return F

    def record(self, progress: Progress) -> None:
        """Note the errors of row `progress.row`; the sampler's callback."""
        self.found[progress.row].append(self.last.cpu())

    def rows(self, sigma: list[float]) -> tuple[ParityRow, ...]:
        """Return the errors pooled by noise level; sigma[i] is the level of row i."""
        at: defaultdict[float, list[int]] = defaultdict(list)
        for row, level in enumerate(sigma):
            at[level].append(row)
        result = []
        for level in sorted(at, reverse=True):
            error, norm = torch.cat([part for row in at[level] for part in self.found[row]], dim=1)
            worst = max(map(_ratio, error.tolist(), norm.tolist()), key=lambda e: (math.isnan(e), e))
            result.append(ParityRow(level, len(at[level]), _ratio(float(error.sum()), float(norm.sum())), worst))
        return tuple(result)


def _ratio(error: float, norm: float) -> float:
    """Return √(error / norm), with 0/0 = 0."""
    return math.sqrt(error / norm) if norm else (0.0 if error == 0 else math.inf)


def _compare(x: Tensor, y: Tensor) -> tuple[float, float, float, float]:
    """Return RMS and largest difference, PSNR and share of changed values at 8 bits; NaN if no sample is left."""
    if not x.numel():
        return (math.nan,) * 4
    from ..common.images import to_uint8

    difference = (x - y).double()
    values = (to_uint8(samples.reshape(len(samples), -1, 1, 1)) for samples in (x, y))  # of any shape
    error = next(values).astype(float) - next(values)
    mse = float((error**2).mean())
    psnr = 10 * math.log10(255**2 / mse) if mse else math.inf
    rms, largest = difference.square().mean().sqrt().item(), difference.abs().max().item()
    return rms, largest, psnr, float((error != 0).mean())
