"""Snapshots of EDM2, emitted by hand as those of EDM are (`pickle_forge.py`): from the description of the format alone.

A snapshot is an EasyDict of an encoder, the data set's arguments, the loss and the network, in this order. All of the
network's tensors are float16. Every module says more of itself than EDM's do, which :class:`Forge` writes too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import torch

from restart_sampling.models.edm2.config import OURS

from .pickle_forge import SOURCE, Call, Emitter, Global, New, persistent, tree

SCALE = (0.11990407, 0.10822511, 0.13477089, 0.15243903)  # of the latents of the published networks
BIAS = (-0.69664264, -0.3517316, -0.01617251, 0.32774392)
VAE = "stabilityai/sd-vae-ft-mse"


def array(values: tuple[float, ...], module: str = "numpy.core", code: str = "f4") -> Call:
    """A NumPy array of one dimension."""
    dtype = Call("numpy.dtype", (code, False, True), (3, "<", None, None, None, -1, -1, 0))
    raw = struct.pack(f"<{len(values)}{'f' if code == 'f4' else 'd'}", *values)
    state = (1, (len(values),), dtype, False, raw)
    return Call(f"{module}.multiarray._reconstruct", (Global("numpy.ndarray"), (0,), b"b"), state)


def rgb(source: str = SOURCE) -> Call:
    """The encoder of networks of pixels."""
    return persistent("StandardRGBEncoder", {"_init_args": (), "_init_kwargs": {}}, source)


def vae(source: str = SOURCE, module: str = "numpy.core", **changes: Any) -> Call:
    """The encoder of networks of latents."""
    state = {"vae_name": VAE, "scale": array(SCALE, module), "bias": array(BIAS, module), "batch_size": 8, "_vae": None}
    state |= {"_init_args": (), "_init_kwargs": {}, **changes}
    return persistent("StabilityVAEEncoder", {n: v for n, v in state.items() if v is not ...}, source)


class Forge:
    """Emits the modules of a network. `network` is one of ours; only names, tensors and config are read.

    Args:
        half: tensors are written as float16. kwargs: the arguments of the outer network.
        lies: attributes of modules by path, in place of the true ones; `...` leaves one out.
        classes: class names of modules by path, in place of the true ones.
        extra: further modules by path, such as "unet.enc.8x8_gate".
    """

    def __init__(
        self,
        network: Any,
        source: str = SOURCE,
        half: bool = True,
        kwargs: Mapping[str, Any] | None = None,
        inner: Mapping[str, Any] | None = None,
        lies: Mapping[str, Mapping[str, Any]] | None = None,
        classes: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.source, self.config = source, network.config
        self.tensors = {n: t.detach().half() if half else t.detach() for n, t in network.state_dict().items()}
        self.parameters = {n for n, _ in network.named_parameters()}
        left = {n: v for n, v in self.config.items() if n not in ("class_name", *OURS)}
        self.kwargs = left if kwargs is None else dict(kwargs)
        own = ("use_fp16", "sigma_data", "logvar_channels")
        self.inner = {n: v for n, v in self.kwargs.items() if n not in own} if inner is None else dict(inner)
        self.lies, self.classes, self.extra = lies or {}, classes or {}, extra or {}

    def attributes(self, path: str) -> dict[str, Any]:
        """What a module says of itself besides its tensors and arguments."""
        c, last = self.config, path.rpartition(".")[2]
        if path == "":
            return {n: c[n] for n in ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data")}
        if path == "unet":
            said = {"label_balance": c["label_balance"], "concat_balance": c["concat_balance"]}
            return said if c["label_dim"] else {**said, "emb_label": None}
        if f"{path}.emb_gain" in self.tensors:
            out = len(self.tensors[f"{path}.conv_res1.weight"])
            layers = ("conv_skip", "attn_qkv", "attn_proj")
            missing = [n for n in layers if f"{path}.{n}.weight" not in self.tensors]
            return {
                "out_channels": out,
                "flavor": path.split(".")[1],
                "resample_filter": [1, 1],
                "resample_mode": {"_down": "down", "_up": "up"}.get(last[last.find("_") :], "keep"),
                "num_heads": 0 if "attn_qkv" in missing else out // c["channels_per_head"],
                "dropout": c["dropout"],
                "res_balance": c["res_balance"],
                "attn_balance": c["attn_balance"],
                "clip_act": float("inf") if c["clip_act"] is None else c["clip_act"],
                **dict.fromkeys(missing),
            }
        if f"{path}.weight" in self.tensors:
            return {"out_channels": len(self.tensors[f"{path}.weight"])}
        return {}

    def class_name(self, path: str) -> str:
        if path in self.classes:
            return self.classes[path]
        if path in ("", "unet"):
            return "UNet" if path else self.config["class_name"]
        if f"{path}.emb_gain" in self.tensors:
            return "Block"
        return "MPConv" if f"{path}.weight" in self.tensors else "MPFourier"

    def arguments(self, path: str) -> dict[str, Any]:
        """_init_args and _init_kwargs."""
        if path in ("", "unet"):
            return {"_init_args": (), "_init_kwargs": self.inner if path else self.kwargs}
        if f"{path}.emb_gain" in self.tensors:
            return {"_init_args": (8, 8, 8), "_init_kwargs": {"flavor": path.split(".")[1], "attention": False}}
        kernel = list(self.tensors[f"{path}.weight"].shape[2:]) if f"{path}.weight" in self.tensors else []
        return {"_init_args": (8, 8), "_init_kwargs": {"kernel": kernel}}

    def module(self, node: Mapping[str, Any], path: str = "") -> Any:
        own = {n: v for n, v in node.items() if isinstance(v, str)}
        children = {n: v for n, v in node.items() if not isinstance(v, str)}
        parameters = {n: torch.nn.Parameter(self.tensors[v], False) for n, v in own.items() if v in self.parameters}
        hooks = Call("collections.OrderedDict")
        state: dict[str, Any] = {
            "training": False,
            "_parameters": parameters,
            "_buffers": {n: self.tensors[v] for n, v in own.items() if v not in self.parameters},
            "_non_persistent_buffers_set": set(),
            "_backward_pre_hooks": hooks,
            "_backward_hooks": hooks,
            "_is_full_backward_hook": None,
            "_forward_hooks": hooks,
            "_modules": {n: self.module(v, f"{path}.{n}" if path else n) for n, v in children.items()},
        }
        for where, module in self.extra.items():
            if where.rpartition(".")[0] == path:
                state["_modules"][where.rpartition(".")[2]] = module
        if path in ("unet.enc", "unet.dec"):
            return New("torch.nn.modules.container.ModuleDict", state)
        state |= {**self.attributes(path), **self.arguments(path), **self.lies.get(path, {})}
        return persistent(self.class_name(path), {n: v for n, v in state.items() if v is not ...}, self.source)

    def root(self) -> Any:
        return self.module(tree(self.tensors))


def snapshot(
    network: Any, protocol: int = 4, *, source: str = SOURCE, encoder: Any = ..., key: str = "ema", **options: Any
) -> bytes:
    """A snapshot of `network`; its encoder is that of pixels unless given, and None leaves it out."""
    encoder = rgb(source) if encoder is ... else encoder
    data = {"class_name": "training.dataset.ImageFolderDataset", "path": "data.zip", "use_labels": True}
    entries = {
        "encoder": encoder,
        "dataset_kwargs": New("dnnlib.util.EasyDict", items=data),
        "loss_fn": persistent("EDM2Loss", {"P_mean": -0.4, "P_std": 1.0, "sigma_data": 0.5}, source),
        key: Forge(network, source, **options).root(),
    }
    if encoder is None:
        del entries["encoder"]
    return Emitter(protocol).pickle(New("dnnlib.util.EasyDict", items=entries))
