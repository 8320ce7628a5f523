r"""`stochastic_sampler` with the signature of PhysicsNeMo's sampler of that name, which CorrDiff calls.

Without Restart and churn it is that sampler: Heun on EDM's grid between the levels of the network, from `latents`
times the first level. `restart` puts intervals on top of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...common.errors import RestartValueError
from ...models.conditions import CLASS
from ...plan.plan import Plan
from ...plan.schedule import karras
from ..k_diffusion.sampling import sample_plan
from .networks import IMAGES, Network


@torch.no_grad()
def stochastic_sampler(
    net: Callable[..., Tensor],
    latents: Tensor,
    img_lr: Tensor,
    class_labels: Tensor | None = None,
    randn_like: Callable[[Tensor], Tensor] = torch.randn_like,
    patching: Any = None,
    mean_hr: Tensor | None = None,
    lead_time_label: Tensor | None = None,
    num_steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 800.0,
    rho: float = 7.0,
    S_churn: float = 0.0,
    S_min: float = 0.0,
    S_max: float = float("inf"),
    S_noise: float = 1.0,
    *,
    restart: Any = None,
    solver: str = "heun",
    seeds: Iterable[int] | Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Draw a sample for each row of `latents`, conditioned on `img_lr`; use it where CorrDiff takes a sampler.

    Args:
        net: a preconditioned network, see networks.py; its sigma_min, sigma_max and round_sigma bound the grid.
        latents: standard normals [B, C_out, H, W]. img_lr: [B, C_lr, H, W].
        class_labels, lead_time_label: what else the network is given.
        randn_like: makes the noise of jumps, unless there are seeds.
        patching: the network runs on patches: an object with `apply` and `fuse`, as GridPatching2D has them.
        mean_hr: the regression's mean [1, C, H, W] or [B, C, H, W], which goes before img_lr.
        num_steps, sigma_min, sigma_max, rho: of EDM's grid.
        S_churn, S_min, S_max, S_noise: EDM's churn, with γ at most √2 − 1; S_noise is a factor on jumps too.
        restart: intervals [N, K, t_min, t_max] in any notation; None for none.
        solver: any solver of the engine.
        seeds: one for each row: the engine's noise for jumps.
        backend: of the fused step.

    Returns:
        Samples of the shape and dtype of `latents`.

    Raises:
        ConfigError, RestartTypeError, RestartValueError: one sentence about what cannot run.
    """
    network, batch = Network(net), len(latents)
    if len(img_lr) != batch:
        raise RestartValueError(f"img_lr has {len(img_lr)} rows, and latents {batch}; give one for each")
    x_lr = img_lr if mean_hr is None else torch.cat([mean_hr.expand(batch, -1, -1, -1), img_lr], 1)
    x_lr = x_lr.to(latents.device)
    given: dict[str, Any] = {} if lead_time_label is None else {"lead_time_label": lead_time_label}
    if class_labels is not None:
        if not network.takes_classes:
            raise RestartValueError(f"{type(net).__name__} takes no class_labels; leave them out")
        given[CLASS] = class_labels
    if network.condition is None:
        raise RestartValueError(f"{type(net).__name__} takes neither img_lr nor condition, and CorrDiff needs one")
    if patching is not None:
        x_lr = patching.apply(input=x_lr, additional_input=img_lr)
        given["embedding_selector"] = lambda emb: patching.apply(emb.expand(batch, -1, -1, -1))
    levels = _levels(net, num_steps, sigma_min, sigma_max, rho)
    plan = Plan.build(
        sigmas=levels, solver=solver, restart=restart, s_churn=S_churn, s_min=S_min, s_max=S_max, s_noise=S_noise
    )

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        if patching is None:
            return _called(net, network, x, x_lr, sigma, given)
        found: Tensor = patching.fuse(
            input=_called(net, network, patching.apply(input=x), x_lr, sigma[:1], given), batch_size=batch
        )
        return found

    noise = None if seeds is not None else lambda sigma, sigma_next: randn_like(latents)
    return sample_plan(
        model, latents * plan.initial_noise, plan, disable=True, noise_sampler=noise, seeds=seeds, backend=backend
    )


def _called(net: Any, network: Network, x: Tensor, x_lr: Tensor, sigma: Tensor, given: dict[str, Any]) -> Tensor:
    if network.condition == IMAGES[0]:
        return net(x, x_lr, sigma, **given)
    return net(x, sigma, condition=x_lr, **given)


def _levels(net: Any, num_steps: int, sigma_min: float, sigma_max: float, rho: float) -> list[float]:
    """Return EDM's grid between the levels that the network knows, rounded as the network says."""
    low, high = max(sigma_min, float(net.sigma_min)), min(sigma_max, float(net.sigma_max))
    if not 0 < low < high < float("inf") or num_steps < 2:
        raise RestartValueError(
            f"{num_steps} steps from sigma {high:g} to {low:g} are no grid; give num_steps ≥ 2 and sigma_min below "
            "sigma_max, inside the network's own"
        )
    levels = karras(num_steps, low, high, rho)
    found: list[float] = net.round_sigma(torch.from_numpy(np.array(levels))).double().tolist()
    return found
