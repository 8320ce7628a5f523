r"""CorrDiff ensembles (arXiv 2309.15214): the mean of a regression network, and residuals drawn by Restart.

A member is mean(img_lr) + r, where r is a sample of a diffusion network that is told img_lr, with the mean before it
where it was trained so. All members of an input share the mean, which costs one call of the regression network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...common.errors import RestartTypeError, RestartValueError
from ...models.conditions import CLASS
from ...models.denoiser import Denoiser
from ...plan.plan import Plan
from ...sampler.inputs import Seeds
from ...sampler.sampler import Sampler


class CorrDiff:
    """Draws ensembles of CorrDiff.

    Args:
        denoiser: of the residuals, from `denoiser_of`.
        regression: the regression network, called as regression(x=zeros [1, *shape], img_lr=img_lr [1, C, H, W]); None
            where the diffusion network draws whole fields.
        plan: what runs, such as rs.Plan.build(steps=18, sigma_max=800, restart="[3, 2, 0.06, 0.30]").
        mean_conditioned: the diffusion network is told the mean, before img_lr.
        batch_size, **options: of `rs.Sampler`.

    Raises:
        RestartTypeError, RestartValueError: what does not go together.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        regression: Callable[..., Tensor] | None,
        plan: Plan,
        *,
        mean_conditioned: bool = False,
        batch_size: int | str = 64,
        **options: Any,
    ) -> None:
        if regression is not None and not callable(regression):
            raise RestartTypeError(f"regression must be a network or None, got {type(regression).__name__}")
        if mean_conditioned and regression is None:
            raise RestartValueError("mean_conditioned needs the regression network, whose mean the other one is told")
        named = [name for name in denoiser.conditions if name != CLASS]
        known = [name for name in ("img_lr", "condition") if name in named]
        if len(known) != 1:
            raise RestartValueError(
                f"{denoiser.name!r} is told {', '.join(named) or 'nothing'}; make it with denoiser_of(net, condition=…)"
            )
        self.denoiser, self.regression, self.mean_conditioned = denoiser, regression, mean_conditioned
        self.condition = known[0]
        self.sampler = Sampler(denoiser, plan, batch_size, **options)

    @torch.no_grad()
    def mean(self, img_lr: Tensor, **more: Tensor) -> Tensor:
        """Return the regression's mean float32 [*shape] of img_lr [C, H, W]; zeros without a regression network.

        `more` is what else that network is given by name, such as lead_time_label.
        """
        zeros = torch.zeros(1, *self.denoiser.shape, device=self.sampler.device)
        if self.regression is None:
            return zeros[0]
        found = self.regression(x=zeros, img_lr=img_lr[None].to(self.sampler.device), **more)
        if found.shape != zeros.shape:
            raise RestartValueError(
                f"the regression network returned {list(found.shape)}, and samples are {list(self.denoiser.shape)}"
            )
        return found[0].float()

    def __call__(self, img_lr: Tensor, seeds: Seeds, conditions: dict[str, Tensor] | None = None, **run: Any) -> Tensor:
        """Return the members float32 [len(seeds), *shape] of one input.

        Args:
            img_lr: [C, H, W]. seeds: of the members.
            conditions: what else the diffusion network is told by name.
            **run: of `Sampler.run`.
        """
        img_lr = img_lr.to(self.sampler.device)
        mean = self.mean(img_lr)
        told = torch.cat([mean.to(img_lr.dtype), img_lr]) if self.mean_conditioned else img_lr
        x = self.sampler.run(seeds, conditions={self.condition: told, **(conditions or {})}, **run)
        return mean + x
