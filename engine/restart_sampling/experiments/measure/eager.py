"""What the runners outside the engine share: classes, batches, and the network as loops in plain PyTorch call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ...common.errors import RestartValueError
from ...models.denoiser import Denoiser
from ...plan.plan import Plan
from ...sampler.executors import Observer, observed_network
from ...sampler.network import PreparedNetwork, prepare
from ...sampler.noise import class_labels as labels_of_seeds
from ...sampler.noise import seed_tensor
from . import loops


class EagerRunner:
    """Draws batch by batch; a subclass draws one batch with :meth:`_batch`.

    Raises RestartValueError for a network that is not preconditioned as EDM.
    """

    plan: Plan | None = None

    def __init__(self, denoiser: Denoiser, nfe: int, key: str, batch_size: int, dtype: str) -> None:
        loops.sigma_data_of(denoiser)  # raises for any other preconditioning
        self.denoiser, self.key, self.batch_size = denoiser, key, batch_size
        self.nfe = self.network_calls = nfe  # none of them guides
        self.device = denoiser.device
        prepared: PreparedNetwork = prepare(denoiser, device=self.device, dtype=dtype)
        self.network: Any = prepared
        self.net_dtype = prepared.net_dtype

    def observed(self, observer: Observer) -> AbstractContextManager[None]:
        """Observe as `Runner.observed` says."""
        return observed_network(self, observer)

    def draw(
        self, seeds: Sequence[int], class_labels: Any = None, conditions: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Draw as `Runner.draw` says."""
        if conditions:
            raise RestartValueError("plain loops and schedulers of diffusers are told classes alone; leave them out")
        all_seeds = seed_tensor(seeds)
        labels = None
        if self.denoiser.label_dim:
            labels = (
                labels_of_seeds(all_seeds, self.denoiser.label_dim)
                if class_labels is None
                else torch.as_tensor(class_labels, dtype=torch.int64).expand(len(all_seeds)).clone()
            )
        parts = []
        with torch.inference_mode():
            for start in range(0, len(all_seeds), self.batch_size):
                part = slice(start, start + self.batch_size)
                parts.append(self._batch(all_seeds[part], None if labels is None else labels[part]).float())
        return torch.cat(parts) if parts else torch.empty(0, *self.denoiser.shape), labels

    def _batch(self, seeds: Tensor, labels: Tensor | None) -> Tensor:
        """Return the samples [n, *shape] of seeds int64 [n] with classes int64 [n] or None."""
        raise NotImplementedError

    def _hot(self, labels: Tensor | None) -> Tensor | None:
        """Return classes as float32 one-hot rows [n, label_dim]."""
        if labels is None:
            return None
        return torch.nn.functional.one_hot(labels, self.denoiser.label_dim).float().to(self.device)

    def _F(self, net_in: Tensor, c_noise: Tensor, hot: Tensor | None) -> Tensor:
        """Return the raw network's output, fed in its dtype and contiguous; a compiled one always gets full batches."""
        n, short = len(net_in), self.batch_size - len(net_in)
        net_in, c_noise = net_in.to(self.net_dtype).contiguous(), c_noise.contiguous()
        if short and getattr(self.network, "compiled", False):
            net_in = torch.cat([net_in, net_in.new_zeros(short, *net_in.shape[1:])])
            c_noise = c_noise if len(c_noise) == 1 else torch.cat([c_noise, c_noise[:1].expand(short)])
            hot = None if hot is None else torch.cat([hot, hot.new_zeros(short, hot.shape[1])])
        return self.network(net_in, c_noise, hot)[:n]

    def _D(self, labels: Tensor | None) -> loops.D:
        """Return D(x, sigma) with EDM's preconditioning in plain torch."""
        return loops.edm_denoiser(self._F, self._hot(labels), loops.sigma_data_of(self.denoiser))
