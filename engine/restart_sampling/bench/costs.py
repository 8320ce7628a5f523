r"""What a draw costs beside time: launches, bytes, memory, and how long the first sample takes.

launches_per_evaluation   outside the network, a batch's own spread over its evaluations. CPU: operators that torch dispatches,
                          views too, and calls of the native step. CUDA: kernels and copies, those of the network taken
                          off.
bytes_per_evaluation      what the engine's steps read and write for a batch, by the plan's rows (float32 registers, no caches);
                          None for other makers, whose temporaries only a profiler knows.
first_result_s            to build everything anew and draw one sample, at this budget. On CUDA compiling is in it, and capturing.
peak_memory_mb            of building anew and drawing a batch. CUDA: reserved by PyTorch. CPU: the most bytes that tensors made
                          meanwhile held at once, on one thread; what an operator needs inside itself is not in it.

Classes are given, so drawing them is not in any figure. Memory does not depend on the number of evaluations, so it is
taken at the first budget of SMALL that the contender can use."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from restart_kernels import get_backend

from ..denoiser import Denoiser
from ..devices import made_current
from ..profiling import step_bytes, torch_profiler
from .engine import EngineRunner
from .rows import Row
from .samplers import Contender, Runner
from .timing import threads

SMALL = (5, 9, 18)


def of(
    contender: Contender, runner: Runner, denoiser: Denoiser, nfe: int, batch: int, dtype: str, restart: Any = None
) -> Row:
    """The cost fields of a speed row.

    `runner` has drawn before, so that nothing is compiled while launches are counted.
    """
    labels = labels_for(denoiser, batch)
    cuda = denoiser.device.type == "cuda"
    memory = _cuda_memory if cuda else _cpu_memory

    def draw(budget: int, n: int) -> bool:
        made = build(contender, denoiser, budget, n, dtype, restart)
        if made is None:
            return False
        made.draw(range(n), None if labels is None else labels[:n])
        synchronize(denoiser.device)
        return True

    small = next((b for b in SMALL if b <= nfe and build(contender, denoiser, b, 1, dtype, restart)), nfe)
    return {
        "launches_per_evaluation": (_cuda_launches if cuda else _cpu_launches)(runner, batch, labels),
        "bytes_per_evaluation": moved_bytes(runner, batch),
        "first_result_s": _seconds(lambda: draw(nfe, 1)),
        "peak_memory_mb": memory(lambda: draw(small, batch), denoiser.device) / 1e6,
    }


def build(
    contender: Contender, denoiser: Denoiser, nfe: int, batch: int, dtype: str, restart: Any = None
) -> Runner | None:
    """The contender's runner, with the interval `restart` if it has one."""
    return contender.with_restart(restart).runner(denoiser, nfe, batch_size=batch, dtype=dtype)


def labels_for(denoiser: Denoiser, n: int) -> Tensor | None:
    """Classes of n samples, in turn; None where there are none."""
    return torch.arange(n) % denoiser.label_dim if denoiser.label_dim else None


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def moved_bytes(runner: Runner, batch: int) -> float | None:
    """Bytes that an evaluation of a batch moves outside the network, a mean over the plan's rows."""
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


class _Uncounted:
    """A network whose operators are not counted."""

    def __init__(self, network: Any, operators: Operators) -> None:
        self.network, self.operators = network, operators

    def __call__(self, *arguments: Any) -> Tensor:
        self.operators.paused = True
        try:
            return self.network(*arguments)
        finally:
            self.operators.paused = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


class _Counted:
    """A bound machine of a fused backend, whose calls dispatch no operator."""

    def __init__(self, stepper: Any, operators: Operators) -> None:
        self.stepper, self.operators = stepper, operators

    def run_row(self, *arguments: Any) -> None:
        self.operators.count += 1
        self.stepper.run_row(*arguments)

    def advance(self) -> None:
        self.operators.count += 1
        self.stepper.advance()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stepper, name)


