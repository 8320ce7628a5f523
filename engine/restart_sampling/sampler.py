r"""The sampler: denoiser × plan × executor.

`Sampler` binds a plan to a network once and then draws any number of samples; image N depends on seed N alone (its noise to
the last bit, whatever the batch). `sample` is the one-line form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import restart_kernels

from .denoiser import Denoiser, check_device
from .errors import BackendError, NonFiniteError, RestartTypeError, RestartValueError
from .executors import EagerExecutor
from .executors.eager import NEVER
from .noise import class_labels as labels_of_seeds
from .noise import seed_tensor
from .plan import Plan
from .table import bind

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Progress:
    """Where a run stands: samples finished, samples asked for, evaluation `row` of `nfe` in the running batch."""

    done: int
    total: int
    batch: int
    row: int
    nfe: int


@dataclass(frozen=True)
class Batch:
    """Samples of one batch: seeds int64 [n], labels int64 [n] or None, x float32 [n, *shape], and what went wrong."""

    seeds: Tensor
    labels: Tensor | None
    x: Tensor
    failures: tuple[dict[str, Any], ...] = ()


class Sampler:
    """Draws samples of `denoiser` by `plan`.

    Args:
        denoiser: what `rs.load` or `Denoiser.from_function` gives.
        plan: what `rs.Plan.build` or `rs.preset` gives. `sampler.plan` is the plan as bound to this network.
        batch_size: samples per network call.
        backend: "auto", "reference", "triton" or "native".
        graph, compile: "auto" or "off"; captured graphs and compiled networks are not part of this version.
        device: default: where the network is.
        dtype: network precision, "fp32", "bf16" or "fp16" (registers stay float32).

    Raises:
        RestartError: anything that cannot run, before any network call.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        plan: Plan,
        batch_size: int = 64,
        backend: str = "auto",
        graph: str = "auto",
        compile: str = "auto",
        *,
        device: str | torch.device | None = None,
        dtype: str = "fp32",
        register_dtype: torch.dtype = torch.float32,
    ) -> None:
        if not isinstance(denoiser, Denoiser):
            raise RestartTypeError(
                f"the first argument must be a Denoiser, got {type(denoiser).__name__}; use rs.load or Denoiser.from_function"
            )
        if not isinstance(plan, Plan):
            raise RestartTypeError(
                f"plan must be a Plan, got {type(plan).__name__}; use rs.Plan.build or rs.preset"
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise RestartValueError(f"batch_size must be an integer ≥ 1, got {batch_size!r}")
        for name, value in (("graph", graph), ("compile", compile)):
            if value not in ("auto", "off"):
                raise BackendError(f"{name}={value!r} is not available in this version; use 'auto' or 'off'")
        if dtype not in DTYPES:
            raise BackendError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if plan.config.guided and denoiser.label_dim == 0:
            raise RestartValueError(
                f"guidance_scale = {plan.config.guidance_scale:g} needs a class-conditional network, and "
                f"{denoiser.name!r} has no classes; leave guidance_scale at 1"
            )
        self.device = denoiser.device if device is None else check_device(device)
        try:
            backend = restart_kernels.resolve_backend(backend, self.device)
        except restart_kernels.KernelError as error:
            raise BackendError(str(error)) from None
        self.denoiser = denoiser.to(self.device)
        table = bind(plan, denoiser.parameterization)
        self.plan, self.table, self.batch_size, self.backend = table.plan, table, batch_size, backend
        self.executor = EagerExecutor(
            denoiser, table, batch_size, self.device, DTYPES[dtype] if register_dtype == torch.float32 else register_dtype,
            register_dtype, backend,
        )  # fmt: skip

    def run(
        self,
        seeds: Iterable[int] | Tensor,
        class_labels: int | Iterable[int] | Tensor | None = None,
        *,
        latents: Tensor | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> Tensor:
        """Samples float32 [len(seeds), *shape], in the order of `seeds`.

        Args:
            seeds: one integer in [0, 2^63) per sample.
            class_labels: a class for all, or one per seed; default: drawn from the seed. Ignored nowhere: an unconditional
                network refuses it.
            latents: standard-normal start [len(seeds), *shape] instead of the seed's draw 0.
            callback: called on the host with a :class:`Progress` after every evaluation.

        Raises:
            NonFiniteError: some samples became NaN or infinite; `.failures` names them, `.samples` holds the result.
        """
        parts: list[Tensor] = []
        failures: list[dict[str, Any]] = []
        count = len(seed_tensor(seeds))
        for batch in self.iterate(seeds, class_labels, latents=latents, callback=callback):
            parts.append(batch.x)
            failures += batch.failures
        x = torch.cat(parts) if parts else self.executor.x.new_empty(count, *self.denoiser.shape)
        if failures:
            raise NonFiniteError(describe_failures(failures), failures, x)
        return x

    @torch.inference_mode()
    def iterate(
        self,
        seeds: Iterable[int] | Tensor,
        class_labels: int | Iterable[int] | Tensor | None = None,
        *,
        latents: Tensor | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> Iterator[Batch]:
        """As `run`, batch by batch, for results that should not be held all at once; reports failures, raises none."""
        all_seeds = seed_tensor(seeds)
        total = len(all_seeds)
        labels = self._labels(all_seeds, class_labels)
        latents = self._latents(latents, total)
        for start in range(0, total, self.batch_size):
            part = slice(start, min(start + self.batch_size, total))
            n = part.stop - part.start
            on_row = None
            if callback is not None:
                on_row = _reporter(callback, start, total, n, self.table.nfe)
            x, first_bad = self.executor.run(
                all_seeds[part].to(self.device),
                self._one_hot(None if labels is None else labels[part]),
                None if latents is None else latents[part],
                on_row,
            )
            x = x.clone()
            yield Batch(
                all_seeds[part], None if labels is None else labels[part], x,
                self._failures(all_seeds[part], first_bad),
            )  # fmt: skip

    def _labels(self, seeds: Tensor, given: int | Iterable[int] | Tensor | None) -> Tensor | None:
        """int64 [n] on the CPU, or None for an unconditional network."""
        classes = self.denoiser.label_dim
        if classes == 0:
            if given is not None:
                raise RestartValueError(
                    f"class_labels were given, but {self.denoiser.name!r} has no classes; leave them out"
                )
            return None
        if given is None:
            return labels_of_seeds(seeds, classes)
        labels = torch.as_tensor(given if isinstance(given, (int, Tensor)) else list(given)).cpu()
        if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim > 1:
            raise RestartTypeError(f"class_labels must be integers, one or one per seed, got {labels.dtype}")
        if labels.ndim == 1 and len(labels) != len(seeds):
            raise RestartValueError(
                f"{len(labels)} class_labels were given for {len(seeds)} seeds; give one, or one per seed"
            )
        labels = labels.to(torch.int64).expand(len(seeds))
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
            bad = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise RestartValueError(
                f"class {bad} does not exist: {self.denoiser.name!r} has classes 0..{classes - 1}"
            )
        return labels

    def _one_hot(self, labels: Tensor | None) -> Tensor | None:
        """Network labels of a batch; a guided plan gets the unconditional rows (all zeros) behind the conditional ones."""
        if labels is None:
            return None
        hot = torch.nn.functional.one_hot(labels, self.denoiser.label_dim).to(
            self.device, self.executor.x.dtype
        )
        return torch.cat([hot, torch.zeros_like(hot)]) if self.plan.config.guided else hot

    def _latents(self, latents: Tensor | None, total: int) -> Tensor | None:
        if latents is None:
            return None
        wanted = (total, *self.denoiser.shape)
        if not isinstance(latents, Tensor) or not latents.is_floating_point():
            raise RestartTypeError(
                f"latents must be a floating tensor of shape {wanted}, got {type(latents).__name__}"
            )
        if tuple(latents.shape) != wanted:
            raise RestartValueError(f"latents must have shape {wanted}, got {tuple(latents.shape)}")
        if latents.device != self.device:
            raise RestartValueError(
                f"latents are on {latents.device}, the sampler on {self.device}; move them there"
            )
        if not bool(torch.isfinite(latents).all()):
            raise RestartValueError("latents hold NaN or infinite values; give standard-normal noise")
        return latents.detach()

    def _failures(self, seeds: Tensor, first_bad: Tensor) -> tuple[dict[str, Any], ...]:
        rows = first_bad.tolist()  # the one read of a batch, with its result
        return tuple(
            {"seed": int(seed), "row": row, "sigma": float(self.table.sigma[row])}
            for seed, row in zip(seeds, rows, strict=True)
            if row != NEVER
        )


def sample(
    denoiser: Denoiser,
    plan: Plan,
    seeds: Iterable[int] | Tensor,
    class_labels: int | Iterable[int] | Tensor | None = None,
    *,
    batch_size: int = 64,
    **options: Any,
) -> Tensor:
    """Samples float32 [len(seeds), *shape]: `Sampler(denoiser, plan, batch_size, **options).run(seeds, class_labels)`."""
    return Sampler(denoiser, plan, batch_size, **options).run(seeds, class_labels)


def describe_failures(failures: list[dict[str, Any]]) -> str:
    """One sentence naming the first few failed samples."""
    shown = ", ".join(f"seed {f['seed']} at row {f['row']} (sigma {f['sigma']:.4g})" for f in failures[:5])
    more = f" and {len(failures) - 5} more" if len(failures) > 5 else ""
    return f"{len(failures)} samples became NaN or infinite: {shown}{more}; check the network's weights, or use dtype fp32"


def _reporter(
    callback: Callable[[Progress], None], done: int, total: int, n: int, nfe: int
) -> Callable[[int], None]:
    return lambda row: callback(Progress(done + (n if row == nfe else 0), total, n, row, nfe))
