"""CUDA capture on a stand-in for CUDA: what a capture leaves behind, above all one that fails. `torch.cuda.graph` is
PyTorch's own; below it is a device that behaves as PyTorch's C++ does: a capture that was broken raises at its end, and
then neither leaves its stream nor gives back the allocator and the random generator. The same on a GPU is in
test_graph.py."""

from __future__ import annotations

import contextlib
import gc
import types
import weakref

import pytest
import torch
from support.replays import denoiser, eager, with_graph

import restart_sampling as rs
from restart_sampling.sampler.executors import capture as module
from restart_sampling.sampler.executors.capture import CudaCapture

CUDA = torch.device("cuda", 0)


class Device:
    """The state of a device as far as captures touch it."""

    def __init__(self):
        self.streams = ["default"]
        self.graph = None  # that is being captured
        self.broken = False
        self.generator_captures = False
        self.allocating = set()  # pools whose capture has not ended
        self.free, self.costs = 1 << 30, 3 << 20
        self.log = []

    def forbidden(self):
        """What a network may do eagerly and not in a capture, such as asking for a value."""
        if self.graph is not None:
            self.broken = True
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def randn(self):
        if self.generator_captures and self.graph is None:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    def empty_cache(self):
        if self.allocating:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")


def fake_graph_class(device):
    class Graph:
        def __init__(self, keep_graph=False):
            self.keep_graph, self.instantiated, self.calls = keep_graph, False, 0

        def capture_begin(self, pool=None, capture_error_mode="global", **_):
            assert capture_error_mode == "thread_local"
            assert device.streams[-1] == "side"
            self._pool = pool or ("pool of its own", id(self))
            device.graph, device.broken, device.generator_captures = self, False, True
            device.allocating.add(self._pool)
            device.log.append("begin")

        def capture_end(self):
            device.graph = None
            if device.broken:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            device.generator_captures = False
            device.allocating.discard(self._pool)
            device.free -= device.costs
            self.instantiated = not self.keep_graph
            device.log.append("end")

        def instantiate(self):
            assert self.keep_graph
            self.instantiated = True

        def replay(self):
            assert self.instantiated

        def pool(self):
            return self._pool

        def raw_cuda_graph(self):
            assert self.keep_graph
            return 4321

        def reset(self):
            device.log.append("reset")

    return Graph


class Stream:
    def __init__(self, device=None):
        self.device = device

    def wait_stream(self, other):
        pass


class Runtime:
    """cuda.bindings.runtime for counting nodes: (error, list or None, number)."""

    @staticmethod
    def cudaGraphGetNodes(graph, numNodes=0):
        assert (graph, numNodes) == (4321, 0)
        return 0, None, 77


@pytest.fixture
def gpu(monkeypatch):
    device, zeros = Device(), torch.zeros

    class OnStream:
        def __init__(self, stream):
            pass

        def __enter__(self):
            self.before = device.streams.copy()
            device.streams.append("side")

        def __exit__(self, *_):
            device.streams[:] = self.before

    def end_allocation(index, pool):
        if pool not in device.allocating:
            raise RuntimeError("no capture of this pool is under way")
        device.allocating.remove(pool)

    replaced = {
        "CUDAGraph": fake_graph_class(device),
        "Stream": Stream,
        "stream": OnStream,
        "current_stream": lambda d=None: Stream(d),
        "synchronize": lambda d=None: None,
        "empty_cache": device.empty_cache,
        "current_device": lambda: 0,
        "graph_pool_handle": lambda: ("shared pool",),
        "mem_get_info": lambda d=None: (device.free, 1 << 33),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name, function in {
        "_host_emptyCache": lambda: None,
        "_cuda_endAllocateToPool": end_allocation,
        "_cuda_releasePool": lambda i, p: None,
        "_cuda_clearCublasWorkspaces": lambda: device.log.append("clear"),
    }.items():
        monkeypatch.setattr(torch._C, name, function, raising=False)
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: zeros(*a, **{**k, "device": "cpu"}))
    monkeypatch.setattr(module, "_runtime", lambda: Runtime)
    return device


def test_the_stand_in_breaks_as_the_device_does(gpu):
    """Without the executor's care a failed capture leaves stream, allocator and generator as they must not be."""
    with (
        pytest.raises(RuntimeError, match="previous error"),
        torch.cuda.graph(torch.cuda.CUDAGraph(), stream=Stream(), capture_error_mode="thread_local"),
    ):
        gpu.forbidden()
    assert gpu.streams == ["default", "side"]
    assert gpu.allocating
    with pytest.raises(RuntimeError, match="Offset increment"):
        gpu.randn()


def body(n=1):
    """An evaluation, as far as a capture looks at it."""
    calls = []

    def call():
        calls.append(len(calls))

    return call, calls


def test_a_capture_says_what_it_holds_and_took(gpu):
    capture, (call, calls) = CudaCapture(CUDA), body()
    captured = capture.capture(call, 4)
    assert len(calls) == 4
    captured()
    assert len(calls) == 4  # a replay calls no Python
    assert (captured.nodes, captured.bytes) == (77, 3 << 20)
    gpu.costs = -5  # somebody else let go of memory meanwhile
    assert capture.capture(call, 1).bytes == 0


