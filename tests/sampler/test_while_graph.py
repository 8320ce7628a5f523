"""graph="while" as far as it can be shown without a GPU: the condition's kernel compiles, and the graph is built in the
order that CUDA wants, with the calls of both generations of cuda.bindings. What it does on a GPU is in
test_graph.py."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import sys
import types
from enum import IntEnum
from pathlib import Path

import pytest
import torch
from support.children import python

import restart_sampling as rs
from restart_sampling.sampler.executors import while_graph

COMPILE = """
import json
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from restart_kernels.row.condition import condition_kernel
names = condition_kernel.arg_names
types = {"handle_ptr": "*i64", "cursor_ptr": "*i32", "n": "i32", "BLOCK": "constexpr"}
attrs = {(i,): [["tt.divisibility", 16]] for i in (0, 1)}
for arch in (80, 90):
    source = ASTSource(condition_kernel, signature=types, constexprs={"BLOCK": 128}, attrs=attrs)
    kernel = compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 1})
    print(json.dumps({"names": names, "ptx": kernel.asm["ptx"], "shared": kernel.metadata.shared,
                      "cubin": b"cudaGraphSetConditional" in kernel.asm["cubin"]}))
"""


def only_thread_0_calls(ptx):
    """Whether the branch before the call sends all threads but the first past it: concurrent calls are undefined."""
    head, tail = ptx.split("call.uni", 1)
    branch = re.findall(r"@(%p\d+) bra\s+(\$L\w+);", head)[-1]
    test = re.search(rf"setp\.ne\.[bsu]32\s+{branch[0]}, (%r\d+), 0;", head)
    thread = test and re.findall(rf"mov\.u32 {test[1]}, %tid\.x;", head)
    return bool(thread) and f"{branch[1]}:" in tail


def test_the_condition_compiles_without_a_gpu():
    """The call is in the PTX, made by one thread, and its symbol in the cubin for the driver to link; one warp, no
    shared memory."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(rs.__file__).parents[2]
    environment["PYTHONPATH"] = os.pathsep.join(str(root / name) for name in ("engine", "kernels", "bindings"))
    done = python("-c", COMPILE, env=environment)
    assert done.returncode == 0, done.stderr
    for report in map(json.loads, done.stdout.splitlines()):
        assert report["names"] == ["handle_ptr", "cursor_ptr", "n", "BLOCK"]
        assert re.search(r"\.extern \.func .*cudaGraphSetConditional", report["ptx"])
        assert report["ptx"].count("call.uni") == 1
        assert only_thread_0_calls(report["ptx"])
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
        self.launched_on = []

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
        self.launched_on.append(current_device[-1])
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


current_device = ["cuda:0"]


@contextlib.contextmanager
def on_device(device):
    current_device.append(device)
    yield
    current_device.pop()


BUILT = [
    "launch, handle 0",
    "cudaGraphCreate",
    "cudaGraphConditionalHandleCreate",
    "cudaGraphAddNode",
    "cudaGraphAddChildGraphNode",
    "cudaStreamBeginCaptureToGraph",
    "launch, handle 0",
    "cudaStreamEndCapture",
    "cudaGraphInstantiate",
]


@pytest.fixture
def build(monkeypatch):
    """WhileGraph on a runtime that is not there; a launch of the condition is recorded with the handle it saw."""
    stream = types.SimpleNamespace(cuda_stream=55)
    monkeypatch.setattr(torch.cuda, "stream", lambda s: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda d: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda d: stream)
    monkeypatch.setattr(torch.cuda, "device", on_device)
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
    assert rt.launched_on == [graph.cursor.device] * 2  # not on the device that happens to be the current one
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


# What cuda.bindings documents, by version: names of the arguments. All three agree on everything but cudaGraphAddNode.
ADD_NODE = ["graph", "pDependencies", "dependencyData", "numDependencies", "nodeParams"]
CALLS = {
    "cudaGraphCreate": ["flags"],
    "cudaGraphConditionalHandleCreate": ["graph", "defaultLaunchValue", "flags"],
    "cudaGraphAddChildGraphNode": ["graph", "pDependencies", "numDependencies", "childGraph"],
    "cudaStreamBeginCaptureToGraph": ["stream", "graph", "dependencies", "dependencyData", "numDependencies", "mode"],
    "cudaStreamEndCapture": ["stream"],
    "cudaGraphInstantiate": ["graph", "flags"],
    "cudaGraphLaunch": ["graphExec", "stream"],
    "cudaGraphExecDestroy": ["graphExec"],
    "cudaGraphDestroy": ["graph"],
    "cudaGraphGetNodes": ["graph", "numNodes"],
}
PACKAGES = {
    "12.9.4": CALLS
    | {"cudaGraphAddNode_v2": ADD_NODE, "cudaGraphAddNode": [a for a in ADD_NODE if a != "dependencyData"]},
    "13.0.3": CALLS | {"cudaGraphAddNode": ADD_NODE},
    "13.5.0": CALLS | {"cudaGraphAddNode": ADD_NODE},
}


@pytest.mark.parametrize(("runtime", "version"), [(Runtime12, "12.9.4"), (Runtime, "13.0.3"), (Runtime, "13.5.0")])
def test_the_stand_ins_take_what_the_package_takes(runtime, version):
    """Otherwise the tests above would accept a call that the package of that version refuses."""
    for name, arguments in PACKAGES[version].items():
        if name == "cudaGraphGetNodes":
            continue  # counts nodes; the WHILE graph does not need it
        parameters = inspect.signature(getattr(runtime(), name)).parameters.values()
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        assert variadic or len(parameters) == len(arguments), name
    own = {name for name in dir(runtime) if name.startswith("cuda") and callable(getattr(runtime, name))}
    assert own - {"cudaGraphNodeParams"} <= set(PACKAGES[version])


def test_the_calls_exist_in_the_package():
    """Names and arguments, where cuda-bindings is installed; nothing is called."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    version = "12.9.4" if hasattr(runtime, "cudaGraphAddNode_v2") else "13.5.0"
    for name, arguments in PACKAGES[version].items():
        signature = getattr(runtime, name).__doc__.splitlines()[0]
        for argument in arguments:
            assert re.search(rf"\b{argument}\b", signature), signature
        depth, commas = 0, 0
        for character in signature[signature.index("(") + 1 : signature.rindex(")")]:
            depth += (character in "[(") - (character in "])")
            commas += character == "," and depth == 0
        assert commas + 1 == len(arguments), signature
    node = runtime.cudaGraphNodeParams()
    node.type = runtime.cudaGraphNodeType.cudaGraphNodeTypeConditional
    node.conditional.type = runtime.cudaGraphConditionalNodeType.cudaGraphCondTypeWhile
    node.conditional.size = 1
    assert runtime.cudaGraphConditionalHandleFlags.cudaGraphCondAssignDefault == 1
    assert runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal == 1
