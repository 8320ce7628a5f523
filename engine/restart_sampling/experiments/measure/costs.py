r"""Costs of a draw beside time: launches, bytes, memory, and how long the first sample takes.

launches_per_evaluation   outside the network; those of a whole batch are spread over its evaluations. On a CPU they are
                          operators that torch dispatches, views too, and calls of the native step. On CUDA they are
                          kernels and copies less those of the network.
bytes_per_evaluation      what the fused update reads and writes for a batch, by the plan's rows (traffic.py); None for
                          other makers, whose temporaries only a profiler knows.
first_result_s            to build everything anew and draw one sample at this budget; on CUDA with compiling and
                          capturing.
peak_memory_mb            of building anew and drawing a batch (memory.py).

Classes are given, so drawing them is in no figure. Memory does not depend on the number of evaluations, so it is
measured at the first budget of SMALL that the candidate can use.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from restart_kernels import get_backend

from ...common.devices import made_current
from ...common.torch_profiler import torch_profiler
from ...models.conditions import CLASS, placeholders
from ...models.denoiser import Denoiser
from ...sampler.executors import Observer
from .candidate import Candidate, Runner
from .engine import EngineRunner
from .memory import peak_bytes
from .rows import Row
from .timing import threads
from .traffic import step_bytes

SMALL = (5, 9, 18)


def of(
    candidate: Candidate, runner: Runner, denoiser: Denoiser, nfe: int, batch: int, dtype: str, restart: Any = None
) -> Row:
    """Return the cost fields of a speed row.

    `runner` has drawn before, so that nothing is compiled while launches are counted.
    """
    labels = labels_for(denoiser, batch)
    cuda = denoiser.device.type == "cuda"

    def draw(budget: int, n: int) -> bool:
        made = build(candidate, denoiser, budget, n, dtype, restart)
        if made is None:
            return False
        made.draw(range(n), None if labels is None else labels[:n])
        synchronize(denoiser.device)
        return True

    small = next((b for b in SMALL if b <= nfe and build(candidate, denoiser, b, 1, dtype, restart)), nfe)
    return {
        "launches_per_evaluation": (_cuda_launches if cuda else _cpu_launches)(runner, batch, labels),
        "bytes_per_evaluation": moved_bytes(runner, batch),
        "first_result_s": _seconds(lambda: draw(nfe, 1)),
        "peak_memory_mb": peak_bytes(lambda: draw(small, batch), denoiser.device) / 1e6,
    }


def build(
    candidate: Candidate, denoiser: Denoiser, nfe: int, batch: int, dtype: str, restart: Any = None
) -> Runner | None:
    """Return the candidate's runner, with the interval `restart` if it has one; None if nothing fits."""
    return candidate.with_restart(restart).runner(denoiser, nfe, batch_size=batch, dtype=dtype)


def labels_for(denoiser: Denoiser, n: int) -> Tensor | None:
    """Return the classes of n samples, in turn, or None for a network without classes."""
    return torch.arange(n) % denoiser.label_dim if denoiser.label_dim else None


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def moved_bytes(runner: Runner, batch: int) -> float | None:
    """Return the bytes that an evaluation of a batch moves outside the network, a mean over the plan's rows."""
    if not isinstance(runner, EngineRunner):
        return None
    sampler = runner.sampler
    size = sampler.net_dtype.itemsize
    rows = step_bytes(sampler.table, size, size)
    return sum(rows) / runner.nfe * sampler.denoiser.numel * batch


class Operators(TorchDispatchMode):
    """Counts what torch dispatches; `paused` while the network runs."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.paused = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not self.paused
        return func(*args, **(kwargs or {}))


class _Outside(Observer):
    """Stops the count while the network runs, and counts the launches of a fused backend, which dispatch nothing."""

    def __init__(self, operators: Operators, fused: bool) -> None:
        self.operators, self.fused = operators, fused

    def before(self, part: str, evaluation: object) -> None:
        self.operators.paused = part == "network"

    def after(self, part: str, evaluation: object, F: Tensor | None = None) -> None:
        self.operators.paused = False
        self.operators.count += self.fused and part != "network"


def _cpu_launches(runner: Runner, batch: int, labels: Tensor | None) -> float:
    """Return the launches on one thread: a mode sees its own thread only, and a batch is not cut into slices then."""
    operators, fused = Operators(), False
    with threads(1):
        if isinstance(runner, EngineRunner):
            runner.draw(range(batch), labels)  # makes the buffers of a whole batch
            fused = get_backend(runner.sampler.backend).fused
        with runner.observed(_Outside(operators, fused)), operators:
            runner.draw(range(batch), labels)
    return operators.count / runner.nfe


def _cuda_launches(runner: Runner, batch: int, labels: Tensor | None) -> float:
    inputs, told = _network_inputs(runner, batch)
    device = inputs[0].device
    with made_current(device):
        drawn = _kernels(lambda: runner.draw(range(batch), labels), device)
        alone = _kernels(lambda: runner.network(*inputs, **told), device)
    return drawn / runner.nfe - alone


def _kernels(work: Callable[[], object], device: torch.device) -> int:
    """Return how many kernels, copies and fills the GPU `device` runs for `work`."""
    activity = torch.profiler.ProfilerActivity
    with torch.inference_mode():
        work()
        synchronize(device)
        with torch_profiler(activities=[activity.CUDA, activity.CPU]) as recorded:
            work()
            synchronize(device)
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in recorded.events())


def network_alone(runner: Runner, device: torch.device, calls: int = 20) -> float:
    """Return the seconds of one network call on CUDA, replayed from a graph or launched, as the runner does it."""
    batch = runner.sampler.batch_size if isinstance(runner, EngineRunner) else getattr(runner, "batch_size", 1)
    inputs, told = _network_inputs(runner, batch)
    run: Callable[[], object] = lambda: runner.network(*inputs, **told)  # noqa: E731
    with torch.inference_mode(), made_current(device):
        for _ in range(3):
            run()
        if isinstance(runner, EngineRunner) and runner.sampler.executor.name != "off":
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize(device)
            with torch.cuda.graph(graph):
                run()
            run = graph.replay
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(calls):
            run()
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / calls


def _network_inputs(runner: Runner, batch: int) -> tuple[tuple[Tensor, Tensor, Tensor | None], dict[str, Tensor]]:
    """Return inputs of the shapes and dtypes that the runner gives to the network: in order, and by name."""
    owner: Any = runner.sampler if isinstance(runner, EngineRunner) else runner
    denoiser: Denoiser = owner.denoiser
    with torch.inference_mode():
        net_in = torch.randn(batch, *denoiser.shape, device=denoiser.device).to(owner.net_dtype)
        told = placeholders(denoiser.conditions, batch, denoiser.device)
        return (net_in, torch.zeros(1, device=denoiser.device), told.pop(CLASS, None)), told


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
