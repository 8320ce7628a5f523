r"""The network as it runs: its precision, its memory format, compiled or not.

:func:`prepare` takes a denoiser's network and gives back F as the executors call it. The caller's module is never
changed, so one denoiser may serve several samplers, each with its own precision:

| dtype | net_in   | weights                                   | float32 products inside |
|-------|----------|-------------------------------------------|-------------------------|
| fp32  | float32  | the caller's own tensors                  | IEEE float32            |
| tf32  | float32  | the caller's own tensors                  | TF32 on CUDA            |
| bf16  | bfloat16 | a bfloat16 copy; embedding kept float32   | IEEE float32            |
| fp16  | float16  | a float16 copy; embedding kept float32    | IEEE float32            |

PyTorch's TF32 switches belong to the process: cuDNN convolutions use TF32 unless told otherwise, matrix products do
not. Here they are set around each call and put back after it, so "fp32" is float32 whatever the program chose
elsewhere. (A plain function on the CPU is left alone.)

Compiled means torch.compile(fullgraph=True, dynamic=False) by inductor without CUDA graphs of its own; capturing is the
executor's business. Only the network is in there: preconditioning, guidance and the choice of c_noise are the fused
step's, so σ is never a Python number and a new plan compiles nothing. A sampler feeds a few batch sizes, each compiled
when it is first needed; see `PreparedNetwork.recompiles`.

The border (`network_output.py`): net_in arrives contiguous and F leaves contiguous, both [B, C, H, W] in element order.
Under channels_last the change of layout is inside, where a compiled network fuses it with its first and last layer."""

from __future__ import annotations

import copy
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import choice
from ..common.devices import check_device
from ..common.errors import BackendError
from ..models.denoiser import Denoiser, NetworkFunction
from ..models.network_output import checked

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE = ("auto", "on", "off")
MEMORY_FORMATS = ("auto", "channels_last", "contiguous")
EXACT = ("ieee", "none")  # of a precision switch; none: it follows a more general one that says nothing
INDUCTOR = {"triton.cudagraphs": False}

_backends: Any = torch.backends
# cuDNN's convolutions and recurrent layers go together: where they differ, `torch.backends.cudnn.flags()` and
# `.allow_tf32` raise, in a user's network too.
CUDA_SWITCHES: tuple[Any, ...] = (_backends.cuda.matmul, _backends.cudnn.conv, _backends.cudnn.rnn)
CPU_SWITCHES: tuple[Any, ...] = (_backends.mkldnn.matmul, _backends.mkldnn.conv, _backends.mkldnn.rnn)
SWITCHES = (*CUDA_SWITCHES, *CPU_SWITCHES)
_switches_lock = threading.RLock()


def prepare(
    denoiser: Denoiser,
    *,
    device: str | torch.device,
    dtype: str = "fp32",
    compile: str = "auto",
    memory_format: str = "auto",
) -> PreparedNetwork:
    """`denoiser.network` ready to run on `device`.

    Args:
        dtype: "fp32", "tf32", "bf16" or "fp16". Only modules are cast; a plain function gets net_in in that dtype.
        compile: "on", "off", or "auto": modules on CUDA. A plain function is compiled under "on" only.
        memory_format: "channels_last", "contiguous", or "auto": channels_last on CUDA unless fp32, otherwise as loaded.

    Raises:
        BackendError: an unknown name, a device that is not there, or a module that cannot be copied.
    """
    for name, value, allowed in (
        ("dtype", dtype, tuple(DTYPES)),
        ("compile", compile, COMPILE),
        ("memory_format", memory_format, MEMORY_FORMATS),
    ):
        choice(name, value, allowed, error=BackendError)
    return PreparedNetwork(denoiser.network, check_device(device), dtype, compile, memory_format)


