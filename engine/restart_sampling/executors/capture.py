r"""CUDA graph capture: the few calls the graph executor needs, and the rules they keep.

Warm-up and capture run on one private side stream (library workspaces, Triton's compilation and Inductor's autotuning must be
over before a capture begins). All graphs alive share one private memory pool and are replayed in one stream, never
concurrently; nothing in the pool outlives a replay, so their order is free. capture_error_mode is thread_local, so a writer
thread may call CUDA meanwhile. No torch RNG is used anywhere, so a replay has no prologue to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import torch

from .evaluation import Evaluation

WARM_UPS = 3


class CudaCapture:
    """Captures functions on one CUDA device into graphs that share a pool."""

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self.stream = torch.cuda.Stream(self.device)
        self._alive: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def warm_up(self, body: Callable[[], None]) -> None:
        """Call `body` a few times on the capture's stream and wait for it."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                body()
        current.wait_stream(self.stream)
        torch.cuda.synchronize(self.device)

    def capture(self, body: Evaluation, repeats: int) -> Callable[[], None]:
        """A function that replays `repeats` calls of `body` in one launch, on the stream that is current then."""
        return self._graph(body, repeats).replay

    def _graph(self, body: Evaluation, repeats: int, keep_graph: bool = False) -> torch.cuda.CUDAGraph:
        """The captured calls. Raises whatever the capture raised; the device is as before then."""
        graph, first_error = torch.cuda.CUDAGraph(keep_graph=keep_graph), None
        sharing = next(iter(self._alive), None)  # a pool dies with its last graph
        pool = torch.cuda.graph_pool_handle() if sharing is None else sharing.pool()
        # A capture that fails raises before it leaves its stream: the outer context does that.
        with torch.cuda.stream(self.stream):
            try:
                with torch.cuda.graph(graph, pool, self.stream, capture_error_mode="thread_local"):
                    try:
                        for _ in range(repeats):
                            body()
                    except Exception as error:
                        first_error = error
                        raise
            except Exception as error:
                graph.reset()
                self._stop_allocating(pool)
                raise (first_error or error) from None
        self._alive.add(graph)
        return graph

    def _stop_allocating(self, pool: Any) -> None:
        """After a capture that CUDA ended: the allocator still waits for its end, and would refuse to free memory."""
        with suppress(RuntimeError):  # it was ended
            torch._C._cuda_endAllocateToPool(self.device.index, pool)
            torch._C._cuda_releasePool(self.device.index, pool)
