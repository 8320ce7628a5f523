"""graph="while" as far as it can be shown without a GPU: the condition's kernel compiles, and the graph is built in the
order that CUDA wants, with the calls of both generations of cuda.bindings. What it does on a GPU is in test_graph.py."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import types
from enum import IntEnum
from pathlib import Path

import pytest
import torch

import restart_sampling as rs
from restart_sampling.executors import while_graph

COMPILE = """
import json
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from restart_kernels.condition import condition_kernel
names = condition_kernel.arg_names
types = {"handle_ptr": "*i64", "cursor_ptr": "*i32", "n": "i32", "BLOCK": "constexpr"}
attrs = {(i,): [["tt.divisibility", 16]] for i in (0, 1)}
for arch in (80, 90):
    source = ASTSource(condition_kernel, signature=types, constexprs={"BLOCK": 128}, attrs=attrs)
    kernel = compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 1})
    print(json.dumps({"names": names, "ptx": kernel.asm["ptx"], "shared": kernel.metadata.shared,
                      "cubin": b"cudaGraphSetConditional" in kernel.asm["cubin"]}))
"""


def test_the_condition_compiles_without_a_gpu():
    """The call is in the PTX, its symbol in the cubin for the driver to link; one warp, no shared memory."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(rs.__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(
        str(root / name) for name in ("engine", "kernels", "bindings")
    )
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for report in map(json.loads, done.stdout.splitlines()):
        assert report["names"] == ["handle_ptr", "cursor_ptr", "n", "BLOCK"]
        assert re.search(r"\.extern \.func .*cudaGraphSetConditional", report["ptx"])
        assert report["ptx"].count("call.uni") == 1
        assert (report["cubin"], report["shared"]) == (True, 0)


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorNotSupported = 801


class Runtime:
    """Stands in for cuda.bindings.runtime: records calls, checks what depends on what."""

    cudaGraphConditionalHandleFlags = types.SimpleNamespace(cudaGraphCondAssignDefault=1)
    cudaGraphNodeType = types.SimpleNamespace(cudaGraphNodeTypeConditional=13)
    cudaGraphConditionalNodeType = types.SimpleNamespace(cudaGraphCondTypeWhile=1)
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    HANDLE = 2**63 + 7  # unsigned, and does not fit a signed 64-bit integer

    def __init__(self, fails=()):
        self.calls, self.fails = [], fails

    def _done(self, name, *values):
        self.calls.append(name)
        return (Error.cudaErrorNotSupported, None) if name in self.fails else (Error.cudaSuccess, *values)

    def cudaGraphNodeParams(self):
        conditional = types.SimpleNamespace(handle=None, type=None, size=0, phGraph_out=[None])
        return types.SimpleNamespace(type=None, conditional=conditional)

    def cudaGraphCreate(self, flags):
        return self._done("cudaGraphCreate", "outer")

    def cudaGraphConditionalHandleCreate(self, graph, default, flags):
        assert (graph, default, flags) == ("outer", 1, 1)
        return self._done("cudaGraphConditionalHandleCreate", self.HANDLE)

    def cudaGraphAddNode(self, graph, dependencies, data, n, node):
        c = node.conditional
        assert (graph, dependencies, data, n) == ("outer", None, None, 0)
        assert (node.type, c.handle, c.type, c.size) == (13, self.HANDLE, 1, 1)
        c.phGraph_out = ["body"]
        return self._done("cudaGraphAddNode", "node")

    def cudaGraphAddChildGraphNode(self, graph, dependencies, n, child):
        assert (graph, dependencies, n, child) == ("body", None, 0, 1234)
        return self._done("cudaGraphAddChildGraphNode", "child")

    def cudaStreamBeginCaptureToGraph(self, stream, graph, dependencies, data, n, mode):
        assert (stream, graph, dependencies, data, n, mode) == (55, "body", ["child"], None, 1, 1)
        return self._done("cudaStreamBeginCaptureToGraph")

    def cudaStreamEndCapture(self, stream):
        return self._done("cudaStreamEndCapture", "body")

    def cudaGraphInstantiate(self, graph, flags):
        assert (graph, flags) == ("outer", 0)
        return self._done("cudaGraphInstantiate", "launchable")

    def cudaGraphLaunch(self, launchable, stream):
        assert (launchable, stream) == ("launchable", 55)
        return self._done("cudaGraphLaunch")

    def cudaGraphExecDestroy(self, launchable):
        return self._done("cudaGraphExecDestroy")

    def cudaGraphDestroy(self, graph):
        return self._done("cudaGraphDestroy")


