r"""CUDA graph capture: the few calls the graph executor needs, and the rules they keep.

Warm-up and capture run on one private side stream (library workspaces, Triton's compilation and Inductor's autotuning
must be over before a capture begins). All graphs alive share one private memory pool and are replayed in one stream,
never concurrently; nothing in the pool outlives a replay, so their order is free. capture_error_mode is thread_local,
so a writer thread may call CUDA meanwhile. No torch RNG is used anywhere, so a replay has no prologue to lose.

cuBLAS takes a workspace for each stream from PyTorch's allocator. Workspaces are cleared before a capture, so that the
one it uses comes from the pool and lives as long as the graph, and after it, so that nothing else keeps using memory of
the pool.

A capture that fails leaves three things behind, which are put right here: the stream is still the current one, the
allocator still waits for the end of the capture, and so does the device's random generator, which would refuse every
later torch.randn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any
from weakref import WeakSet

import torch

from .evaluation import Evaluation
from .graph import Captured

WARM_UPS = 3


class CudaCapture:
    """Captures functions on one CUDA device into graphs that share a pool."""

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.stream = torch.cuda.Stream(self.device)
        self._alive: WeakSet[torch.cuda.CUDAGraph] = WeakSet()
        self._runtime = _runtime()
        self._scratch = torch.zeros(1, device=self.device)

    def warm_up(self, body: Callable[[], None]) -> None:
        """Call `body` a few times on the capture's stream and wait for it."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                body()
        current.wait_stream(self.stream)
        torch.cuda.synchronize(self.device)

    def capture(self, body: Evaluation, repeats: int) -> Captured:
        """Capture `repeats` calls of `body`; the result replays them in one launch, on the stream that is current then."""
        free = self._free_memory()
        graph = self._graph(body, repeats, keep_graph=self._runtime is not None)
        if self._runtime is not None:
            graph.instantiate()
        taken = free - torch.cuda.mem_get_info(self.device)[0]
        return Captured(graph.replay, self._nodes(graph), max(0, taken))

    def _graph(self, body: Evaluation, repeats: int, keep_graph: bool) -> torch.cuda.CUDAGraph:
        """The captured calls. Raises whatever the capture raised; the device is as before then."""
        graph = torch.cuda.CUDAGraph(keep_graph=keep_graph)
        sharing = next(iter(self._alive), None)  # a pool dies with its last graph
        pool = torch.cuda.graph_pool_handle() if sharing is None else sharing.pool()
        failed: BaseException | None = None
        # A capture that fails raises before it leaves its stream: the outer context does that.
        with torch.cuda.stream(self.stream), cleared_workspaces():
            try:
                with torch.cuda.graph(graph, pool, self.stream, capture_error_mode="thread_local"):
                    try:
                        for _ in range(repeats):
                            body()
                    except BaseException as error:  # an interrupt too: it is raised again, here or below
                        failed = error
                        raise
            except Exception as error:
                failed = failed or error  # the end of a broken capture raises too, and says less
                graph.reset()
                self._stop_allocating(pool)
                self._release_generator()
        if failed is not None:
            # Not in the handler above, whose error holds the frames of this one, and would be held by it: such a ring
            # keeps the network's activations until the next garbage collection. So does an error that a frame of its
            # own refers to.
            try:
                raise failed
            finally:
                failed = None
        self._alive.add(graph)
        return graph

    def _stop_allocating(self, pool: Any) -> None:
        """After a capture that CUDA ended: the allocator still waits for its end, and would refuse to free memory."""
        with suppress(RuntimeError):  # it was ended
            torch._C._cuda_endAllocateToPool(self.device.index, pool)
            torch._C._cuda_releasePool(self.device.index, pool)

    def _release_generator(self) -> None:
        """After a capture that CUDA ended: capture one operation, whose proper end the device's generator takes for its
        own.
        """
        with suppress(RuntimeError):  # a device that cannot even do this says so at the next call
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._scratch.zero_()
            graph.reset()

    def _free_memory(self) -> int:
        """Bytes free on the device when PyTorch's allocator keeps none in reserve."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.device)[0])

    def _nodes(self, graph: torch.cuda.CUDAGraph) -> int | None:
        """Nodes of a graph that was kept, if cuda-bindings is there to count them."""
        if self._runtime is None:
            return None
        error, *values = self._runtime.cudaGraphGetNodes(graph.raw_cuda_graph(), 0)
        return int(values[-1]) if int(error) == 0 else None


@contextmanager
def cleared_workspaces() -> Iterator[None]:
    """Let go of PyTorch's cuBLAS workspaces before and after."""
    clear: Callable[[], None] = getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)
    clear()
    try:
        yield
    finally:
        clear()


def _runtime() -> ModuleType | None:
    """cuda.bindings.runtime, which PyTorch's wheels for CUDA bring along; None where it is missing."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return None
    return runtime
