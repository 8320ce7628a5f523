r"""`sample_restart`: the host's denoiser, the engine's plan, table and fused step.

The host's `model(x, sigma)` is D itself, so c_skip = 0, c_out = c_in = 1: the network input is the state. One
evaluation is one call of the model and one row of the table; between two calls the host may show previews, interrupt,
or mask inside the model. Every call gets a fresh input, which the host may keep or write to, unlike in the engine's own
loop, which has one buffer. Noise by seeds is added by the row that arrives at t_min, in the same pass; noise of the
host is added after that row."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import restart_kernels
from restart_kernels import layout

from ...common.errors import BackendError, RestartTypeError
from ...models import parameterization as parameterizations
from ...plan.plan import Plan
from ...sampler.table import Table, bind
from .fit import RestartWarning, fit
from .noise import HostNoise, NoiseSampler, choose, of_shape

Callback = Callable[[dict[str, Any]], None]


def sample_restart(
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Any,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    restart: Any = "default",
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    seeds: Iterable[int] | Tensor | None = None,
    solver: str = "heun",
    budget: str = "steps",
    process: str = "ve",
    backend: str = "auto",
    restart_list: Any = None,
    eta: float = 1.0,
) -> Tensor:
    """Sample with Restart (arXiv 2306.14878, Algorithm 2), with the signature of k-diffusion samplers.

    Args:
        model: D, called as model(x, sigma [B], **extra_args), returns the denoised x.
        x: state at sigmas[0], already scaled, float [B, ...] of any number of dimensions.
        sigmas: levels, descending, with or without a final 0. Without it the run ends at the last level.
        extra_args: keyword arguments for the model. "seed" in it seeds the noise (ComfyUI).
        callback: called once for every solver step, after its first evaluation, with {"x", "i", "sigma", "sigma_hat",
            "denoised"}; i counts from 0 to `steps(…)` − 1.
        disable: no progress bar. There is one if tqdm is installed.
        restart, s_noise, solver, budget, process: see `restart_plan`. With budget "steps" there are no more evaluations
            than `solver` takes on these sigmas without Restart.
        noise_sampler: (sigma, sigma_next) → noise for a jump from sigma up to sigma_next, or for a step of a stochastic
            solver or a part of it; noise.py says which.
        seeds: one for each row of x; see noise.py.
        backend: of the fused step: auto, reference, triton or native.
        restart_list: another name of restart, as in other Restart samplers.
        eta: scale of the noise of stochastic solvers; 0 is none.

    Returns:
        The state at the end, in the dtype of x. Registers are float32 (float64 for float64 x).

    Raises:
        ConfigError: sigmas, intervals or options that cannot be read.
        SeedError: seeds that cannot be used.
        BackendError: the backend is not available.
        RestartTypeError, RestartValueError: x, or what the model returned. Errors of the model and of the callback pass
            through.

    Warns:
        RestartWarning: an interval runs differently than asked, or samples became NaN or infinite.
    """
    plan, said = fit(
        sigmas,
        restart,
        solver=solver,
        s_noise=s_noise,
        budget=budget,
        process=process,
        restart_list=restart_list,
        eta=eta,
    )
    if said:
        warnings.warn("; ".join(said), RestartWarning, stacklevel=2)
    if plan is None:
        return x
    return sample_plan(
        model, x, plan, extra_args, callback, disable, noise_sampler=noise_sampler, seeds=seeds, backend=backend
    )


@torch.no_grad()
def sample_plan(
    model: Callable[..., Tensor],
    x: Tensor,
    plan: Plan,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    *,
    noise_sampler: NoiseSampler | None = None,
    seeds: Iterable[int] | Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Run any plan of the engine with a k-diffusion model, from x at the plan's first level.

    The arguments are those of `sample_restart`.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2:
        given = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise RestartTypeError(f"x must be a floating tensor [B, ...], got {given}")
    extra_args = dict(extra_args or {})
    noise = choose(x, seeds, noise_sampler, extra_args)
    levels = replace(parameterizations.denoiser(0.0, float("inf")), process=plan.process)
    table = bind(plan, levels)
    host = None if isinstance(noise, Tensor) else HostNoise.of(table, noise)
    stepper = _stepper(x, table, noise if isinstance(noise, Tensor) else None, backend)
    state, net_in, F = stepper.machine.x, stepper.machine.net_in, None
    sigma = torch.tensor(table.sigma[1:], dtype=torch.float32).to(x.device)
    each = sigma[:, None].expand(-1, len(x)).contiguous()
    k = 0
    with _progress(len(plan.steps), disable) as tick:
        for i, step in enumerate(plan.steps):
            for stage in range(len(step.stages)):
                F = _denoised(model, net_in.clone(), each[k], extra_args)
                if stage == 0 and callback is not None:
                    at = {"sigma": sigma[k], "sigma_hat": sigma[k], "denoised": F}
                    callback({"x": state.to(x.dtype, copy=True), "i": i, **at})
                stepper.run_row(F)
                stepper.advance()
                k += 1
                added = None if host is None else host.after(k, x)
                if added is not None and table.code[k, layout.FLAGS] & layout.STORE_X:
                    state.add_(added.to(state))
                    net_in.copy_(state)
                elif added is not None:
                    net_in.add_(added.to(net_in))
            tick()
    bad = int((stepper.machine.first_bad != layout.NEVER).sum())
    if bad:  # a warning and no error: the host decides what becomes of the image
        text = f"{bad} of {len(x)} samples became NaN or infinite; look at the model's precision"
        warnings.warn(text, RestartWarning, stacklevel=2)
    return state.to(x.dtype)


def _stepper(x: Tensor, table: Table, seeds: Tensor | None, backend: str) -> restart_kernels.BoundMachine:
    """Return the fused row on new registers that hold x, at row 1: the host has made the initial state."""
    wide = torch.promote_types(x.dtype, torch.float32)
    batch, device = len(x), x.device
    state = x.to(wide, copy=True).contiguous()
    history = [torch.zeros_like(state) if j < table.registers else None for j in range(3)]
    machine = restart_kernels.Machine(
        state,
        history[0],
        x.clone(memory_format=torch.contiguous_format),
        torch.tensor(table.coef, dtype=wide).to(device),
        torch.tensor(table.code).to(device),
        torch.ones(1, dtype=torch.int32, device=device),
        torch.zeros(batch, dtype=torch.int64, device=device) if seeds is None else seeds,
        torch.full((batch,), layout.NEVER, dtype=torch.int32, device=device),
        h2=history[1],
        h3=history[2],
        noises=table.noises,
    )
    try:
        return restart_kernels.bind(machine, backend)
    except restart_kernels.KernelError as error:
        raise BackendError(str(error)) from None


def _denoised(model: Callable[..., Tensor], x: Tensor, sigma: Tensor, extra_args: dict[str, Any]) -> Tensor:
    return of_shape(model(x, sigma, **extra_args), x, "the model").contiguous()


@contextmanager
def _progress(total: int, disable: bool | None) -> Iterator[Callable[[], object]]:
    """Give a function that moves the progress bar, to be called after every step."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield lambda: None
        return
    with tqdm(total=total, disable=disable) as bar:
        yield bar.update
