r"""The compiled network: torch.compile(fullgraph=True, dynamic=False) by inductor, without CUDA graphs of its own.

Capturing is the executor's business. Only the network is compiled: preconditioning, guidance and the choice of c_noise
are the fused update's, so σ is never a Python number and a new plan compiles nothing. A sampler feeds a few batch
sizes, each compiled when it is first needed.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..common.errors import BackendError

INDUCTOR = {"triton.cudagraphs": False}


class CompiledNetwork:
    """A function of (net_in, c_noise, class_labels, **conditions), compiled on first need.

    Args:
        eager: the function; what it closes over is not held by the compiler.
        required: raise BackendError if it cannot be compiled, instead of going on eagerly.

    Attributes:
        working: whether it is compiled; False once it has gone on eagerly.
        recompiles: how many compilations were unexpected. Expected are one for c_noise [1] and one for c_noise [B], at
            the batch size of the first call and at those announced with `expect`. Each unexpected one is also a
            RuntimeWarning and a note. Beside another batch size, the compiler tells tensors made in inference mode from
            others: do not mix inference-mode and normal tensors.
        notes: what differs from what one may expect, one line each.
    """

    def __init__(self, eager: Any, required: bool) -> None:
        self.required, self.working = required, True
        self.recompiles = 0
        self.notes: list[str] = []
        self._eager = eager
        self._inductor = _Inductor()
        self._compiled_for: list[tuple[int, bool]] = []  # (batch, whether one c_noise serves all)
        self._batches: dict[int, Callable[..., Tensor] | None] = {}  # announced sizes, each with its compiled form
        self._run = self._compile()

    @property
    def compilations(self) -> int:
        """How often the function was compiled."""
        return self._inductor.calls

    def expect(self, batch: int) -> None:
        """Announce a batch size; its compilations are then expected."""
        self._batches.setdefault(batch, None)

    def __call__(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None, **conditions: Tensor) -> Tensor:
        """Return the result, compiling first where that is needed.

        Raises:
            BackendError: compiling was required and is not possible.
        """
        before = self.compilations
        try:
            F = self._form(len(net_in))(net_in, c_noise, class_labels, **conditions)
        except self._compile_errors as error:
            # A mistake in the arguments raises here, as what it is.
            F = self._eager(net_in, c_noise, class_labels, **conditions)
            self._give_up(first_line(error))
            return F
        if self.compilations != before:
            self._record(net_in, c_noise)
        elif not before:
            self._give_up("torch.compile is switched off, or found nothing to compile")
        return F

    def _form(self, batch: int) -> Callable[..., Tensor]:
        """Return the compiled form for a batch size. An announced size has its own: dynamo limits how often one is
        compiled.
        """
        if batch not in self._batches:
            return self._run
        form = self._batches[batch] or self._compile()
        self._batches[batch] = form
        return form

    def _compile(self) -> Callable[..., Tensor]:
        from torch._dynamo import exc

        self._compile_errors = (
            exc.TorchDynamoException,
            getattr(exc, "FailOnRecompileLimitHit", exc.TorchDynamoException),
        )
        # Dynamo stores what it compiled, and counts it against its limit, by code object: each form gets its own.
        fn = self._eager
        own = types.FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__, None, fn.__closure__)
        return torch.compile(own, fullgraph=True, dynamic=False, backend=self._inductor)

    def _record(self, net_in: Tensor, c_noise: Tensor) -> None:
        """Note the compilation of this call, and warn if it was not expected."""
        batch, shared = len(net_in), len(c_noise) == 1
        first = self._compiled_for[0][0] if self._compiled_for else batch
        expected = batch == first or batch in self._batches
        if expected and (batch, shared) not in self._compiled_for:
            self._compiled_for.append((batch, shared))
            return
        self.recompiles += 1
        mode = "inference" if net_in.is_inference() else "normal"
        note = (
            f"compile: the network was compiled again, for {mode} tensors net_in {list(net_in.shape)} and c_noise "
            f"{list(c_noise.shape)}, having been made for batches of {first}; feed one shape, or use compile='off'"
        )
        self.notes.append(note)
        warnings.warn(note, RuntimeWarning, stacklevel=5)

    def _give_up(self, reason: str) -> None:
        """Go on without the compiler, or raise if it was required."""
        if self.required:
            raise BackendError(
                f"compile='on' was asked for, but the network cannot be compiled: {reason}; use compile='auto' or 'off'"
            )
        self.working = False
        self.notes.append(f"compile: the network runs eagerly, it cannot be compiled: {reason}")


class _Inductor:
    """The compiler, called by dynamo once per compilation; with fullgraph that is once per compiled shape.

    Dynamo never forgets a backend that it was given, so this one holds no reference to the network.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        import torch._inductor

        self.calls += 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)  # dtype decides that
            return torch._inductor.compile(graph, inputs, options=dict(INDUCTOR))


def first_line(error: BaseException) -> str:
    """Return what an error says in its first line (two, if that one only introduces the next), without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return first.rstrip(".") or type(error).__name__
