r"""CUDA graph capture: the few calls the graph executor needs, and the rules they keep.

Warm-up and capture run on one private side stream (library workspaces, Triton's compilation and Inductor's autotuning must be
over before a capture begins). All graphs share one private memory pool and are replayed in one stream, never concurrently.
capture_error_mode is thread_local, so a writer thread may call CUDA meanwhile. No torch RNG is used anywhere, so a replay has
no prologue to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

WARM_UPS = 3


class CudaCapture:
    """Captures functions on one CUDA device into graphs that share a pool."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool: Any = None

    def warm_up(self, body: Callable[[], None]) -> None:
        """Call `body` a few times on the capture's stream and wait for it."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UPS):
                body()
        current.wait_stream(self.stream)
        torch.cuda.synchronize(self.device)

    def capture(self, body: Callable[[], None], repeats: int) -> Callable[[], None]:
        """A function that replays `repeats` calls of `body` in one launch.

        Raises whatever the capture raised; the stream is out of capture mode then.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            for _ in range(repeats):
                body()
        self.pool = graph.pool()
        return graph.replay
