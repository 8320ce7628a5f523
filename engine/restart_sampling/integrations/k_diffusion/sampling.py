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

from ...common.errors import BackendError, RestartTypeError, RestartValueError
from ...models import parameterization as parameterizations
from ...plan.plan import Plan
from ...sampler.table import Table, bind
from .fit import RestartWarning, fit
from .noise import NoiseSampler, choose

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
        noise_sampler: (sigma, sigma_next) → noise for a jump from sigma up to sigma_next.
        seeds: one for each row of x; see noise.py.
        backend: of the fused step: auto, reference, triton or native.
        restart_list: another name of restart, as in other Restart samplers.

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
        sigmas, restart, solver=solver, s_noise=s_noise, budget=budget, process=process, restart_list=restart_list
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
    if not isinstance(noise, Tensor):
        if any(step.draws for step in plan.steps):
            raise RestartValueError(
                f"solver {plan.config.solver!r} shares noise between its evaluations, which a noise_sampler "
                "cannot make; give seeds instead"
            )
        table.coef[:, layout.S] = 0.0
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
            if step.noise and not isinstance(noise, Tensor):
                pair = (step.s, step.lift_to) if step.lift_to > step.s else (step.t, step.s)
                fresh = noise(*(torch.tensor(v, dtype=torch.float32, device=x.device) for v in pair))
                state.add_(_of_shape(fresh, x, "noise_sampler").to(state), alpha=step.noise)
                net_in.copy_(state)
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
    return _of_shape(model(x, sigma, **extra_args), x, "the model").contiguous()


def _of_shape(found: Any, x: Tensor, who: str) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != x.shape:
        given = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise RestartValueError(f"{who} must return a tensor of the shape of x, {list(x.shape)}, got {given}")
    return found


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
