r"""The samplers that people run today, in plain PyTorch: the timed baselines that the engine is compared with.

These loops compute what public code computes, in the way public code does it. The readable statement of the same
algorithms, which tests compare with, is `sampler/reference.py`; it is not timed.

Written from the papers, EDM (arXiv 2206.00364) Algorithms 1 and 2 and Restart (arXiv 2306.14878) Algorithm 2,
with the habits of the two families of public code:

| loop                       | state   | noise                             | scalars                              |
|----------------------------|---------|-----------------------------------|--------------------------------------|
| `edm_stochastic_loop_fp64` | float64 | one generator for each sample     | 0-dim float64 tensors on the device  |
| `restart_loop_fp64`        | float64 | the same                          | the same                             |
| `heun_loop_fp32`           | float32 | `torch.randn_like` for the batch  | 0-dim float32 tensors; sigma [B]     |

Public code of both families draws noise at every step, also if churn is off and the draw is multiplied by zero or
discarded. Its users pay for that, so it is the default; `unused_draws=False` leaves those draws out, and in float64 the
arithmetic around them, which is the fastest form of the same loop. Nothing else is slowed down: grids and intervals are
prepared before the loop, and autograd is off.

D is any denoiser D(x, σ) with σ a 0-dim or [B] tensor; :func:`edm_denoiser` makes one from a raw network,
preconditioning included. `noise(x)` gives standard normals like x and is called once for each draw, in running order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ...common.errors import RestartValueError
from ...models.denoiser import Denoiser
from ...plan.plan import Plan

D = Callable[[Tensor, Tensor], Tensor]
Noise = Callable[[Tensor], Tensor]
Network = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
Interval = tuple[int, int, float, float]  # the paper's [N, K, t_min, t_max]
INF = float("inf")
SQRT2_1 = 2**0.5 - 1


def karras(n: int, low: float, high: float, rho: float = 7.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return n levels from `high` down to `low` (EDM eq. 5)."""
    i = torch.arange(n, dtype=dtype) / (n - 1)
    return (high ** (1 / rho) + i * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def edm_grid(n: int = 18, low: float = 0.002, high: float = 80.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return t_0 … t_{n−1} and the final 0."""
    return torch.cat([karras(n, low, high, dtype=dtype), torch.zeros(1, dtype=dtype)])


class SampleGenerators:
    """Draws like `randn_like`, with a generator for each sample, so that an image does not depend on its batch."""

    def __init__(self, seeds: Iterable[int], device: str | torch.device = "cpu") -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack(
            [torch.randn(x.shape[1:], generator=g, dtype=x.dtype, device=x.device) for g in self.generators]
        )

    def latents(self, shape: Sequence[int]) -> Tensor:
        """Draw the start of the batch, float32 standard normals [B, *shape]."""
        device = self.generators[0].device
        return self(torch.empty(len(self.generators), *shape, device=device))


@torch.no_grad()
def edm_stochastic_loop_fp64(
    D: D,
    latents: Tensor,
    t_steps: Tensor,
    noise: Noise,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = INF,
    s_noise: float = 1.0,
    unused_draws: bool = True,
) -> Tensor:
    """Run EDM Algorithm 2; s_churn = 0 is Algorithm 1, plain Heun.

    Args:
        latents: standard normals [B, *shape]. t_steps: float64 [N_main + 1], descending, the last one 0.

    Returns: float64 [B, *shape] after 2·N_main − 1 evaluations.
    """
    return restart_loop_fp64(D, latents, t_steps, (), noise, s_churn, s_min, s_max, s_noise, 0.0, unused_draws)


@torch.no_grad()
def restart_loop_fp64(
    D: D,
    latents: Tensor,
    t_steps: Tensor,
    intervals: Sequence[Interval],
    noise: Noise,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = INF,
    s_noise: float = 1.0,
    restart_gamma: float = 0.0,
    unused_draws: bool = True,
) -> Tensor:
    """Run Restart Algorithm 2 on EDM's Heun sampler; without intervals it is EDM Algorithm 2.

    An interval starts at the grid point nearest to its t_min and runs over N levels from its own t_max, K times. The
    network runs in D's own precision; its result becomes float64.

    Args:
        latents: standard normals [B, *shape]. t_steps: float64 [N_main + 1], descending, the last one 0.
        intervals: [N, K, t_min, t_max] each. restart_gamma: churn inside them, for s_min ≤ t ≤ s_max.

    Returns: float64 [B, *shape] after 2·N_main − 1 + Σ 2·K·(N − 1) evaluations.
    """
    steps = len(t_steps) - 1
    attached = _attach(intervals, t_steps)

    def step(x: Tensor, t: Tensor, t_next: Tensor, gamma: float, last: bool = False) -> Tensor:
        t_hat = t
        if unused_draws or gamma > 0:
            t_hat = t + gamma * t
            x = x + (t_hat**2 - t**2).sqrt() * s_noise * noise(x)
        d = (x - D(x, t_hat).to(torch.float64)) / t_hat
        x_next = x + (t_next - t_hat) * d
        if last:
            return x_next
        d_next = (x_next - D(x_next, t_next).to(torch.float64)) / t_next
        return x + (t_next - t_hat) * (0.5 * d + 0.5 * d_next)

    x = latents.to(torch.float64) * t_steps[0]
    for i, (t, t_next) in enumerate(pairwise(t_steps)):
        gamma = min(s_churn / steps, SQRT2_1) if s_min <= t <= s_max else 0.0
        x = step(x, t, t_next, gamma, last=i == steps - 1)
        for K, levels in attached.get(i + 1, ()):
            for _ in range(K):
                x = x + (levels[0] ** 2 - levels[-1] ** 2).sqrt() * s_noise * noise(x)
                for u, u_next in pairwise(levels):
                    x = step(x, u, u_next, restart_gamma if s_min <= u <= s_max else 0.0)
    return x


@torch.no_grad()
def heun_loop_fp32(
    D: D,
    x: Tensor,
    sigmas: Tensor,
    intervals: Sequence[Interval] = (),
    noise: Noise = torch.randn_like,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = INF,
    s_noise: float = 1.0,
    unused_draws: bool = True,
) -> Tensor:
    """Run EDM Algorithm 2 the way k-diffusion's users run it, with Restart if there are intervals.

    float32 throughout, slope d = (x − D)/σ, σ handed to the model as [B], and `randn_like` at every step: at zero churn
    the draw is made, scaled by s_noise and dropped.

    Args:
        x: the start, already times sigmas[0]. sigmas: float32 [N_main + 1], descending, the last one 0.
        intervals: [N, K, t_min, t_max] each; a jump is one `randn_like`, the steps inside have no churn.

    Returns: float32 [B, *shape] after 2·N_main − 1 + Σ 2·K·(N − 1) evaluations.
    """
    steps = len(sigmas) - 1
    ones = x.new_ones(len(x))
    attached = _attach(intervals, sigmas)

    def step(x: Tensor, sigma: Tensor, sigma_next: Tensor, gamma: float) -> Tensor:
        sigma_hat = sigma * (gamma + 1)
        if unused_draws or gamma > 0:
            eps = noise(x) * s_noise
            if gamma > 0:
                x = x + eps * (sigma_hat**2 - sigma**2) ** 0.5
        d = (x - D(x, sigma_hat * ones)) / sigma_hat
        dt = sigma_next - sigma_hat
        if sigma_next == 0:
            return x + d * dt
        x_2 = x + d * dt
        d_2 = (x_2 - D(x_2, sigma_next * ones)) / sigma_next
        return x + (d + d_2) / 2 * dt

    for i in range(steps):
        gamma = min(s_churn / steps, SQRT2_1) if s_tmin <= sigmas[i] <= s_tmax else 0.0
        x = step(x, sigmas[i], sigmas[i + 1], gamma)
        for K, levels in attached.get(i + 1, ()):
            for _ in range(K):
                x = x + noise(x) * s_noise * (levels[0] ** 2 - levels[-1] ** 2) ** 0.5
                for j in range(len(levels) - 1):
                    x = step(x, levels[j], levels[j + 1], 0.0)
    return x


def _attach(intervals: Sequence[Interval], grid: Tensor) -> dict[int, list[tuple[int, Tensor]]]:
    """Return grid index → (K, levels) of its intervals. t_min snaps to the nearest grid point, t_max stays."""
    points = grid.tolist()
    attached: dict[int, list[tuple[int, Tensor]]] = {}
    for N, K, t_min, t_max in intervals:
        m = min(range(len(points)), key=lambda i: abs(points[i] - t_min))
        levels = karras(N, points[m], t_max).to(grid)
        attached.setdefault(m, []).append((K, levels))
    return attached


def edm_denoiser(network: Network, class_labels: Tensor | None = None, sigma_data: float = 0.5) -> D:
    """Return D(x; σ) of a raw network F with EDM's preconditioning (EDM Table 1) in plain torch, float32.

    Args:
        network: called as network(net_in [B, C, H, W], c_noise [1] or [B], class_labels).
        class_labels: float one-hot [B, label_dim] or None.
    """

    def D(x: Tensor, sigma: Tensor) -> Tensor:
        x = x.to(torch.float32)
        sigma = sigma.to(torch.float32).reshape(-1, 1, 1, 1)
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
        c_in = 1 / (sigma_data**2 + sigma**2).sqrt()
        c_noise = sigma.log() / 4
        F = network(c_in * x, c_noise.flatten(), class_labels)
        return c_skip * x + c_out * F.to(torch.float32)

    return D


def edm_denoiser_of(denoiser: Denoiser, class_labels: Tensor | None = None, network: Network | None = None) -> D:
    """Return :func:`edm_denoiser` of a loaded model; `class_labels` int64 [B].

    `network` runs in place of the model's own, for example the same one compiled. Raises RestartValueError if the model
    is not preconditioned as EDM.
    """
    sigma_data = sigma_data_of(denoiser)
    hot = None
    if class_labels is not None:
        hot = torch.nn.functional.one_hot(class_labels, denoiser.label_dim).to(torch.float32)
    return edm_denoiser(network or denoiser.network, hot, sigma_data)


def sigma_data_of(denoiser: Denoiser) -> float:
    """Return sigma_data of a network with EDM's preconditioning. Raises RestartValueError for another one."""
    if denoiser.parameterization.name != "edm":
        raise RestartValueError(
            f"{denoiser.name!r} has {denoiser.parameterization.name!r} preconditioning, not 'edm'; plain loops and "
            f"diffusers' schedulers are measured on networks with EDM's only"
        )
    one = denoiser.parameterization.coefficients(1.0)  # c_skip(1) = sd²/(1 + sd²)
    return float((one.c_skip / (1 - one.c_skip)) ** 0.5)


def intervals_of(plan: Plan) -> list[Interval]:
    """Return [N, K, t_min, t_max] of a plan's intervals, as asked for."""
    return [(i.N, i.K, i.asked.t_min, i.asked.t_max) for i in plan.intervals]
