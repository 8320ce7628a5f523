r"""CUDA graph capture: the few calls that the graph executor needs, and the rules they follow.

Warm-up and capture run on one private side stream, since library workspaces, Triton's compilation and Inductor's
autotuning must be over before a capture begins. All live graphs share one private memory pool. They are replayed in one
stream, never concurrently, and nothing in the pool is read after a replay, so graphs may be replayed in any order.
capture_error_mode is thread_local: a writer thread may call CUDA meanwhile. No torch RNG is used anywhere, so a replay
needs no RNG state update.

cuBLAS takes a workspace for each stream from PyTorch's allocator. Workspaces are cleared before a capture, so that the
one it uses comes from the pool and lives as long as the graph, and after it, so that nothing else uses memory of the
pool.

A capture that fails leaves three things behind, which are put right here: its stream is still the current one, the
allocator still waits for the end of the capture, and so does the device's random generator, which would refuse every
later torch.randn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any
from weakref import WeakSet

import torch

from .captured import Captured
from .evaluation import Evaluation

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
        """Capture `repeats` calls of `body`; a replay is one launch, on the stream that is current then."""
        free = self._free_memory()
        graph = self._graph(body, repeats, keep_graph=self._runtime is not None)
        if self._runtime is not None:
            graph.instantiate()
        taken = free - torch.cuda.mem_get_info(self.device)[0]
        return Captured(graph.replay, self._nodes(graph), max(0, taken))

    def _graph(self, body: Evaluation, repeats: int, keep_graph: bool) -> torch.cuda.CUDAGraph:
        """Return the captured calls. Raises what the capture raised, with the device as it was before."""
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
                    except BaseException as error:  # all, interrupts too: it is raised again, here or below
                        failed = error
                        raise
            except Exception as error:  # all: whatever the body raised is raised again below
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
        """Tell the allocator that a broken capture is over, or it would refuse to free memory."""
        with suppress(RuntimeError):  # it knows already
            torch._C._cuda_endAllocateToPool(self.device.index, pool)
            torch._C._cuda_releasePool(self.device.index, pool)

    def _release_generator(self) -> None:
        """Tell the device's random generator that a broken capture is over, by a capture that ends properly."""
        with suppress(RuntimeError):  # a device that cannot do even this raises at the next call
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self._scratch.zero_()
            graph.reset()

    def _free_memory(self) -> int:
        """Return the bytes that are free on the device when PyTorch's allocator has none in reserve."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.device)[0])

    def _nodes(self, graph: torch.cuda.CUDAGraph) -> int | None:
        """Return the number of nodes of a graph, or None without cuda-bindings, which counts them."""
        if self._runtime is None:
            return None
        error, *values = self._runtime.cudaGraphGetNodes(graph.raw_cuda_graph(), 0)
        return int(values[-1]) if int(error) == 0 else None


@contextmanager
def cleared_workspaces() -> Iterator[None]:
    """Clear PyTorch's cuBLAS workspaces before and after."""
    clear: Callable[[], None] = getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)
    clear()
    try:
        yield
    finally:
        clear()


def _runtime() -> ModuleType | None:
    """Return cuda.bindings.runtime, which comes with PyTorch's wheels for CUDA, or None where it is missing."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return None
    return runtime