class PreparedNetwork:
    """F on one device in one precision. Call it once with the executor's buffers before capturing or timing: it
    compiles then.

    Attributes:
        net_dtype: dtype of net_in. F comes in whatever the network returns, usually the same.
        memory_format: "channels_last" or "contiguous", inside the network.
        compiled: whether torch.compile is in use; False again once "auto" has fallen back.
        compilations: how often the network was compiled.
        recompiles: how many of them were unexpected. Expected are one for c_noise [1] and one for c_noise [B], at the
            batch size of the first call and at those announced with `expect`. Each unexpected one is also a
            RuntimeWarning and a note. Besides another batch size, tensors made inside and outside of inference mode
            differ for the compiler: use one sort.
        notes: what differs from what one may expect, one line each.
    """

    def __init__(
        self, network: NetworkFunction, device: torch.device, dtype: str, compile: str, memory_format: str
    ) -> None:
        network = getattr(network, "_orig_mod", network)  # a module that was compiled by the caller
        self.device, self.dtype, self.net_dtype = device, dtype, DTYPES[dtype]
        self.is_module = isinstance(network, nn.Module)
        self._stateless = bool(getattr(network, "concurrent", False))
        self._inductor = _Inductor()
        self.recompiles = 0
        self._notes: list[str] = []
        self._compiled_for: list[tuple[int, bool]] = []  # (batch, whether one c_noise serves all)
        self._batches: dict[int, Callable[..., Tensor] | None] = {}  # announced sizes, each with its compiled form
        self._required = compile == "on"
        self._precision = self._choose_precision()
        self.memory_format = self._choose_memory_format(network, memory_format)
        if isinstance(network, nn.Module):
            network = inference_copy(network, device, self.net_dtype, self.memory_format)
        self._module = network if isinstance(network, nn.Module) else None
        self._eager = _with_border(network, self.memory_format == "channels_last")
        self.compiled = self._choose_compile(compile)
        if self.compiled:
            self._run = self._compile(self._eager)

    def __call__(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """F [B, C, H, W], contiguous. No value is read from the device and nothing is allocated but the network's own.

        Args:
            net_in: `net_dtype` [B, C, H, W], contiguous. c_noise: float32 [1] or [B].
            class_labels: float32 one-hot [B, label_dim] or None.

        Raises:
            BackendError: compile="on" and the network cannot be compiled.
        """
        if self.device.type == "cpu" and (not self.is_module or cpu_is_exact()):  # changing switches takes 10 µs
            return self._call(net_in, c_noise, class_labels)
        with float32_products(self._precision, self.device):
            return self._call(net_in, c_noise, class_labels)

    def expect(self, batch: int) -> None:
        """Announce a batch size: its compilations, one for each form of c_noise, are no surprise."""
        self._batches.setdefault(batch, None)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the parameters and buffers that run, the caller's own or copies; none of a plain function."""
        return () if self._module is None else (*self._module.parameters(), *self._module.buffers())

    def describe(self) -> str:
        """One line, e.g. "bf16, compiled (fullgraph), channels_last"."""
        how = "compiled (fullgraph)" if self.compiled else "eager"
        return f"{self.dtype}, {how}, {self.memory_format}"

    @property
    def concurrent(self) -> bool:
        """Whether several threads may call it at once: a module that says so, not compiled."""
        return self._stateless and not self.compiled

    @property
    def compilations(self) -> int:
        return self._inductor.calls

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def _choose_precision(self) -> str:
        if self.dtype != "tf32":
            return "ieee"
        if self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) < (8, 0):
            self._notes.append("dtype: this device has no TF32, tf32 computes in float32")
            return "ieee"
        return "tf32"

    def _choose_memory_format(self, network: NetworkFunction, asked: str) -> str:
        if not isinstance(network, nn.Module):
            if asked == "channels_last":
                self._notes.append("memory_format: a plain function gets contiguous tensors")
            return "contiguous"
        if asked != "auto":
            return asked
        if self.device.type == "cuda" and self.dtype != "fp32":
            return "channels_last"
        loaded = any(
            p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
            for p in network.parameters()
        )
        return "channels_last" if loaded else "contiguous"

    def _choose_compile(self, asked: str) -> bool:
        if asked != "auto":
            return asked == "on"
        # A plain function may ask the host what it likes; on a CPU compiling takes longer than most runs.
        return self.is_module and self.device.type == "cuda"

    def _call(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None) -> Tensor:
        """A module runs in inference mode, whatever the caller's mode is: one mode, one compilation."""
        evaluate = self._evaluate_compiled if self.compiled else self._eager
        if torch.is_inference_mode_enabled() or not self.is_module:
            return evaluate(net_in, c_noise, class_labels)
        with torch.inference_mode():
            return evaluate(net_in, c_noise, class_labels)

    def _evaluate_compiled(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None) -> Tensor:
        before = self.compilations
        try:
            F = self._compiled_form(len(net_in))(net_in, c_noise, class_labels)
        except self._compile_errors as error:
            F = self._eager(net_in, c_noise, class_labels)  # a mistake in the arguments shows itself here
            self._give_up(_first_line(error))
            return F
        if self.compilations != before:
            self._record(net_in, c_noise)
        elif not before:
            self._give_up("torch.compile is switched off, or found nothing to compile")
        return F

    def _compiled_form(self, batch: int) -> Callable[..., Tensor]:
        """An announced batch size has a form of its own, since dynamo limits how often one is compiled."""
        if batch not in self._batches:
            return self._run
        form = self._batches[batch] or self._compile(self._eager)
        self._batches[batch] = form
        return form

    def _compile(self, fn: Any) -> Callable[..., Tensor]:
        from torch._dynamo import exc

        self._compile_errors = (
            exc.TorchDynamoException,
            getattr(exc, "FailOnRecompileLimitHit", exc.TorchDynamoException),
        )
        # Dynamo keeps what it compiled, and counts it against its limit, per code object: this network gets one of its
        # own.
        own = types.FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__, None, fn.__closure__)
        return torch.compile(own, fullgraph=True, dynamic=False, backend=self._inductor)

    def _record(self, net_in: Tensor, c_noise: Tensor) -> None:
        """Was the compilation of this call expected?"""
        batch, shared = len(net_in), len(c_noise) == 1
        first = self._compiled_for[0][0] if self._compiled_for else batch
        expected = batch == first or batch in self._batches
        if expected and (batch, shared) not in self._compiled_for:
            self._compiled_for.append((batch, shared))
            return
        self.recompiles += 1
        sort = "inference" if net_in.is_inference() else "normal"
        note = (
            f"compile: the network was compiled again, for {sort} tensors net_in {list(net_in.shape)} and c_noise "
            f"{list(c_noise.shape)}, having been made for batches of {first}; feed one shape, or use compile='off'"
        )
        self._notes.append(note)
        warnings.warn(note, RuntimeWarning, stacklevel=5)

    def _give_up(self, reason: str) -> None:
        """Go on without the compiler, or say that it was required."""
        if self._required:
            raise BackendError(
                f"compile='on' was asked for, but the network cannot be compiled: {reason}; use compile='auto' or 'off'"
            )
        self.compiled = False
        self._notes.append(f"compile: the network runs eagerly, it cannot be compiled: {reason}")


