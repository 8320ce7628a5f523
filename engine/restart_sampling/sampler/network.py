r"""The network as it runs: its precision, its memory format, compiled or not.

:func:`prepare` takes a denoiser's network and gives back F as the executors call it. The caller's module is never
changed nor moved, so one denoiser may serve several samplers, each with its own device and precision:

| dtype | net_in   | weights                                             | float32 products inside |
|-------|----------|-----------------------------------------------------|-------------------------|
| fp32  | float32  | the caller's own tensors, if they are on the device | IEEE float32            |
| tf32  | float32  | the caller's own tensors, if they are on the device | TF32 on CUDA            |
| bf16  | bfloat16 | a bfloat16 copy; the embedding stays float32        | IEEE float32            |
| fp16  | float16  | a float16 copy; the embedding stays float32         | IEEE float32            |

A layer with the attribute `keeps_float32` stays float32. PyTorch's precision switches are set around each call
(`float32.py`), but not for a plain function on the CPU. What is compiled is in `compiled.py`.

The border (`models/network_output.py`): net_in arrives contiguous and F leaves contiguous, both [B, *shape] in element
order. Under channels_last the change of layout is inside, where a compiled network fuses it with its first and last
layer. Conditions arrive as the denoiser declares them, whatever the precision.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..common.checks import choice
from ..common.devices import check_device
from ..common.errors import BackendError
from ..models.denoiser import Denoiser, NetworkFunction
from ..models.network_output import checked
from .compiled import CompiledNetwork, first_line
from .float32 import cpu_is_exact, float32_products

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
COMPILE = ("auto", "on", "off")
MEMORY_FORMATS = ("auto", "channels_last", "contiguous")


def prepare(
    denoiser: Denoiser,
    *,
    device: str | torch.device,
    dtype: str = "fp32",
    compile: str = "auto",
    memory_format: str = "auto",
) -> PreparedNetwork:
    """Return `denoiser.network` ready to run on `device`.

    Args:
        denoiser: its network is shared where nothing has to change, else copied.
        device: where it will run.
        dtype: "fp32", "tf32", "bf16" or "fp16". Only modules are cast; a plain function gets net_in in that dtype.
        compile: "on", "off", or "auto": modules on CUDA. A plain function is compiled under "on" only.
        memory_format: "channels_last", "contiguous", or "auto": channels_last on CUDA unless fp32, otherwise as loaded.
            Samples that are no images (C, H, W) are contiguous.

    Raises:
        BackendError: an unknown name, a device that is not there, or a module that cannot be copied.
    """
    for name, value, allowed in (
        ("dtype", dtype, tuple(DTYPES)),
        ("compile", compile, COMPILE),
        ("memory_format", memory_format, MEMORY_FORMATS),
    ):
        choice(name, value, allowed, error=BackendError)
    images = len(denoiser.shape) == 3
    return PreparedNetwork(denoiser.network, check_device(device), dtype, compile, memory_format, images)


class PreparedNetwork:
    """F on one device in one precision. Call it once with the executor's buffers before capturing or timing: it
    compiles then.

    Attributes:
        module: the copy that runs, in eval mode; None for a plain function.
        net_dtype: dtype of net_in. F comes in whatever the network returns, usually the same.
        memory_format: "channels_last" or "contiguous", inside the network.
    """

    def __init__(
        self,
        network: NetworkFunction,
        device: torch.device,
        dtype: str,
        compile: str,
        memory_format: str,
        images: bool = True,
    ) -> None:
        network = getattr(network, "_orig_mod", network)  # a module that was compiled by the caller
        self.device, self.dtype, self.net_dtype = device, dtype, DTYPES[dtype]
        self._stateless = bool(getattr(network, "concurrent", False))
        self._notes: list[str] = []
        self._precision = self._choose_precision()
        self.memory_format = self._choose_memory_format(network, memory_format, images)
        self.module: nn.Module | None = None
        if isinstance(network, nn.Module):
            network = self.module = inference_copy(network, device, self.net_dtype, self.memory_format)
        self._eager = _with_border(network, self.memory_format == "channels_last")
        compiles = self._choose_compile(compile)
        self._compiled = CompiledNetwork(self._eager, required=compile == "on") if compiles else None

    def __call__(
        self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None = None, **conditions: Tensor
    ) -> Tensor:
        """Return F [B, *shape], contiguous. Reads no value from the device and allocates nothing beside the network.

        Args:
            net_in: `net_dtype` [B, *shape], contiguous.
            c_noise: float32 [1] or [B].
            class_labels: float32 one-hot [B, label_dim] or None.
            **conditions: the others by name, [B, …] each, in the dtypes that the denoiser declares.

        Raises:
            BackendError: compile="on" and the network cannot be compiled.
        """
        # Changing switches takes 10 µs.
        if self.device.type == "cpu" and (self.module is None or cpu_is_exact()):
            return self._call(net_in, c_noise, class_labels, **conditions)
        with float32_products(self._precision, self.device):
            return self._call(net_in, c_noise, class_labels, **conditions)

    def _call(self, net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None, **conditions: Tensor) -> Tensor:
        """Call a module in inference mode, whatever the caller's mode is: one mode, one compilation."""
        evaluate = self._compiled if self._compiled is not None and self._compiled.working else self._eager
        if torch.is_inference_mode_enabled() or self.module is None:
            return evaluate(net_in, c_noise, class_labels, **conditions)
        with torch.inference_mode():
            return evaluate(net_in, c_noise, class_labels, **conditions)

    def expect(self, batch: int) -> None:
        """Announce a batch size: its compilations, one for each form of c_noise, are expected."""
        if self._compiled is not None:
            self._compiled.expect(batch)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the parameters and buffers that run, the caller's own or copies; none for a plain function."""
        return () if self.module is None else (*self.module.parameters(), *self.module.buffers())

    def describe(self) -> str:
        """Return one line, e.g. "bf16, compiled (fullgraph), channels_last"."""
        how = "compiled (fullgraph)" if self.compiled else "eager"
        return f"{self.dtype}, {how}, {self.memory_format}"

    @property
    def compiled(self) -> bool:
        """Whether torch.compile is in use; False again once "auto" has fallen back."""
        return self._compiled is not None and self._compiled.working

    @property
    def concurrent(self) -> bool:
        """Whether several threads may call it at once: a module that says so, not compiled."""
        return self._stateless and not self.compiled

    @property
    def compilations(self) -> int:
        """How often the network was compiled."""
        return 0 if self._compiled is None else self._compiled.compilations

    @property
    def recompiles(self) -> int:
        """How many of the compilations were unexpected, see :class:`CompiledNetwork`."""
        return 0 if self._compiled is None else self._compiled.recompiles

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from what one may expect, one line each."""
        return (*self._notes, *(() if self._compiled is None else self._compiled.notes))

    def _choose_precision(self) -> str:
        if self.dtype != "tf32":
            return "ieee"
        if self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) < (8, 0):
            self._notes.append("dtype: this device has no TF32, tf32 computes in float32")
            return "ieee"
        return "tf32"

    def _choose_memory_format(self, network: NetworkFunction, asked: str, images: bool) -> str:
        if not images or not isinstance(network, nn.Module):
            if asked == "channels_last":
                what = "a plain function gets" if images else "samples that are no images (C, H, W) are"
                self._notes.append(f"memory_format: {what} contiguous tensors")
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
        # A plain function may ask the host anything; on a CPU compiling takes longer than most runs.
        return self.module is not None and self.device.type == "cuda"


def _with_border(network: NetworkFunction, channels_last: bool) -> Any:
    """Return `network` between contiguous tensors, its output checked."""

    def forward(net_in: Tensor, c_noise: Tensor, class_labels: Tensor | None, **conditions: Tensor) -> Tensor:
        given = net_in
        if channels_last:
            net_in = net_in.contiguous(memory_format=torch.channels_last)
        return checked(network(net_in, c_noise, class_labels, **conditions), given).contiguous()

    return forward


def inference_copy(module: nn.Module, device: torch.device, dtype: torch.dtype, memory_format: str) -> nn.Module:
    """Return a copy in eval mode on `device`, weights in `dtype` except those of layers with `keeps_float32`.

    Tensors that need no change are shared, not copied. A module with `for_sampling` gives another one of the same F,
    which is faster.

    Raises:
        BackendError: the module cannot be copied.
    """
    if (for_sampling := getattr(module, "for_sampling", None)) is not None:
        module = for_sampling()
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
            f"the network cannot be copied for inference ({first_line(error)}); wrap it with Denoiser.from_function"
        ) from None