def _cpu_launches(runner: Runner, batch: int, labels: Tensor | None) -> float:
    """On one thread: a mode sees its own thread only, and a batch is not cut into slices then."""
    operators = Operators()
    network, counted = runner.network, _Uncounted(runner.network, operators)
    wrapped: list[tuple[Any, Any, Any]] = []
    with threads(1):
        if isinstance(runner, EngineRunner):
            runner.draw(range(batch), labels)  # its buffers for a whole batch are made here
            wrapped = [(e, e.network, e.stepper) for e in runner.sampler.evaluations()]
            fused = get_backend(runner.sampler.backend).fused
        runner.network = counted
        for evaluation, _, stepper in wrapped:
            evaluation.network = counted
            evaluation.stepper = _Counted(stepper, operators) if fused else stepper
        try:
            with operators:
                runner.draw(range(batch), labels)
        finally:
            runner.network = network
            for evaluation, inner, stepper in wrapped:
                evaluation.network, evaluation.stepper = inner, stepper
    return operators.count / runner.nfe


def _cuda_launches(runner: Runner, batch: int, labels: Tensor | None) -> float:
    inputs = _network_inputs(runner, batch)
    device = inputs[0].device
    with made_current(device):
        drawn = _kernels(lambda: runner.draw(range(batch), labels), device)
        alone = _kernels(lambda: runner.network(*inputs), device)
    return drawn / runner.nfe - alone


def _kernels(work: Callable[[], object], device: torch.device) -> int:
    """Kernels, copies and fills that the GPU `device` runs for `work`."""
    activity = torch.profiler.ProfilerActivity
    with torch.inference_mode():
        work()
        synchronize(device)
        with torch_profiler(activities=[activity.CUDA, activity.CPU]) as recorded:
            work()
            synchronize(device)
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in recorded.events())


def network_alone(runner: Runner, device: torch.device, calls: int = 20) -> float:
    """Seconds of one network call on CUDA, run the way the runner runs it: replayed from a graph, or launched one by
    one.
    """
    batch = runner.sampler.batch_size if isinstance(runner, EngineRunner) else getattr(runner, "batch_size", 1)
    inputs = _network_inputs(runner, batch)
    run: Callable[[], object] = lambda: runner.network(*inputs)  # noqa: E731
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


def _network_inputs(runner: Runner, batch: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input of the shapes and dtypes that the runner feeds."""
    owner: Any = runner.sampler if isinstance(runner, EngineRunner) else runner
    denoiser: Denoiser = owner.denoiser
    with torch.inference_mode():
        net_in = torch.randn(batch, *denoiser.shape, device=denoiser.device).to(owner.net_dtype)
        hot = torch.zeros(batch, denoiser.label_dim, device=denoiser.device) if denoiser.label_dim else None
        return net_in, torch.zeros(1, device=denoiser.device), hot


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _cuda_memory(work: Callable[[], object], device: torch.device) -> float:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return float(torch.cuda.max_memory_reserved(device))


class Held(TorchDispatchMode):
    """Adds up the bytes of the storages that tensors made meanwhile hold; `most` is the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self.users: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._add(tensor, given)
        return result

    def _add(self, tensor: Tensor, given: set[int]) -> None:
        storage = _storage(tensor)
        known = storage in self.users
        if not storage or (storage in given and not known):
            return  # nothing, or a view of what was there before
        if not known:
            self.held += tensor.untyped_storage().nbytes()
            self.most = max(self.most, self.held)
        self.users[storage] = self.users.get(storage, 0) + 1
        weakref.finalize(tensor, self._drop, storage, tensor.untyped_storage().nbytes())

    def _drop(self, storage: int, size: int) -> None:
        self.users[storage] -= 1
        if not self.users[storage]:
            del self.users[storage]
            self.held -= size


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _cpu_memory(work: Callable[[], object], device: torch.device) -> float:
    held = Held()
    with threads(1), held:
        work()
    return float(held.most)