class _Inductor:
    """The compiler, called by dynamo once per compilation; with fullgraph that is once per compiled shape.

    Dynamo keeps every backend it was given, for good. So this one knows nothing of the network that it compiles.
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        import torch._inductor

        self.calls += 1
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)  # dtype decides that
            return torch._inductor.compile(graph, inputs, options=dict(INDUCTOR))


def _with_border(network: NetworkFunction, channels_last: bool) -> Any:
    """`network` between contiguous tensors."""

    def forward(net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None) -> Tensor:
        given = net_in
        if channels_last:
            net_in = net_in.contiguous(memory_format=torch.channels_last)
        return checked(network(net_in, c_noise, class_labels), given).contiguous()

    return forward


def inference_copy(module: nn.Module, device: torch.device, dtype: torch.dtype, memory_format: str) -> nn.Module:
    """A copy in eval mode on `device`, weights in `dtype`. Tensors that need no change are shared, not copied."""
    layout = torch.channels_last if memory_format == "channels_last" else torch.contiguous_format
    layers = [m for m in module.modules() if getattr(m, "keeps_float32", False)]
    keep = {id(t) for m in layers for t in (*m.parameters(), *m.buffers())}
    converted: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        to = dtype if tensor.is_floating_point() and id(tensor) not in keep else tensor.dtype
        new = tensor.detach().to(device, to)
        new = new.contiguous(memory_format=layout) if new.ndim == 4 else new
        is_parameter = isinstance(tensor, nn.Parameter)
        converted[id(tensor)] = nn.Parameter(new, requires_grad=False) if is_parameter else new
    try:
        # deepcopy takes what its memo already holds, so the copy is made of the new tensors.
        return copy.deepcopy(module, converted).eval()
    except (TypeError, RuntimeError) as error:
        raise BackendError(
            f"the network cannot be copied for inference ({_first_line(error)}); wrap it with Denoiser.from_function"
        ) from None


def cpu_is_exact() -> bool:
    """Whether oneDNN computes float32 products in float32, as it does unless told otherwise."""
    return all(slot.fp32_precision in EXACT for slot in CPU_SWITCHES)


@contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """float32 products at `precision` ("ieee" or "tf32", on CUDA) inside, as before outside: matrices, convolutions,
    RNNs.

    What is put back are the values that were read: a general switch (`torch.backends.fp32_precision`) that is changed
    later does not reach cuDNN's any more, as after `torch.backends.cudnn.flags()`.

    The switches belong to the process, so threads whose networks need them changed take turns; on CUDA that is while
    they launch, not while the GPU computes. On the CPU oneDNN's bfloat16 and TF32 products are kept out."""
    if device.type != "cuda":
        precision = "ieee"
    with _switches_lock:
        old = [slot.fp32_precision for slot in SWITCHES]
        # The older ways to set them, set_float32_matmul_precision and cudnn.allow_tf32, keep values of their own, which
        # parts of the compiler and users' networks read. The first can be read while the switches ask for no more, the
        # second while they agree with it. Old and new are kept in step.
        for slot in SWITCHES:
            slot.fp32_precision = "ieee"
        legacy = torch.get_float32_matmul_precision()
        legacy_cudnn = _cudnn_allows_tf32()
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        _backends.cudnn.allow_tf32 = precision == "tf32"
        for slot in CUDA_SWITCHES:
            slot.fp32_precision = precision
        for slot in CPU_SWITCHES:
            slot.fp32_precision = "ieee"
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(legacy)
            _backends.cudnn.allow_tf32 = legacy_cudnn
            for slot, value in zip(SWITCHES, old, strict=True):
                slot.fp32_precision = value


def _cudnn_allows_tf32() -> bool:
    """Read the older switch of cuDNN, which raises where the newer ones differ from it; they are changed by this."""
    for slot in CUDA_SWITCHES[1:]:
        slot.fp32_precision = "tf32"
    try:
        return bool(_backends.cudnn.allow_tf32)
    except RuntimeError:
        return False


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = " ".join(lines[:2]) if lines and lines[0].endswith(":") else "".join(lines[:1])
    return first.rstrip(".") or type(error).__name__