def test_nodes_are_unknown_without_the_bindings(gpu, monkeypatch):
    monkeypatch.setattr(module, "_runtime", lambda: None)
    captured = CudaCapture(CUDA).capture(body()[0], 1)
    captured()
    assert captured.nodes is None


def test_graphs_share_a_pool_as_long_as_one_is_alive(gpu, monkeypatch):
    capture = CudaCapture(CUDA)
    pools = iter(["a", "b"])
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    first = capture.capture(body()[0], 1)
    second = capture.capture(body()[0], 1)
    assert [c.replay.__self__.pool() for c in (first, second)] == ["a", "a"]
    del first, second
    gc.collect()
    assert capture.capture(body()[0], 1).replay.__self__.pool() == "b"


def test_workspaces_are_cleared_before_and_after_a_capture(gpu):
    """A live graph must not read a workspace that a later capture, or the end of another graph, frees."""
    capture = CudaCapture(CUDA)
    capture.capture(body()[0], 1)
    assert gpu.log == ["clear", "begin", "end", "clear"]
    gpu.log.clear()
    with pytest.raises(RuntimeError):
        capture.capture(gpu.forbidden, 1)
    assert (gpu.log[0], gpu.log[-1], gpu.log.count("clear")) == ("clear", "clear", 2)


def test_a_build_without_workspaces_captures_too(gpu, monkeypatch):
    monkeypatch.delattr(torch._C, "_cuda_clearCublasWorkspaces")
    CudaCapture(CUDA).capture(body()[0], 1)()


def test_after_a_failed_capture_the_device_goes_on(gpu):
    """The error is the network's, not the capture's; stream, allocator and generator are as before."""
    capture = CudaCapture(CUDA)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        capture.capture(gpu.forbidden, 3)
    assert gpu.streams == ["default"]
    assert not gpu.allocating
    gpu.empty_cache()
    gpu.randn()
    capture.capture(body()[0], 1)()


def test_an_error_that_does_not_break_the_capture_is_raised_too(gpu):
    def wrong():
        raise TypeError("no such argument")

    capture = CudaCapture(CUDA)
    with pytest.raises(TypeError, match="no such argument"):
        capture.capture(wrong, 1)
    gpu.randn()
    assert gpu.streams == ["default"]
    assert not gpu.allocating


def test_an_interrupt_during_a_capture_stays_one(gpu):
    """The broken capture's own error, which follows, must not turn it into a fallback."""

    def interrupted():
        gpu.broken = True
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CudaCapture(CUDA).capture(interrupted, 1)
    gpu.randn()
    assert gpu.streams == ["default"]


def test_a_device_that_is_lost_reports_the_first_error(gpu, monkeypatch):
    """The repair fails as well, and does not hide why it was needed."""
    capture = CudaCapture(CUDA)

    class Lost(torch.cuda.CUDAGraph):
        def capture_end(self):
            gpu.broken = True
            super().capture_end()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Lost)
    with pytest.raises(RuntimeError, match="not permitted"):
        capture.capture(gpu.forbidden, 1)


def test_the_frames_of_a_failed_capture_are_let_go(gpu):
    """By counting references alone: they hold the network's activations."""

    class Large:
        pass

    held = []

    def fails():
        large = Large()
        held.append(weakref.ref(large))
        gpu.forbidden()

    capture = CudaCapture(CUDA)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(RuntimeError):
            capture.capture(fails, 1)
        assert [ref() for ref in held] == [None]
    finally:
        gc.enable()


def test_a_sampler_whose_network_asks_the_host_falls_back(gpu):
    """Through the public sampler: right samples, a note with the reason, and random numbers afterwards."""
    plan, base = rs.Plan.build(steps=4), denoiser()

    def fn(x, sigma):
        gpu.forbidden()
        return base.network(x, sigma, None)

    den = rs.Denoiser.from_function(fn, shape=base.shape)
    sampler = rs.Sampler(den, plan, batch_size=4, graph="off", device="cpu")
    with_graph(sampler, "loop", CudaCapture(CUDA))
    assert torch.equal(sampler.run(range(3)), eager(plan, "cpu").run(range(3)))
    assert "fell back to eager launches: CUDA error: operation not permitted" in sampler.notes[-1]
    gpu.randn()


def test_the_while_graph_reports_what_it_holds_too(gpu, monkeypatch):
    from restart_sampling.sampler.executors import while_graph

    monkeypatch.setattr(while_graph, "import_runtime", lambda: Runtime)
    monkeypatch.setattr(while_graph, "WhileGraph", lambda *arguments: arguments)
    monkeypatch.setattr(torch.cuda, "device", lambda d: contextlib.nullcontext())
    call, calls = body()
    evaluation = types.SimpleNamespace(machine=types.SimpleNamespace(cursor="cursor"))
    evaluation = type("Body", (), {"__call__": lambda self: call(), "machine": evaluation.machine})()
    captured = while_graph.WhileCapture(CUDA).capture(evaluation, while_graph.UNTIL_IDLE)
    assert (len(calls), captured.nodes, captured.bytes) == (1, 77, 3 << 20)
    assert captured.replay[-1] == "cursor"
