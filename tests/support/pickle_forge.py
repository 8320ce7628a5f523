"""Checkpoints of EDM and PFGM++, emitted by hand, opcode by opcode.

No such file may be committed, because each embeds its network's source text, and the code that writes them may not be
copied. So these are put together from the description of the format: `Emitter` writes pickle opcodes of protocol 2 to
5, :func:`snapshot` a `.pkl` and :func:`training_state` a `.pt`, whose zip archive torch's own writer makes.
`tests/models/test_pickles.py` also reads them with the standard library's pickle, so a mistake here does not pass for
the format.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SOURCE = "raise SystemExit('the source text of a checkpoint was run')\n"
STORAGE = {
    torch.float32: "FloatStorage",
    torch.float16: "HalfStorage",
    torch.float64: "DoubleStorage",
    torch.bfloat16: "BFloat16Storage",
    torch.int64: "LongStorage",
    torch.int32: "IntStorage",
    torch.uint8: "ByteStorage",
}


@dataclass(frozen=True)
class Raw:
    """Opcodes that leave one value on the stack."""

    code: bytes


@dataclass(frozen=True)
class Global:
    """A dotted name."""

    dotted: str


@dataclass(frozen=True)
class Call:
    """REDUCE of a global with arguments, then BUILD if there is a state."""

    dotted: str
    args: tuple[Any, ...] = ()
    state: Any = None


@dataclass(frozen=True)
class New:
    """NEWOBJ of a global, then SETITEMS or BUILD."""

    dotted: str
    state: Any = None
    items: Any = None


@dataclass(frozen=True)
class Stored:
    """A persistent id."""

    identity: tuple[Any, ...]


def scalar(value: float, module: str = "numpy.core.multiarray") -> Call:
    """A numpy float64."""
    dtype = Call("numpy.dtype", ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    return Call(f"{module}.scalar", (dtype, struct.pack("<d", value)))


def persistent(class_name: str, state: Any, source: str = SOURCE, **meta: Any) -> Call:
    """A persistence record."""
    record = {"type": "class", "version": 6, "module_src": source, "class_name": class_name, "state": state, **meta}
    return Call("torch_utils.persistence._reconstruct_persistent_obj", (record,))


class Emitter:
    """Turns values into opcodes. Text is emitted once and then taken from the memo, as picklers do."""

    def __init__(self, protocol: int = 4, storages: dict[str, bytes] | None = None) -> None:
        self.protocol, self.storages = protocol, storages
        self.memo: dict[Any, int] = {}

    def pickle(self, value: Any) -> bytes:
        """A whole pickle; the frame of protocol 4 is cut as one."""
        body = self.value(value) + b"."
        frame = b"\x95" + struct.pack("<Q", len(body)) if self.protocol >= 4 else b""
        return b"\x80" + bytes([self.protocol]) + frame + body

    def value(self, value: Any) -> bytes:
        if isinstance(value, Raw):
            return value.code
        if isinstance(value, Call):
            return self.call(value)
        if isinstance(value, New):
            return self.new(value)
        if isinstance(value, Global):
            return self.name(value.dotted)
        if isinstance(value, Stored):
            return self.tuple(value.identity) + b"Q"
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            return self.integer(value)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return self.once(("text", value), self.text(value))
        if isinstance(value, bytes):
            return self.bytes(value)
        if isinstance(value, tuple):
            return self.tuple(value)
        if isinstance(value, list):
            return b"](" + b"".join(map(self.value, value)) + b"e"
        if isinstance(value, (set, frozenset)):
            return self.set(sorted(value))
        if isinstance(value, Mapping):
            return b"}(" + b"".join(self.value(k) + self.value(v) for k, v in value.items()) + b"u"
        return self.value(self.tensor(value))

    def once(self, key: Any, code: bytes) -> bytes:
        """`code` and a memo entry the first time, a look into the memo from then on."""
        if key in self.memo:
            i = self.memo[key]
            return b"h" + bytes([i]) if i < 256 else b"j" + struct.pack("<I", i)
        i = self.memo[key] = len(self.memo)
        if self.protocol >= 4:
            return code + b"\x94"
        return code + (b"q" + bytes([i]) if i < 256 else b"r" + struct.pack("<I", i))

    @staticmethod
    def integer(value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        if 0 <= value < 65536:
            return b"M" + struct.pack("<H", value)
        if -(2**31) <= value < 2**31:
            return b"J" + struct.pack("<i", value)
        n = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([n]) + value.to_bytes(n, "little", signed=True)

    def text(self, value: str) -> bytes:
        raw = value.encode()
        if self.protocol >= 4 and len(raw) < 256:
            return b"\x8c" + bytes([len(raw)]) + raw
        return b"X" + struct.pack("<I", len(raw)) + raw

    def bytes(self, value: bytes) -> bytes:
        if self.protocol < 3:
            return self.call(Call("_codecs.encode", (Raw(self.text(value.decode("latin-1"))), "latin1")))
        if len(value) < 256:
            return b"C" + bytes([len(value)]) + value
        return b"B" + struct.pack("<I", len(value)) + value

    def tuple(self, value: tuple[Any, ...]) -> bytes:
        items = b"".join(map(self.value, value))
        return items + bytes([0x84 + len(value)]) if 1 <= len(value) <= 3 else (b"(" + items + b"t" if value else b")")

    def set(self, value: list[Any]) -> bytes:
        if self.protocol >= 4:
            return b"\x8f" + (b"(" + b"".join(map(self.value, value)) + b"\x90" if value else b"")
        return self.call(Call("builtins.set" if self.protocol == 3 else "__builtin__.set", (value,)))

    # Objects

    def name(self, dotted: str) -> bytes:
        module, name = dotted.rsplit(".", 1)
        if ("global", dotted) in self.memo:
            return self.once(("global", dotted), b"")
        if self.protocol >= 4:
            return self.once(("global", dotted), self.value(module) + self.value(name) + b"\x93")
        return self.once(("global", dotted), b"c" + module.encode() + b"\n" + name.encode() + b"\n")

    def call(self, call: Call) -> bytes:
        code = self.name(call.dotted) + self.tuple(call.args) + b"R"
        return code if call.state is None else code + self.value(call.state) + b"b"

    def new(self, new: New) -> bytes:
        code = self.name(new.dotted) + b")\x81"
        if new.items is not None:
            code += b"(" + b"".join(self.value(k) + self.value(v) for k, v in new.items.items()) + b"u"
        return code if new.state is None else code + self.value(new.state) + b"b"

    def tensor(self, t: Tensor) -> Call:
        """A tensor, or a parameter around one. Its storage is a blob inside the pickle, or a member beside it."""
        hooks = Call("collections.OrderedDict")
        if isinstance(t, torch.nn.Parameter):
            return Call("torch._utils._rebuild_parameter", (t.data, True, hooks))
        raw = raw_storage(t)
        storage: Any
        if self.storages is None:
            storage = Call("torch.storage._load_from_bytes", (storage_blob(raw, t.dtype),))
        else:
            key = str(len(self.storages))
            self.storages[key] = raw
            storage = Stored(
                ("storage", Global(f"torch.{STORAGE[t.dtype]}"), key, "cuda:0", len(raw) // t.element_size())
            )
        args = (storage, t.storage_offset(), tuple(t.shape), tuple(t.stride()), False, hooks)
        return Call("torch._utils._rebuild_tensor_v2", args)


def raw_storage(t: Tensor) -> bytes:
    return torch.empty(0, dtype=torch.uint8).set_(t.detach().untyped_storage()).numpy().tobytes()


def storage_blob(raw: bytes, dtype: torch.dtype, *, numel: int | None = None, key: str = "94275310525376") -> bytes:
    """A storage as an old-style torch.save file."""
    e = [Emitter(2) for _ in range(4)]
    numel = len(raw) // dtype.itemsize if numel is None else numel
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    identity = ("storage", Global(f"torch.{STORAGE[dtype]}"), key, "cpu", numel, None)
    parts = [e[0].pickle(0x1950A86A20F9469CFC6C), e[0].pickle(1001), e[1].pickle(system)]
    parts += [b"\x80\x02" + e[2].tuple(identity) + b"Q.", e[3].pickle([key])]
    return b"".join(parts) + struct.pack("<q", numel) + raw


# Networks


def tree(names: Iterable[str]) -> dict[str, Any]:
    """{"a": {"b": …}} from dotted names; a leaf is its whole name."""
    root: dict[str, Any] = {}
    for name in names:
        *path, last = name.split(".")
        node = root
        for part in path:
            node = node.setdefault(part, {})
        node[last] = name
    return root


class Forge:
    """Emits the modules of a network from its state dict.

    `network` is one of ours; only names, tensors and config are read.
    """

    def __init__(self, network: Any, source: str = SOURCE, kwargs: Mapping[str, Any] | None = None) -> None:
        self.source, self.config = source, network.config
        self.tensors = {n: t.detach() for n, t in network.state_dict().items()}
        self.parameters = {n for n, _ in network.named_parameters()}
        self.adm = self.config["model_type"] == "DhariwalUNet"
        self.kwargs = self.arguments() if kwargs is None else kwargs

    def arguments(self) -> dict[str, Any]:
        """What a training script passes to the class."""
        own = {"EDMPrecond": ("sigma_data",), "VEPrecond": (), "VPPrecond": ("beta_d",), "iDDPMPrecond": ("M",)}
        left = {
            "class_name",
            "sigma_min",
            "sigma_max",
            "sigma_data",
            "pfgmpp",
            "D",
            "beta_d",
            "beta_min",
            "M",
            "epsilon_t",
            "C_1",
            "C_2",
        }
        kwargs = {n: v for n, v in self.config.items() if n not in left}
        kwargs |= {n: self.config[n] for n in own[self.config["class_name"]]}
        return kwargs | ({"pfgmpp": True, "D": self.config["D"]} if self.config.get("pfgmpp") else {})

    def attributes(self, root: bool, node: Mapping[str, Any], path: str) -> dict[str, Any]:
        """Attributes of a module besides those of torch: what the reader looks at, and some that it does not."""
        if root:
            limits = {"sigma_min": self.config["sigma_min"], "sigma_max": self.config["sigma_max"]}
            said = {n: float("inf") if v is None else v for n, v in limits.items()}
            if "sigma_data" in self.config:
                said["sigma_data"] = self.config["sigma_data"]
            if self.config.get("pfgmpp"):
                said |= {"pfgmpp": True, "D": self.config["D"], "N": 3072}
            names = ("img_resolution", "img_channels", "label_dim", "use_fp16")
            return {n: self.config[n] for n in names} | said
        if "conv0" in node:
            out = len(self.tensors[f"{path}.norm1.weight"])
            heads = 0 if "qkv" not in node else out // 64 if self.adm else 1
            scale = 1 if self.adm else scalar(0.5**0.5)
            return {
                "in_channels": 8,
                "num_heads": heads,
                "dropout": 0.1,
                "skip_scale": scale,
                "adaptive_scale": self.adm,
            }
        if "norm" in path.rpartition(".")[2]:
            return {"eps": 1e-5 if self.adm else 1e-6, "num_groups": min(32, len(self.tensors[f"{path}.weight"]) // 4)}
        return {}

    def class_name(self, node: Mapping[str, Any], path: str) -> str:
        if path in ("", "model"):
            return self.config["model_type" if path else "class_name"]
        last = path.rpartition(".")[2]
        if "conv0" in node:
            return "UNetBlock"
        for word, name in {
            "map_noise": "FourierEmbedding",
            "norm": "GroupNorm",
            "map": "Linear",
            "affine": "Linear",
        }.items():
            if word in last:
                return name
        return "Conv2d"

    def module(self, node: Mapping[str, Any], path: str = "") -> Any:
        own = {n: v for n, v in node.items() if isinstance(v, str)}
        children = {n: v for n, v in node.items() if not isinstance(v, str)}
        if path == "model" and "map_noise" not in children:
            children = {"map_noise": {}, **children}  # positional: a module without a tensor
        state: dict[str, Any] = {"training": False}
        state["_parameters"] = {
            n: torch.nn.Parameter(self.tensors[v], requires_grad=False) for n, v in own.items() if v in self.parameters
        }
        state["_buffers"] = {n: self.tensors[v] for n, v in own.items() if v not in self.parameters}
        if "weight" in own and "resample_filter" not in own:
            state["_buffers"]["resample_filter"] = None
        state["_non_persistent_buffers_set"] = set()
        state["_backward_hooks"] = Call("collections.OrderedDict")
        state["_modules"] = {n: self.module(v, f"{path}.{n}" if path else n) for n, v in children.items()}
        if path in ("model.enc", "model.dec"):
            return New("torch.nn.modules.container.ModuleDict", state)
        state |= self.attributes(path == "", node, path)
        state["_init_args"] = ()
        state["_init_kwargs"] = {}
        if path == "":
            state["_init_kwargs"] = self.kwargs
        elif path == "model":
            C = self.config["img_channels"]
            out = C * (2 if self.config["class_name"] == "iDDPMPrecond" else 1)
            outer = ("img_channels", "use_fp16", "model_type", "sigma_data", "beta_d", "M", "pfgmpp", "D")
            inner = {n: v for n, v in self.kwargs.items() if n not in outer}
            state["_init_kwargs"] = {"in_channels": C, "out_channels": out, **inner}
        return persistent(self.class_name(node, path), state, self.source)

    def root(self) -> Any:
        return self.module(tree(self.tensors))


def snapshot(network: Any, protocol: int = 4, *, source: str = SOURCE, key: str = "ema", **kwargs: Any) -> bytes:
    """A `.pkl` snapshot of `network`; the loss has EasyDict options, as in PFGM++ files."""
    loss = {"opts": New("dnnlib.util.EasyDict", items={"P_mean": -1.2, "P_std": 1.2})}
    return Emitter(protocol).pickle(
        {
            key: Forge(network, source, **kwargs).root(),
            "loss_fn": persistent("EDMLoss", loss, source),
            "augment_pipe": None,
            "dataset_kwargs": {"path": "data.zip", "xflip": True, "max_size": 50_000},
        }
    )


def training_state(network: Any, *, source: str = SOURCE, key: str = "net", **kwargs: Any) -> bytes:
    """A `.pt` training state of `network`, with an Adam state; protocol 2 in a zip archive, as torch.save writes it."""
    storages: dict[str, bytes] = {}
    adam = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}
    content = {
        key: Forge(network, source, **kwargs).root(),
        "optimizer_state": {"state": adam, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0]}]},
        "step": 70_000,
    }
    return archive(Emitter(2, storages).pickle(content), storages)


def archive(pickle: bytes, storages: Mapping[str, bytes], extra: Mapping[str, bytes] | None = None) -> bytes:
    """A torch.save file from its parts, by torch's own writer."""
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    members = {
        "data.pkl": pickle,
        "byteorder": b"little",
        **{f"data/{k}": v for k, v in storages.items()},
        **(extra or {}),
    }
    for name, content in members.items():
        writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return buffer.getvalue()


# Read by others


class Plainly(pickle.Unpickler):
    """The standard library's unpickler with the few classes of the format that are not installed."""

    def find_class(self, module, name):
        if module in ("torch_utils.persistence", "dnnlib.util"):
            return dict if name == "EasyDict" else lambda meta: meta
        if name == "ModuleDict":
            return Bag
        return super().find_class(module, name)


class Bag:
    pass


def flattened(record, path=""):
    """State-dict names and tensors of what `Plainly` made."""
    state = record["state"] if isinstance(record, dict) else record.__dict__
    for part in ("_parameters", "_buffers"):
        yield from ((path + name, t) for name, t in state[part].items() if t is not None)
    for name, child in state["_modules"].items():
        yield from flattened(child, f"{path}{name}.")
