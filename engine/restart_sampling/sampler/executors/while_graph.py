r"""A trajectory as one WHILE node (experimental): one launch for a batch, one capture for all plans.

    outer graph:  WHILE(condition) { evaluation (a captured child graph) → condition ← any cursor ≥ 0 }

The condition's handle belongs to the outer graph and is 1 at every launch; the kernel at the end of the body reads the
cursors on the device (`restart_kernels.row.condition`). PyTorch has no call for this before 2.15, so the outer graph is
made with cuda.bindings of CUDA 12 (from 12.3) or 13. Captures are checked and replaced as in `graph.py`. Over
graph="loop" it saves a few host launches for each batch; it needs a driver that links `cudaGraphSetConditional`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...common.errors import BackendError
from .capture import CudaCapture
from .captured import UNTIL_IDLE, Captured
from .evaluation import Evaluation

BLOCK = 128  # cursors that the condition's kernel reads at a time


class WhileCapture(CudaCapture):
    """Captures UNTIL_IDLE as a WHILE node; numbers of evaluations as :class:`CudaCapture` does."""

    def __init__(self, device: torch.device) -> None:
        self.runtime = import_runtime()
        super().__init__(device)

    def capture(self, body: Evaluation, repeats: int) -> Captured:
        """Capture `repeats` calls of `body`, or a loop of calls until every lane is idle."""
        if repeats != UNTIL_IDLE:
            return super().capture(body, repeats)
        free = self._free_memory()
        evaluation = self._graph(body, 1, keep_graph=True)
        with torch.cuda.device(self.device):
            whole = WhileGraph(self.runtime, self.stream, evaluation, body.machine.cursor)
        taken = free - torch.cuda.mem_get_info(self.device)[0]
        return Captured(whole, self._nodes(evaluation), max(0, taken))


class WhileGraph:
    """An instantiated WHILE graph around a captured evaluation; calling it runs it on the current stream.

    Raises:
        BackendError: a call of the CUDA runtime failed; the message names it.
    """

    def __init__(
        self, runtime: Any, stream: torch.cuda.Stream, evaluation: torch.cuda.CUDAGraph, cursor: Tensor
    ) -> None:
        self.runtime, self.evaluation, self.cursor = runtime, evaluation, cursor  # the graph uses them: keep them alive
        self.graph = self.launchable = None
        self.handle = torch.zeros(1, dtype=torch.int64, device=cursor.device)
        rt = runtime
        with torch.cuda.stream(stream):
            launch_condition(self.handle, cursor)  # loads the module, which must not happen in a capture
        torch.cuda.synchronize(cursor.device)

        self.graph = self._call("cudaGraphCreate", 0)
        always = rt.cudaGraphConditionalHandleFlags.cudaGraphCondAssignDefault
        handle = self._call("cudaGraphConditionalHandleCreate", self.graph, 1, always)
        node = rt.cudaGraphNodeParams()
        node.type = rt.cudaGraphNodeType.cudaGraphNodeTypeConditional
        node.conditional.handle = handle
        node.conditional.type = rt.cudaGraphConditionalNodeType.cudaGraphCondTypeWhile
        node.conditional.size = 1
        # CUDA 12 has this call with five arguments as _v2, CUDA 13 under the plain name.
        add_node = "cudaGraphAddNode_v2" if hasattr(rt, "cudaGraphAddNode_v2") else "cudaGraphAddNode"
        self._call(add_node, self.graph, None, None, 0, node)
        body = node.conditional.phGraph_out[0]
        child = self._call("cudaGraphAddChildGraphNode", body, None, 0, evaluation.raw_cuda_graph())

        mode = rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with torch.cuda.stream(stream):
            self._call("cudaStreamBeginCaptureToGraph", stream.cuda_stream, body, [child], None, 1, mode)
            try:
                launch_condition(self.handle, cursor)
            finally:
                self._call("cudaStreamEndCapture", stream.cuda_stream)
        value = int(handle)
        self.handle.fill_(value - 2**64 if value >= 2**63 else value)
        self.launchable = self._call("cudaGraphInstantiate", self.graph, 0)

    def __call__(self) -> None:
        # The default stream's handle is 0 on every device, and means the one of the current device.
        with torch.cuda.device(self.cursor.device):
            stream = torch.cuda.current_stream(self.cursor.device)
            self._call("cudaGraphLaunch", self.launchable, stream.cuda_stream)

    def __del__(self) -> None:
        if self.launchable is not None:
            self.runtime.cudaGraphExecDestroy(self.launchable)
        if self.graph is not None:
            self.runtime.cudaGraphDestroy(self.graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the CUDA runtime and return the value; it gives (error, value) or (error,)."""
        error, *values = getattr(self.runtime, name)(*arguments)
        if int(error) != 0:
            raise BackendError(f"{name} failed with {getattr(error, 'name', error)}")
        return values[0] if values else None


def launch_condition(handle: Tensor, cursor: Tensor) -> None:
    """Launch the kernel at the end of the body on the current stream."""
    from restart_kernels.row.condition import condition_kernel

    with torch.cuda.device(cursor.device):
        condition_kernel[(1,)](handle, cursor, cursor.shape[0], BLOCK=BLOCK, num_warps=1)


def import_runtime() -> Any:
    """Return cuda.bindings.runtime with conditional nodes.

    Raises:
        BackendError: it is not installed, or too old.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError(
            f"graph='while' (experimental) needs the package cuda-bindings ({error}); use graph='loop'"
        ) from None
    if not hasattr(runtime, "cudaStreamBeginCaptureToGraph"):
        raise BackendError(
            "graph='while' (experimental) needs cuda-bindings 12.3 or newer, for conditional nodes; use graph='loop'"
        )
    return runtime