class Runtime12(Runtime):
    """CUDA 12: the call with edge data is a version of its own."""

    def cudaGraphAddNode_v2(self, *arguments):
        return super().cudaGraphAddNode(*arguments)

    def cudaGraphAddNode(self, graph, dependencies, n, node):
        raise AssertionError("this one takes no edge data")


BUILT = [
    "launch, handle 0", "cudaGraphCreate", "cudaGraphConditionalHandleCreate", "cudaGraphAddNode",
    "cudaGraphAddChildGraphNode", "cudaStreamBeginCaptureToGraph", "launch, handle 0", "cudaStreamEndCapture",
    "cudaGraphInstantiate",
]  # fmt: skip


@pytest.fixture
def build(monkeypatch):
    """WhileGraph on a runtime that is not there; a launch of the condition is recorded with the handle it saw."""
    stream = types.SimpleNamespace(cuda_stream=55)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda d: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda d: stream)
    evaluation = types.SimpleNamespace(raw_cuda_graph=lambda: 1234)

    def build(runtime):
        monkeypatch.setattr(
            while_graph, "launch_condition", lambda h, c: runtime.calls.append(f"launch, handle {int(h)}")
        )
        return while_graph.WhileGraph(runtime, stream, evaluation, torch.zeros(1, dtype=torch.int32))

    return build


@pytest.mark.parametrize("runtime", [Runtime, Runtime12])
def test_the_graph_is_built_in_order_and_launched_as_a_whole(build, runtime):
    rt = runtime()
    graph = build(rt)
    assert rt.calls == BUILT
    assert graph.handle.item() % 2**64 == rt.HANDLE
    graph()
    graph()
    del graph
    assert rt.calls[len(BUILT) :] == ["cudaGraphLaunch"] * 2 + ["cudaGraphExecDestroy", "cudaGraphDestroy"]


@pytest.mark.parametrize("failing", [name for name in BUILT if name.startswith("cuda")])
def test_a_call_that_fails_is_named_and_leaves_nothing_behind(build, failing):
    rt = Runtime(fails=(failing,))
    with pytest.raises(rs.RestartError, match=f"{failing} failed with cudaErrorNotSupported"):
        build(rt)
    assert ("cudaGraphDestroy" in rt.calls) == (failing != "cudaGraphCreate")
    assert "cudaGraphExecDestroy" not in rt.calls
    assert ("cudaStreamBeginCaptureToGraph" in rt.calls and failing != "cudaStreamBeginCaptureToGraph") == (
        "cudaStreamEndCapture" in rt.calls
    )


def test_a_missing_or_old_package_is_a_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(rs.RestartError, match="needs the package cuda-bindings"):
        while_graph.import_runtime()
    old = types.ModuleType("cuda.bindings")
    old.runtime = types.ModuleType("cuda.bindings.runtime")
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", old)
    with pytest.raises(rs.RestartError, match=r"12\.3 or newer"):
        while_graph.import_runtime()


def test_the_calls_exist_in_the_package():
    """Names and numbers of arguments, where cuda-bindings is installed; nothing is called."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    add_node = "cudaGraphAddNode_v2" if hasattr(runtime, "cudaGraphAddNode_v2") else "cudaGraphAddNode"
    arguments = {
        "cudaGraphCreate": 1, "cudaGraphConditionalHandleCreate": 3, add_node: 5, "cudaGraphAddChildGraphNode": 4,
        "cudaStreamBeginCaptureToGraph": 6, "cudaStreamEndCapture": 1, "cudaGraphInstantiate": 2, "cudaGraphLaunch": 2,
        "cudaGraphExecDestroy": 1, "cudaGraphDestroy": 1,
    }  # fmt: skip
    for name, count in arguments.items():
        signature = getattr(runtime, name).__doc__.splitlines()[0]
        depth, commas = 0, 0
        for character in signature[signature.index("(") + 1 : signature.rindex(")")]:
            depth += (character in "[(") - (character in "])")
            commas += character == "," and depth == 0
        assert commas + 1 == count, signature
    node = runtime.cudaGraphNodeParams()
    node.type = runtime.cudaGraphNodeType.cudaGraphNodeTypeConditional
    node.conditional.type = runtime.cudaGraphConditionalNodeType.cudaGraphCondTypeWhile
    node.conditional.size = 1
    assert runtime.cudaGraphConditionalHandleFlags.cudaGraphCondAssignDefault == 1
    assert runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal == 1
