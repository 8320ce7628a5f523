"""A capture without a GPU: operations are recorded once with their addresses, and replayed without the Python around
them.

What a CUDA graph would hold is what the tape holds: the operators, their arguments and the memory their results went
to. Whatever the host decided or read while recording is frozen, so a loop that asks the host anything gives another
result."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from restart_sampling.common.errors import BackendError
from restart_sampling.sampler.executors.captured import UNTIL_IDLE, Captured


class Tape(TorchDispatchMode):
    """Records every operator, and every call of the bound machine, which is no torch operator."""

    def __init__(self):
        super().__init__()
        self.entries = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.entries.append((func, args, kwargs, out if isinstance(out, (tuple, list)) else (out,)))
        return out

    @torch.inference_mode()  # a replay writes into what was recorded in any mode, as a GPU does
    def replay(self):
        for func, args, kwargs, kept in self.entries:
            out = func(*args, **kwargs)
            for new, old in zip(out if isinstance(out, (tuple, list)) else (out,), kept, strict=True):
                if isinstance(new, torch.Tensor) and new.data_ptr() != old.data_ptr():
                    old.copy_(new)


class TapedMachine:
    """Stands in for a bound machine while a tape runs: its calls are one entry each, as a kernel launch is one node."""

    def __init__(self, bound, tape):
        self.bound, self.tape = bound, tape

    def _call(self, function, *args):
        with torch.utils._python_dispatch._disable_current_modes():
            function(*args)
        self.tape.entries.append((function, args, {}, (None,)))

    def run_row(self, *args):
        self._call(self.bound.run_row, *args)

    def advance(self):
        self._call(self.bound.advance)

    def weigh(self, *args):
        self._call(self.bound.weigh, *args)


class TapeCapture:
    """The graph executor's capture, on tapes. `recorded` holds (number of evaluations, entries) of each."""

    until_idle = True
    bytes = 2**20  # that each capture says it took

    def __init__(self, device="cpu"):
        self.recorded = []

    def warm_up(self, body):
        body()

    def capture(self, body, repeats):
        bound, tape = body.bound, Tape()
        body.bound = TapedMachine(bound, tape)
        try:
            with tape:
                for _ in range(repeats or 1):
                    body()
        finally:
            body.bound = bound
        self.recorded.append((repeats, len(tape.entries)))
        cursor = body.machine.cursor

        def until_idle():
            tape.replay()
            while bool((cursor >= 0).any()):
                tape.replay()

        replay = until_idle if repeats == UNTIL_IDLE else tape.replay
        return Captured(replay, nodes=len(tape.entries), bytes=self.bytes)


def make_capture(device):
    """The capture that belongs to a device: tapes on the CPU, CUDA graphs on a GPU, with `recorded` in both."""
    if torch.device(device).type == "cpu":
        return TapeCapture()
    from restart_sampling.sampler.executors.capture import CudaCapture
    from restart_sampling.sampler.executors.while_graph import WhileCapture, import_runtime

    base = CudaCapture
    with suppress(BackendError):
        import_runtime()
        base = WhileCapture

    class Recorded(base):
        def __init__(self, device):
            super().__init__(torch.device(device))
            self.recorded = []
            if base is WhileCapture:
                self.until_idle = True

        def capture(self, body, repeats):
            self.recorded.append((repeats, None))
            return super().capture(body, repeats)

    return Recorded(device)
