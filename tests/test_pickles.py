"""EDM and PFGM++ checkpoints: what is read is right, and whatever else a file holds does nothing.

The fixtures are forged by hand (`pickle_forge.py`), read here by the standard library's pickle and by torch.load as well, and the
networks are judged by `edm_reference.py`, which states their formulas a second time in float64.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import edm_reference
import numpy as np
import pickle_forge as forge
import pytest
import torch
from pickle_forge import Call, Emitter, Global, New, Raw, Stored, persistent, scalar

import restart_sampling as rs
from restart_sampling.errors import CheckpointError
from restart_sampling.models import build_network
from restart_sampling.models.pickles import read
from restart_sampling.models.pickles.archive import Archive
from restart_sampling.models.pickles.limits import LIMITS
from restart_sampling.models.pickles.machine import OPCODES, Machine
from restart_sampling.models.pickles.sources import SOURCES, Source
from restart_sampling.models.pickles.tensors import Budget, number, tensor

ROOT = Path(__file__).resolve().parents[1]
SONG = {"model_type": "SongUNet", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}
FOURIER = {
    "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "resample_filter": [1, 3, 3, 1],
}  # fmt: skip
ARCHITECTURES = {
    "ddpm++": SONG,
    "ncsn++": SONG | FOURIER,
    "adm": SONG | {"model_type": "DhariwalUNet", "model_channels": 32},
}
# Stored limits that no formula gives, so that recomputed ones would be seen.
CLASSES = {
    "EDMPrecond": {"sigma_min": 0.001, "sigma_data": 0.7},
    "VPPrecond": {"sigma_min": 0.0009765625, "sigma_max": 152.0, "beta_d": 18.0},
    "VEPrecond": {"sigma_min": 0.03, "sigma_max": 90.0},
    "iDDPMPrecond": {"sigma_min": 0.0065, "sigma_max": 20000.0, "M": 50},
}
FORMS = {
    "pkl 2": lambda network, **k: forge.snapshot(network, 2, **k),
    "pkl 3": lambda network, **k: forge.snapshot(network, 3, **k),
    "pkl 4": lambda network, **k: forge.snapshot(network, 4, **k),
    "pkl 5": lambda network, **k: forge.snapshot(network, 5, **k),
    "pt": forge.training_state,
}
KINDS = [
    (name, kind, labels, form)
    for i, (name, kind) in enumerate((c, a) for c in CLASSES for a in ARCHITECTURES)
    for labels, form in ((0, list(FORMS)[i % 5]), (4, list(FORMS)[(i + 2) % 5]))
]
TINY = {
    "class_name": "EDMPrecond", "model_type": "SongUNet", "img_resolution": 4, "img_channels": 1, "model_channels": 4,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [],
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only lose by threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(class_name: str, kind: str, labels: int, seed: int = 0):
    """A network in which every weight matters; without labels it has an augmentation layer."""
    config = {"class_name": class_name, "img_resolution": 16, "img_channels": 3, "label_dim": labels, "augment_dim": 9 - 9 * (labels > 0)}
    network = build_network(config | ARCHITECTURES[kind] | CLASSES[class_name], seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for name, p in network.named_parameters():
        if p.dim() > 1 and float(p.std()) < 1e-3:
            p.normal_(0.0, 1 / math.sqrt(p[0].numel()), generator=generator)
        elif "norm" in name:
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    if class_name == "iDDPMPrecond":
        network.u[:-1] *= 1.01  # stored levels, not the formula's
    if kind == "ncsn++" and class_name in ("VPPrecond", "iDDPMPrecond"):
        # Nobody trained this pair: c_noise up to 999 times frequencies of 100 leaves float32 three digits of the angle.
        network.model.map_noise.freqs /= 1000
    return network


@pytest.fixture(scope="module")
def tiny():
    return build_network(TINY, seed=0)


@pytest.fixture(scope="module")
def snapshot(tiny):
    return forge.snapshot(tiny)


def load(content: bytes):
    """Network of a checkpoint given as bytes."""
    return read("x.pkl", memoryview(content)).network()


def coefficients(class_name: str, state: dict, sigma: float) -> tuple[float, float, float, float]:
    """c_skip, c_out, c_in, c_noise of EDM's Table 1, with the constants of CLASSES."""
    if class_name == "EDMPrecond":
        d, total = 0.7, sigma**2 + 0.7**2
        return d**2 / total, sigma * d / math.sqrt(total), 1 / math.sqrt(total), math.log(sigma) / 4
    if class_name == "VEPrecond":
        return 1.0, sigma, 1.0, math.log(sigma / 2)
    if class_name == "VPPrecond":
        t = (math.sqrt(0.1**2 + 2 * 18.0 * math.log(1 + sigma**2)) - 0.1) / 18.0
        return 1.0, -sigma, 1 / math.sqrt(sigma**2 + 1), 999 * t
    j = int((state["u"].double() - sigma).abs().argmin())
    return 1.0, -sigma, 1 / math.sqrt(sigma**2 + 1), 50 - 1 - j


# What is read is right


@pytest.mark.parametrize("class_name, kind, labels, form", KINDS, ids=lambda v: str(v))
def test_outputs_are_those_of_the_float64_statement(tmp_path, class_name, kind, labels, form):
    network = made(class_name, kind, labels)
    path = tmp_path / ("x.pt" if form == "pt" else "x.pkl")
    path.write_bytes(FORMS[form](network))
    denoiser = rs.load(path)
    state = network.state_dict()
    mine = denoiser.network.state_dict()
    assert mine.keys() == state.keys() and all(torch.equal(mine[n], state[n]) for n in state)
    assert not denoiser.network.training and all(p.dtype == torch.float32 for p in denoiser.parameters)
    assert denoiser.shape == (3, 16, 16) and denoiser.label_dim == labels
    want = CLASSES[class_name]
    assert denoiser.parameterization.sigma_min == want["sigma_min"]
    assert denoiser.parameterization.sigma_max == want.get("sigma_max", math.inf)

    sigma = 1.7
    if class_name == "iDDPMPrecond":
        sigma = float(denoiser.parameterization.round_sigma(np.array(sigma)))
        assert sigma in state["u"].double().tolist()
    c_skip, c_out, c_in, c_noise = coefficients(class_name, state, sigma)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 16, 16))) * sigma
    one_hot = torch.eye(labels, dtype=torch.float64)[[1, 3]] if labels else None
    F = edm_reference.network(state, c_in * x, torch.tensor([c_noise]), one_hot, kind == "adm")[:, :3]
    D = c_skip * x + c_out * F
    with torch.no_grad():
        got = denoiser(x.float(), sigma, None if one_hot is None else one_hot.float())
    assert float((got.double() - D).norm() / D.norm()) < 2e-5


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


@pytest.mark.parametrize("form", FORMS)
def test_the_forged_files_are_what_pickle_and_torch_read(form):
    network = made("iDDPMPrecond", "ncsn++", 4)
    content = FORMS[form](network, key="ema")
    if form == "pt":
        module = type(sys)("plainly")
        module.Unpickler, module.load, module.loads = Plainly, pickle.load, pickle.loads
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False, pickle_module=module)
    else:
        value = Plainly(io.BytesIO(content)).load()
    theirs = dict(flattened(value["ema"]))
    want = network.state_dict()
    mine = load(content).state_dict()
    assert theirs.keys() == want.keys() == mine.keys()
    for name, t in want.items():
        assert torch.equal(theirs[name], t) and torch.equal(mine[name], t), name
    block = value["ema"]["state"]["_modules"]["model"]["state"]["_modules"]["enc"].__dict__["_modules"]["16x16_block0"]["state"]
    assert block["skip_scale"] == np.sqrt(0.5) and type(block["_non_persistent_buffers_set"]) is set


def test_tensors_of_torch_save():
    """Files by torch itself: every dtype, strides, offsets, shared storages, no elements, no dimensions."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    values = {
        "plain": base, "view": base[1, 1:], "strided": base.transpose(0, 2), "row": base[:, 1], "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3), "last": torch.randn(2, 8, 3, 3).to(memory_format=torch.channels_last),
        "one": base[:1, :1, 3:].expand(1, 1, 1), "parameter": torch.nn.Parameter(torch.ones(3)),
        **{str(d): torch.arange(6).to(d) for d in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)},
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(values, buffer)
    data = memoryview(buffer.getvalue())
    archive = Archive(data)
    found = Machine(archive.read("archive/data.pkl"), storages=True).run().value
    assert found.keys() == values.keys()
    for name, want in values.items():
        t = tensor(found[name], archive, Budget(10**6), 0).make()
        assert t.dtype == want.dtype and torch.equal(t, want.detach()) and t.is_contiguous(), name
    for name, want in values.items():  # and inside a plain pickle, where each storage is a file of torch's own
        content = io.BytesIO()
        pickle.dump(want, content, protocol=4)
        value = Machine(memoryview(content.getvalue())).run().value
        assert torch.equal(tensor(value, None, Budget(10**6), 0).make(), want.detach()), name


@pytest.mark.parametrize("value", [0.5**0.5, np.float32(0.25), np.int64(-7), np.bool_(True), np.float64(1e300)])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numbers_of_numpy(value, protocol):
    content = pickle.dumps(value, protocol=protocol)
    assert number(Machine(memoryview(content)).run().value) == value


PLAIN = [
    None, True, False, 0, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**40, -(2**62), 0.1, float("inf"), "", "σ" * 300, (), (1,),
    (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [1], list(range(3000)), {}, {"a": 1, 2: "b"}, {str(i): i for i in range(2500)}, set(),
    {1, 2, "x"}, [[["deep"], {}], ({"k": [None]},)],
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_as_the_standard_library_writes_them(protocol):
    for value in PLAIN:
        content = pickle.dumps([value, value], protocol=protocol)  # twice: the memo
        dumped = Machine(memoryview(content)).run()
        assert dumped.value == [value, value] and dumped.end == len(content)
    big = os.urandom(70_000)
    assert bytes(Machine(memoryview(pickle.dumps(big, protocol=4))).run().value.view) == big


def test_memory_is_taken_once_and_the_file_is_let_go(tmp_path, snapshot, tiny):
    path = tmp_path / "x.pkl"
    path.write_bytes(snapshot)
    network = rs.load(path).network
    os.truncate(path, 0)  # the weights do not hang on the file
    assert all(torch.equal(t, tiny.state_dict()[n]) for n, t in network.state_dict().items())
    assert not any(p.requires_grad or p.is_meta for p in (*network.parameters(), *network.buffers()))


# What is said about it


def test_unknown_source_is_a_note_and_known_is_none(tmp_path, snapshot, monkeypatch):
    path = tmp_path / "x.pkl"
    path.write_bytes(snapshot)
    (note,) = rs.load(path).info["notes"]
    assert "not a known version of EDM or PFGM++" in note
    digest = read(path).found.sources[0]
    monkeypatch.setitem(SOURCES, digest, Source("test", "none"))
    assert rs.load(path).info["notes"] == []


def test_raw_weights_are_a_note(tmp_path, tiny):
    path = tmp_path / "x.pt"
    path.write_bytes(forge.training_state(tiny))
    assert "no averaged weights" in rs.load(path).info["notes"][1]
    path.write_bytes(forge.training_state(tiny, key="ema"))
    assert len(rs.load(path).info["notes"]) == 1


def test_long_source_text_is_hashed_as_bytes(tiny):
    source = "# σ\n" * LIMITS.text
    import hashlib

    assert read("x", memoryview(forge.snapshot(tiny, source=source))).found.sources == (hashlib.sha256(source.encode()).hexdigest(),)


@pytest.mark.parametrize("class_name", ["EDMPrecond", "VEPrecond"])
def test_pfgmpp_has_its_D(tmp_path, class_name):
    path = tmp_path / "x.pkl"
    config = {**TINY, "class_name": class_name, "pfgmpp": True, "D": 2048}
    path.write_bytes(forge.snapshot(build_network(config, seed=0)))
    denoiser = rs.load(path)
    assert denoiser.augmented_dim == denoiser.info["pfgmpp_D"] == 2048
    path.write_bytes(forge.snapshot(build_network({**TINY, "class_name": class_name, "D": 2048}, seed=0)))
    denoiser = rs.load(path)
    assert denoiser.augmented_dim is None and denoiser.info["pfgmpp_D"] is None


def test_arguments_of_early_pfgmpp_sources(tiny):
    kwargs = forge.Forge(tiny).kwargs
    early = {**kwargs, "pfgmv2": True, "pfgm": False, "small": False, "D": 64}
    checkpoint = read("x", memoryview(forge.snapshot(tiny, kwargs=early)))
    assert checkpoint.config["pfgmpp"] is True and checkpoint.config["D"] == 64
    for name in ("pfgm", "small"):
        with pytest.raises(CheckpointError, match=f"{name}=true .an early PFGM"):
            load(forge.snapshot(tiny, kwargs={**kwargs, name: True}))


def test_fp16_is_recorded(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(forge.snapshot(build_network({**TINY, "use_fp16": True}, seed=0)))
    denoiser = rs.load(path)
    assert denoiser.info["use_fp16"] is True and denoiser.parameters[0].dtype == torch.float32


def test_pinned_by_the_file_or_by_the_tensors(tmp_path, snapshot, tiny):
    from restart_sampling.models.weights import tensors_sha256

    path = tmp_path / "x.pkl"
    path.write_bytes(snapshot)
    for pin in (rs.load(path).info["sha256"].upper(), tensors_sha256(tiny.state_dict())):
        assert rs.load(path, sha256=pin).shape == (1, 4, 4)
    with pytest.raises(CheckpointError, match=r"is not the one asked for, 0000"):
        rs.load(path, sha256="0" * 64)
    with pytest.raises(CheckpointError, match="64 hexadecimal digits"):
        rs.load(path, sha256="abc")


# What is refused


def pickled(*code: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(code)


def emitted(value, protocol: int = 4) -> bytes:
    return Emitter(protocol).pickle(value)


def module(parameters=None, buffers=None, modules=None, class_name="EDMPrecond", **state):
    parts = {"_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": modules or {}}
    kwargs = {n: v for n, v in TINY.items() if n != "class_name"} if class_name == "EDMPrecond" else {}
    return persistent(class_name, {**parts, "_init_args": (), "_init_kwargs": kwargs, **state})


def inner(parameters):
    """A checkpoint whose inner network has these parameters."""
    return emitted({"ema": module(modules={"model": module(parameters, class_name="SongUNet")})})


def with_storage(blob, size=(4,), stride=(1,), offset=0):
    storage = Call("torch.storage._load_from_bytes", (blob,))
    args = (storage, offset, size, stride, False, Call("collections.OrderedDict"))
    return inner({"w": Call("torch._utils._rebuild_tensor_v2", args)})


def doubled(depth):
    """A module with two children that are one module, which has two children that are one, and so on."""
    code = b"N"
    for i in range(depth):
        index = struct.pack("<I", 10_000 + i)
        one = b"X\1\0\0\0a" + code + b"r" + index + b"X\1\0\0\0bj" + index
        code = Emitter(2).value(module(modules=Raw(b"}(" + one + b"u")))
    return Raw(code)


GOOD = forge.storage_blob(struct.pack("<4f", 1, 2, 3, 4), torch.float32)
EVIL = b"cos\nsystem\nX\x04\x00\x00\x00true\x85R."
HUGE = struct.pack("<Q", 2**62)
GLOBAL = r"refused the global {}, which no EDM or PFGM\+\+ checkpoint needs"
ATTACKS = {
    # code
    "os.system": (emitted({"ema": Call("os.system", ("true",))}), GLOBAL.format("os.system")),
    "posix.system, protocol 2": (emitted({"ema": Call("posix.system", ("true",))}, 2), GLOBAL.format("posix.system")),
    "eval": (emitted({"ema": Call("builtins.eval", ("1",))}), GLOBAL.format("builtins.eval")),
    "exec": (emitted({"ema": Call("builtins.exec", ("1",))}), GLOBAL.format("builtins.exec")),
    "getattr": (emitted({"ema": Call("builtins.getattr", (1, "real"))}), GLOBAL.format("builtins.getattr")),
    "torch.load": (emitted({"ema": Call("torch.load", ("x",))}), GLOBAL.format("torch.load")),
    "inductor": (emitted(Call("torch._inductor.codecache.PyCodeCache", ())), GLOBAL.format("torch._inductor.codecache.PyCodeCache")),
    "dotted path after an allowed name": (
        emitted(Raw(Emitter(4).value("collections") + Emitter(4).text("OrderedDict.fromkeys") + b"\x93")),
        GLOBAL.format("collections.OrderedDict.fromkeys"),
    ),
    "a name with content": (emitted(Global("os.sys\x1b[31mtem")), "refused the global .a name that is not a plain word."),
    "globals of other types": (pickled(b"K\x01K\x02\x93."), "refused the global"),
    "evil pickle in the storage": (with_storage(b"\x80\x02" + EVIL), GLOBAL.format("os.system")),
    "evil pickle behind the magic number": (with_storage(GOOD[:15] + b"\x80\x02" + EVIL), GLOBAL.format("os.system")),
    "call of a storage class": (emitted(Call("torch.FloatStorage", ())), "something is called that must not be"),
    "call of a number": (pickled(b"K\x01)R."), "something is called"),
    "call with a list": (pickled(b"ccollections\nOrderedDict\n]R."), "something is called"),
    "object of a function": (emitted(New("torch._utils._rebuild_parameter")), "an object is made that must not be"),
    "object with arguments": (pickled(b"cdnnlib.util\nEasyDict\nK\x01\x85\x81."), "an object is made that must not be"),
    "state on a dict": (pickled(b"}}b."), "state is set on something that has none"),
    "items on a record": (pickled(emitted(Call("numpy.dtype", ("f8",)))[11:-1] + b"K\x01K\x02s."), "items are set on"),
    "items on a list": (pickled(b"]K\x01K\x02s."), "items are set on something that has none"),
    "append to a dict": (pickled(b"}K\x01a."), "appended to something that is no list"),
    "add to a list": (pickled(b"](K\x01\x90."), "added to something that is no set"),
    # opcodes
    "INST": (pickled(b"(ios\nsystem\n."), "opcode 0x69 is not one"),
    "OBJ": (pickled(b"(cos\nsystem\no."), "refused the global os.system|opcode 0x6f"),
    "OBJ of an allowed class": (pickled(b"(ccollections\nOrderedDict\no."), "opcode 0x6f is not one"),
    "EXT1": (pickled(b"\x82\x01."), "opcode 0x82"),
    "EXT2": (pickled(b"\x83\x01\x00."), "opcode 0x83"),
    "EXT4": (pickled(b"\x84\x01\x00\x00\x00."), "opcode 0x84"),
    "PERSID": (pickled(b"Pname\n."), "opcode 0x50"),
    "BINPERSID outside of a zip": (pickled(b"K\x01Q."), "a persistent id stands outside"),
    "BYTEARRAY8": (pickled(b"\x96" + HUGE + b"."), "opcode 0x96"),
    "NEWOBJ_EX": (pickled(b"cdnnlib.util\nEasyDict\n)}\x92."), "opcode 0x92"),
    "NEXT_BUFFER": (pickled(b"\x97."), "opcode 0x97"),
    "POP": (pickled(b"K\x01K\x020."), "opcode 0x30"),
    "DUP": (pickled(b"K\x012\x86."), "opcode 0x32"),
    "LONG4": (pickled(b"\x8b\x00\x00\x00\x40."), "opcode 0x8b"),
    "protocol 0": (b"(dp0\n.", "opcode 0x64|protocol"),
    "protocol 6": (b"\x80\x06N.", "not a pickle of protocol 2 to 5"),
    "protocol twice": (pickled(b"\x80\x04N."), "not a pickle of protocol 2 to 5"),
    # lengths
    "BINBYTES8 2^40": (pickled(b"\x8e" + struct.pack("<Q", 2**40) + b"x."), "1099511627776 bytes are promised, 2 are left"),
    "BINBYTES8 2^62": (pickled(b"\x8e" + HUGE + b"x."), "bytes are promised"),
    "BINUNICODE 4 GiB": (pickled(b"X\xff\xff\xff\xffx."), "4294967295 bytes are promised"),
    "FRAME 2^40": (pickled(b"\x95" + struct.pack("<Q", 2**40) + b"N."), "bytes are promised"),
    "LONG_BINPUT 2^32-1": (pickled(b"Nr\xff\xff\xff\xff."), "does not hold a dict"),
    "LONG1 of 255 bytes": (pickled(b"\x8a\xff" + b"\x7f" * 255 + b"."), "an integer is longer"),
    "a name without end": (pickled(b"c" + b"a" * 1000), "a global's name does not end"),
    # nesting
    "10^6 nested lists": (pickled(b"]" * 10**6 + b"a" * (10**6 - 1) + b"."), "longer or nested deeper"),
    "10^6 marks": (pickled(b"(" * 10**6), "longer or nested deeper"),
    "deep tuple": (pickled(b")" + b"\x85" * 400_000 + b"."), "does not hold a dict"),
    "deep tuple as a key": (pickled(b"})" + b"\x85" * 200_000 + b"Ns."), "a key is neither text nor an integer"),
    "deep tuple as an element": (pickled(b"\x8f()" + b"\x85" * 200_000 + b"\x90."), "an element of a set is neither"),
    "deep tuple as a module": (emitted({"ema": Raw(b")" + b"\x85" * 200_000)}), "not a persistent object|a module is needed"),
    "deep tuple as an argument": (
        emitted({"ema": module(_init_kwargs={"img_resolution": Raw(b")" + b"\x85" * 200_000)})}), "made with arguments that are no"
    ),
    "memo list bomb": (pickled(b"]q\x00" + b"(" + b"h\x00" * 1000 + b"e."), "does not hold a dict"),
    "a dict in itself": (pickled(b"}q\x00X\x03\x00\x00\x00emah\x00s."), "a module is needed"),
    "10^6 opcodes": (pickled(b"](" + b"Nq\x00" * 600_000 + b"e."), "longer or nested deeper"),
    "nothing on the stack": (pickled(b"."), "values left over, or none"),
    "two values left": (pickled(b"NN."), "values left over, or none"),
    "tuple across a mark": (pickled(b"K\x01(K\x02\x86t."), "a value is used that was never made"),
    "mark that was never set": (pickled(b"t."), "a mark is used that was never set"),
    "memo that was never set": (pickled(b"h\x05."), "a value is used that was never made"),
    "odd number of items": (pickled(b"}(K\x01u."), "items are set on"),
    "a list as a key": (pickled(b"}]Ns."), "a key is neither text nor an integer"),
    "a float as a key": (pickled(b"}G" + struct.pack(">d", 1) + b"Ns."), "a key is neither text nor an integer"),
    # tensors
    "storage too short": (with_storage(GOOD[:-4]), "a storage needs 16 bytes and has 12"),
    "storage too long": (with_storage(GOOD + b"1234"), "a storage needs 16 bytes and has 20"),
    "storage truncated in its header": (with_storage(GOOD[:60]), "ends inside a pickle|bytes are promised"),
    "storage without bytes": (with_storage(b""), "ends inside a pickle"),
    "storage with two lengths": (with_storage(forge.storage_blob(b"\0" * 16, torch.float32)[:-24] + struct.pack("<q", 9) + b"\0" * 16), "two lengths"),
    "storage of 2^40 numbers": (with_storage(forge.storage_blob(b"\0" * 16, torch.float32, numel=2**40)), "needs 4398046511104 bytes and has 16"),
    "storage big-endian": (with_storage(GOOD.replace(b"little_endianq\x01\x88", b"little_endianq\x01\x89")), "not little-endian"),
    "offset past the end": (with_storage(GOOD, offset=1), "reaches outside of its storage"),
    "negative offset": (with_storage(GOOD, offset=-1), "not lists of natural numbers"),
    "negative stride": (with_storage(GOOD, stride=(-1,)), "not lists of natural numbers"),
    "sizes and strides of two lengths": (with_storage(GOOD, size=(2, 2)), "not lists of natural numbers"),
    "nine dimensions": (with_storage(GOOD, size=(1,) * 9, stride=(1,) * 9), "not lists of natural numbers"),
    "float sizes": (with_storage(GOOD, size=(4.0,)), "not lists of natural numbers"),
    "stride-0 expansion": (with_storage(GOOD, size=(2**40,), stride=(0,)), "reaches outside of its storage"),
    "stride past the end": (with_storage(GOOD, size=(2,), stride=(4,)), "reaches outside of its storage"),
    "size product over 2^64": (with_storage(GOOD, size=(2**32, 2**32), stride=(0, 0)), "reaches outside of its storage"),
    "tensor without storage": (inner({"w": Call("torch._utils._rebuild_tensor_v2", (None, 0, (1,), (1,), False, None))}), "has no storage"),
    "tensor with metadata": (
        inner({"w": Call("torch._utils._rebuild_tensor_v2", (None, 0, (1,), (1,), False, None, {"neg": True}))}), "arguments that torch does not"
    ),
    "a number for a tensor": (inner({"w": 3}), "a tensor is needed"),
    "parameter in a parameter": (
        inner({"w": Call("torch._utils._rebuild_parameter", (Call("torch._utils._rebuild_parameter", (1, True, None)), True, None))}),
        "a tensor is",
    ),
    "one storage for many tensors": (
        inner({f"w{i}": Call("torch._utils._rebuild_tensor_v2", (Raw(s), 0, (4000,), (1,), False, None)) for i, s in enumerate(
            [Emitter(2).value(Call("torch.storage._load_from_bytes", (forge.storage_blob(b"\0" * 16_000, torch.float32),))) + b"r\xff\xff\0\0"]
            + [b"j\xff\xff\0\0"] * 20)}),
        "ask for more bytes than the file has",
    ),
    # modules
    "version 7": (emitted({"ema": persistent("EDMPrecond", {}, version=7)}), "another version than 6"),
    "version True": (emitted({"ema": persistent("EDMPrecond", {}, version=True)}), "another version than 6"),
    "type function": (emitted({"ema": persistent("EDMPrecond", {}, type="function")}), "another version"),
    "no source": (emitted({"ema": persistent("EDMPrecond", {}, source=None)}), "no module_src"),
    "record of a list": (emitted({"ema": Call("torch_utils.persistence._reconstruct_persistent_obj", ([],))}), "not one dict"),
    "class name with content": (emitted({"ema": persistent("EDM\nPrecond", {})}), "no class_name"),
    "EDM2": (emitted({"ema": module(class_name="Precond")}), "EDM2 networks are not supported"),
    "another class": (emitted({"ema": module(class_name="Generator")}), "class Generator is not supported, only EDMPrecond"),
    "module cycle": (
        emitted({"ema": module(modules=Raw(b"}q\xffX\x05\x00\x00\x00model" + Emitter(2).value(module(modules=Raw(b"h\xff"))) + b"s"))}),
        "nested deeper than a network",
    ),
    "2^60 ways to one module": (emitted({"ema": doubled(60)}), "the modules are more than a network's can be"),
    "no ema": (emitted({"G_ema": None, "step": 3}), "neither ema nor net, .*; its keys are G_ema, step"),
    "ema None": (emitted({"ema": None}), "neither ema nor net"),
    "ema not a module": (emitted({"ema": {"a": 1}}), "a module is needed"),
    "a state dict": (emitted({"state_dict": {}, "epoch": 1}), "diffusers"),
    "not a dict": (emitted([1, 2]), "does not hold a dict"),
    "trailing bytes": (emitted({}) + b"\0", "bytes follow the end of the pickle"),
    "no inner network": (emitted({"ema": module()}), "no inner network under the name model"),
    "positional arguments": (emitted({"ema": module(_init_args=(32,))}), "arguments that have no names"),
    "no modules dict": (emitted({"ema": persistent("EDMPrecond", {"_parameters": {}, "_buffers": {}})}), "a module has no dict"),
    "name with a dot": (emitted({"ema": module(buffers={"a.b": None, "": None})}), "not a plain word"),
    "unknown argument": (emitted({"ema": module(_init_kwargs={"img_resolutio": 4})}), "did you mean img_resolution"),
    "absurd width": (emitted({"ema": module(_init_kwargs={**TINY, "model_channels": 2**40})}), "has no class_name|model_channels must be"),
    "old torch.save": (GOOD, "torch.save's old format"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name):
    content, message = ATTACKS[name]
    with pytest.raises(CheckpointError, match=message) as info:
        load(content)
    said = str(info.value)
    assert said.startswith("x.pkl: ") and "Error while reading" not in said
    assert said.isprintable() and len(said) < 400


def rezipped(content: bytes, change=None, **kwargs) -> bytes:
    """The members of a torch.save file written again by the standard library's zipfile, after `change(members)`."""
    members = {i.filename: zipfile.ZipFile(io.BytesIO(content)).read(i) for i in zipfile.ZipFile(io.BytesIO(content)).infolist()}
    if change is not None:
        change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **kwargs) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


@pytest.fixture(scope="module")
def state(tiny):
    return forge.training_state(tiny)


def directory(content: bytes) -> int:
    """Where the directory of a zip file starts."""
    return struct.unpack_from("<I", content, content.rfind(b"PK\x05\x06") + 16)[0]


def wide(content: bytes) -> bytes:
    """The archive with 0xFFFF entries in its 32-bit end, so that the 64-bit end counts."""
    return patched(content, content.rfind(b"PK\x05\x06") + 10, b"\xff\xff")


ZIPS = {
    "deflated": (lambda c: rezipped(c, compression=zipfile.ZIP_DEFLATED), "is packed or encrypted"),
    "encrypted": (lambda c: patched(c, directory(c) + 8, b"\x01"), "is packed or encrypted"),
    "big-endian": (lambda c: rezipped(c, lambda m: m.update({"archive/byteorder": b"big"})), "not little-endian"),
    "no pickle": (lambda c: rezipped(c, lambda m: m.pop("archive/data.pkl")), "without a data.pkl"),
    "two pickles": (lambda c: rezipped(c, lambda m: m.update({"other/data.pkl": b""})), "without a data.pkl"),
    "path": (lambda c: rezipped(c, lambda m: m.update({"archive/../x y": b""})), "a name that torch.save does not give"),
    "storage missing": (lambda c: rezipped(c, lambda m: m.pop("archive/data/3")), "a storage is named that the zip archive does not have"),
    "storage short": (lambda c: rezipped(c, lambda m: m.update({"archive/data/3": b"1234"})), "needs [0-9]+ bytes and has 4"),
    "truncated": (lambda c: c[:-1], "the file is incomplete"),
    "half": (lambda c: c[: len(c) // 2], "the file is incomplete"),
    "trailing bytes": (lambda c: c + b"x" * 100, "the file is incomplete, or has bytes behind"),
    "not at its place": (lambda c: patched(c, directory(c) + 42, b"\x01"), "not where the directory says"),
    "outside": (lambda c: patched(c, directory(c) + 42, b"\xfe\xff\xff\x7f"), "lies outside of the file"),
    "two sizes": (lambda c: patched(c, directory(c) + 24, b"\x01"), "two sizes"),
    "flipped weight": (lambda c: patched(c, c.index(b"archive/data/3") + 70, b"\xaa"), "CRC-32"),
    "entries": (lambda c: patched(wide(c), c.rfind(b"PK\x06\x06") + 32, b"\xff" * 8), "does not fit in the file"),
    "directory": (lambda c: patched(wide(c), c.rfind(b"PK\x06\x06") + 48, b"\xff" * 8), "does not fit in the file"),
    "no locator": (lambda c: patched(wide(c), c.rfind(b"PK\x06\x07"), b"xxxx"), "directory cannot be found"),
    "no end": (lambda c: patched(wide(c), c.rfind(b"PK\x06\x06"), b"xxxx"), "directory cannot be found"),
}  # fmt: skip


@pytest.mark.parametrize("name", ZIPS)
def test_damaged_zip_archives_are_refused(name, state):
    change, message = ZIPS[name]
    with pytest.raises(CheckpointError, match=message) as info:
        load(change(state))
    assert "Error while reading" not in str(info.value)


def test_zip_names_and_members_twice(state, tiny):
    with pytest.warns(UserWarning, match="Duplicate name"):
        buffer = io.BytesIO(rezipped(state))
        with zipfile.ZipFile(buffer, "a") as file:
            file.writestr("archive/version", b"3")
    with pytest.raises(CheckpointError, match="have one name"):
        load(buffer.getvalue())
    # Two entries for one place, the start of every zip bomb.
    twice = rezipped(state, lambda m: m.update({"archive/data/99": m["archive/data/0"]}))
    at = twice.rindex(b"archive/data/99") - 46
    begin = twice.index(b"archive/data/0") - 30
    with pytest.raises(CheckpointError, match="not where the directory says|overlap"):
        load(patched(twice, at + 42, struct.pack("<I", begin)))
    assert torch.equal(load(rezipped(state)).model.map_layer0.weight, tiny.model.map_layer0.weight)  # and an honest one is read


def test_sixty_four_bit_zip_directories(state):
    """torch writes the numbers of members over 4 GiB into an extra field; here of a member that does not need it."""
    at = directory(state)
    n_name = struct.unpack_from("<H", state, at + 28)[0]
    size, begin = struct.unpack_from("<I", state, at + 24)[0], struct.unpack_from("<I", state, at + 42)[0]
    entry = bytearray(state[at : at + 46 + n_name])
    entry[20:28] = b"\xff" * 8
    entry[42:46] = b"\xff" * 4
    extra = struct.pack("<2H3Q", 1, 24, size, size, begin)
    struct.pack_into("<H", entry, 30, len(extra))
    far = bytearray(state[:at] + entry + extra + state[at + 46 + n_name :])
    end = far.rfind(b"PK\x06\x06")
    struct.pack_into("<Q", far, end + 40, struct.unpack_from("<Q", far, end + 40)[0] + len(extra))
    struct.pack_into("<Q", far, end + 64, end)  # the locator, behind the 56 bytes of the end
    struct.pack_into("<H", far, far.rfind(b"PK\x05\x06") + 10, 0xFFFF)
    assert read("x.pt", memoryview(bytes(far))).key == "net"
    struct.pack_into("<Q", far, at + 46 + n_name + 20, 2**63)
    with pytest.raises(CheckpointError, match="lies outside of the file"):
        read("x.pt", memoryview(bytes(far)))


class Changed(forge.Forge):
    """A forge that lies about one attribute."""

    path, lie = "", {}

    def attributes(self, root, node, path):
        said = super().attributes(root, node, path)
        return said | (self.lie if path == self.path else {})


LIES = {
    "skip scale": ("model.enc.4x4_block0", {"skip_scale": 1.0}, "skip_scale of model.enc.4x4_block0"),
    "heads": ("model.dec.4x4_in0", {"num_heads": 4}, "num_heads of model.dec.4x4_in0"),
    "scale and shift": ("model.enc.4x4_block0", {"adaptive_scale": True}, "adaptive_scale of"),
    "eps": ("model.enc.4x4_block0.norm0", {"eps": 1e-5}, "eps of model.enc.4x4_block0.norm0"),
    "groups": ("model.enc.4x4_block0.norm0", {"num_groups": 2}, "num_groups of"),
    "not a number": ("model.enc.4x4_block0", {"skip_scale": "much"}, "skip_scale of"),
    "resolution": ("", {"img_resolution": 8}, "two different things about its img_resolution"),
    "sigma_data": ("", {"sigma_data": 0.7}, "two different things about its sigma_data"),
    "sigma limits": ("", {"sigma_min": 9.0, "sigma_max": 1.0}, "sigma_min 9 must be below sigma_max 1"),
    "sigma_max nan": ("", {"sigma_max": math.nan}, "sigma_max must be a number"),
}


@pytest.mark.parametrize("name", LIES)
def test_networks_with_other_formulas_are_refused(name, tiny, monkeypatch):
    path, lie, message = LIES[name]
    monkeypatch.setattr(forge, "Forge", type("Lying", (Changed,), {"path": path, "lie": lie}))
    with pytest.raises(CheckpointError, match=message):
        load(forge.snapshot(tiny))


def test_weights_that_do_not_fit_are_named(tiny, snapshot):
    other = build_network(TINY | {"channel_mult_emb": 2}, seed=0)
    kwargs = forge.Forge(tiny).kwargs
    with pytest.raises(CheckpointError, match=r"tensors of the wrong shape: model.dec.*\(file \[4, 8\], network \[4, 16\]\)"):
        load(forge.snapshot(other, kwargs=kwargs))
    for value in (math.nan, math.inf):
        bad = build_network(TINY, seed=0)
        bad.model.map_layer0.weight[0, 0] = value
        with pytest.raises(CheckpointError, match="1 tensors not finite .NaN or Inf.: model.map_layer0.weight"):
            load(forge.snapshot(bad))
    whole = build_network(TINY, seed=0)
    whole.model.map_layer0.weight.data = whole.model.map_layer0.weight.to(torch.int32)
    with pytest.raises(CheckpointError, match="1 tensors not floating point: model.map_layer0.weight"):
        load(forge.snapshot(whole))
    half = build_network(TINY, seed=0).half()
    half.model.dec["4x4_in0"].conv1.weight.data = half.model.dec["4x4_in0"].conv1.weight.double()
    mine = load(forge.snapshot(half)).state_dict()
    assert all(torch.equal(mine[n], t.float()) and mine[n].dtype == torch.float32 for n, t in half.state_dict().items())


def test_noise_levels_have_to_fall():
    network = made("iDDPMPrecond", "ddpm++", 0)
    network.u[3] = network.u[2]
    with pytest.raises(CheckpointError, match="the noise levels u do not fall to 0"):
        load(forge.snapshot(network))


def test_a_config_cannot_ask_for_memory(tiny, monkeypatch):
    """A file of 36 kB says that its network has 10^10 weights: shapes are compared before any of them is made."""
    from restart_sampling.models.pickles import networks

    seen = []
    build = networks.build_network
    monkeypatch.setattr(networks, "build_network", lambda config: seen.append(build(config)) or seen[-1])
    kwargs = {**forge.Forge(tiny).kwargs, "model_channels": 4096, "num_blocks": 32}
    with pytest.raises(CheckpointError, match="tensors missing"):
        load(forge.snapshot(tiny, kwargs=kwargs))
    assert sum(p.numel() for p in seen[0].parameters()) > 10**10
    assert all(p.is_meta for p in seen[0].parameters())


# Nothing happens


HOSTILE = """
import os, subprocess, socket
open({flag!r}, "w").write("the source text was run")
os.system("true")
class EDMPrecond: pass
"""
TRIPWIRE = """
import sys, pathlib
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
import restart_sampling as rs
folder = pathlib.Path({folder!r})
rs.load(folder / "honest.pkl"), rs.load(folder / "honest.pt")
try:
    rs.load(folder / "refused.pkl")
except rs.CheckpointError:
    pass
before, events, on = set(sys.modules), [], [True]
WATCHED = ("exec", "compile", "import", "pickle.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn",
           "socket.", "ctypes.", "marshal.", "code.__new__", "urllib", "os.remove", "os.rename", "shutil.")
sys.addaudithook(lambda event, args: events.append((event, str(args)[:200])) if on[0] and event.startswith(WATCHED) else None)
loaded, refused = 0, 0
for path in sorted((folder / "attacks").iterdir()):
    try:
        rs.load(path)
        loaded += 1
    except rs.CheckpointError:
        refused += 1
on[0] = False
new = sorted(set(sys.modules) - before)
names = [m for m in sys.modules if m.split(".")[0] in ("training", "torch_utils", "dnnlib") or m.startswith("_imported_module_")]
print(loaded, refused, events, new, names)
exec("1")  # the hook does see such things
on[0] = True
exec("1")
print(len(events) > 0)
"""


def test_nothing_in_a_file_is_run(tmp_path, tiny, state):
    """Every attack and hostile files with good weights, under an audit hook: they load or are refused, and that is all."""
    flag = tmp_path / "was-run"
    (tmp_path / "honest.pkl").write_bytes(forge.snapshot(tiny))
    (tmp_path / "honest.pt").write_bytes(state)
    (tmp_path / "refused.pkl").write_bytes(ATTACKS["os.system"][0])
    attacks = tmp_path / "attacks"
    attacks.mkdir()
    source = HOSTILE.format(flag=str(flag))
    (attacks / "hostile2.pkl").write_bytes(forge.snapshot(tiny, 2, source=source))
    (attacks / "hostile4.pkl").write_bytes(forge.snapshot(tiny, 4, source=source))
    (attacks / "hostile.pt").write_bytes(forge.training_state(tiny, source=source))
    for i, (content, _) in enumerate(ATTACKS.values()):
        if len(content) < 200_000:  # the long ones are slow and have no code
            (attacks / f"{i}.pkl").write_bytes(content)
    count = len(list(attacks.iterdir()))
    paths = [str(ROOT / p) for p in ("engine", "kernels", "bindings")]
    code = TRIPWIRE.format(paths=paths, folder=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [f"3 {count - 3} [] [] []", "True"]
    assert not flag.exists()


def test_the_hostile_source_is_one_that_pickle_would_run(tmp_path, tiny):
    """The fixture is no dud: a reader that executes module_src, as the original does, falls into it."""
    flag = tmp_path / "was-run"

    class Careless(Plainly):
        def find_class(self, module, name):
            if module == "torch_utils.persistence":
                return lambda meta: exec(meta["module_src"], {}) or meta
            return super().find_class(module, name)

    Careless(io.BytesIO(forge.snapshot(tiny, source=HOSTILE.format(flag=str(flag))))).load()
    assert flag.read_text() == "the source text was run"


def test_no_opcode_is_more_than_it_has_to_be():
    """The table against the standard library's: nothing that pops, duplicates, makes instances or looks anything up."""
    names = {ord(o.code): o.name for o in pickletools.opcodes}
    assert {names[code] for code in OPCODES} == set(
        "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE "
        "SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM "
        "SETITEMS EMPTY_SET ADDITEMS MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD "
        "BINPERSID".split()
    )


@pytest.mark.parametrize("name", sorted((ROOT / "engine/restart_sampling/models/pickles").glob("*.py")), ids=lambda p: p.name)
def test_the_reader_names_nothing_that_runs(name):
    import ast

    used = set()
    for node in ast.walk(ast.parse(name.read_text())):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            used |= {getattr(node, "module", None) or "", *(a.name for a in node.names)}
    assert not used & {
        "exec", "eval", "compile", "__import__", "importlib", "pickle", "_pickle", "marshal", "subprocess", "torch.load", "os.system",
        "runpy", "ctypes", "globals",
    }  # fmt: skip


# Mutations


def mutated(content: bytes, generator: random.Random, places: list[int]) -> bytes:
    """`content` with 1 to 16 bytes changed, or a piece cut out, put in, moved or cut off; half at an opcode, a fifth
    right behind one."""
    data = bytearray(content)

    def place() -> int:
        where = generator.random()
        if where < 0.7:
            return min(generator.choice(places) + (where > 0.5), len(content) - 1)
        return generator.randrange(len(content))

    kind = generator.choices(("change", "step", "delete", "insert", "move", "cut"), (8, 4, 2, 2, 2, 1))[0]
    if kind in ("change", "step"):
        for _ in range(generator.choice((1, 1, 1, 2, 4, 16))):
            i = place()
            data[i] = generator.randrange(256) if kind == "change" else (data[i] + generator.choice((1, -1, 128))) % 256
    elif kind == "delete":
        i = place()
        del data[i : i + generator.choice((1, 1, 2, 8, 100))]
    elif kind == "insert":
        i = place()
        data[i:i] = generator.randbytes(generator.choice((1, 1, 2, 9)))
    elif kind == "move":
        i, j = place(), place()
        data[j:j] = data[i : i + generator.choice((1, 2, 10, 60))]
    else:
        del data[place() :]
    return bytes(data)


def opcode_places(content: bytes) -> list[int]:
    """Offsets of the opcodes, also of those in front of storages."""
    places = [at for _, _, at in pickletools.genops(content)]
    for start in (i for i in range(len(content)) if content.startswith(b"\x80\x02\x8a", i)):
        header = content[start : start + 400]
        for _ in range(4):  # as many pickles as genops reads whole
            ops = [at for _, _, at in pickletools.genops(header)]
            places += [start + at for at in ops]
            start, header = start + ops[-1] + 1, header[ops[-1] + 1 :]
    return [p for p in places if p < len(content)]


def outcome(content: bytes) -> str:
    """What becomes of a file: "loaded", or "refused". Anything but a CheckpointError fails the test."""
    try:
        checkpoint = read("x.pkl", memoryview(content))
        checkpoint.network()
    except CheckpointError as error:
        assert str(error).isprintable() and "Error while reading" not in str(error)
        return "refused"
    return "loaded"


def sketch(pickle_protocol: int) -> bytes:
    """A checkpoint with all parts of a real one and few of each: it reads well, and is refused for its missing weights."""
    conv = module({"weight": torch.nn.Parameter(torch.ones(4, 1, 3, 3)), "bias": None}, {"resample_filter": torch.ones(1, 1, 2, 2)}, class_name="Conv2d",
                  _non_persistent_buffers_set={"passing"}, skip_scale=scalar(0.5**0.5))  # fmt: skip
    enc = New("torch.nn.modules.container.ModuleDict", {"_parameters": {}, "_buffers": {}, "_modules": {"4x4_conv": conv}})
    root = module(modules={"model": module(modules={"enc": enc}, class_name="SongUNet")}, sigma_min=0.0, sigma_max=math.inf)
    return Emitter(pickle_protocol).pickle({"ema": root, "loss_fn": New("dnnlib.util.EasyDict", items={"a": 1})})


@pytest.mark.parametrize("protocol, rounds", [(2, 5000), (4, 5000)])
def test_thousands_of_mutated_sketches(protocol, rounds):
    """Small enough for thousands: machine, storages, walk and schema. Nothing but a CheckpointError ever comes out."""
    content = sketch(protocol)
    generator, counts = random.Random(protocol), Counter()
    places = opcode_places(content)
    with pytest.raises(CheckpointError, match="tensors missing"):
        load(content)
    for _ in range(rounds):
        data = mutated(content, generator, places)
        try:
            checkpoint = read("x.pkl", memoryview(data))
        except CheckpointError as error:
            counts[str(error).rpartition(": ")[2][:20]] += 1
            assert str(error).isprintable() and "Error while reading" not in str(error)
            continue
        counts["read"] += 1
        for spec in checkpoint.found.tensors.values():
            assert spec.make().shape == spec.size
    assert rounds // 50 < counts["read"] < rounds // 2 and len(counts) > 20, counts


@pytest.mark.parametrize("protocol", [2, 4])
def test_hundreds_of_mutated_snapshots(protocol, tiny):
    content = forge.snapshot(tiny, protocol)
    generator, places = random.Random(protocol), opcode_places(content)
    counts = Counter(outcome(mutated(content, generator, places)) for _ in range(500))
    assert counts["refused"] > 300 and counts["loaded"] > 10


def test_mutated_zip_archives(state):
    """The directory and the members of a .pt, then its pickle inside of an archive that is in order."""
    generator = random.Random(0)
    start = directory(state)
    places = [*range(start, len(state)), *range(60)]
    counts = Counter(outcome(mutated(state, generator, places)) for _ in range(600))
    assert counts["refused"] > 400 and counts["loaded"] > 10
    with zipfile.ZipFile(io.BytesIO(state)) as file:
        members = {name.removeprefix("archive/"): file.read(name) for name in file.namelist()}
    code = members.pop("data.pkl")
    storages = {n.removeprefix("data/"): v for n, v in members.items() if n.startswith("data/")}
    places = opcode_places(code)
    counts = Counter(outcome(forge.archive(mutated(code, generator, places), storages)) for _ in range(500))
    assert counts["refused"] > 250 and counts["loaded"] > 2


# The original


@pytest.mark.skipif("RESTART_EDM_CHECKOUT" not in os.environ, reason="RESTART_EDM_CHECKOUT names no checkout of NVlabs/edm")
@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_snapshots_of_the_original_code(tmp_path, class_name, kind):
    """Needs a checkout of NVlabs/edm (or a fork) on this machine: its own pickle, and its own outputs in float32."""
    code = f"""
import pickle, sys, torch
sys.path.insert(0, {os.environ["RESTART_EDM_CHECKOUT"]!r})
from training import networks
torch.manual_seed(0)
arguments = dict({ARCHITECTURES[kind]!r}, img_resolution=16, img_channels=3, label_dim=4, augment_dim=9)
network = getattr(networks, {class_name!r})(**arguments).eval().requires_grad_(False)
for p in network.parameters():
    p.add_(0.05 * torch.randn_like(p))
x, sigma = torch.randn(2, 3, 16, 16), torch.tensor(1.7)
labels = torch.eye(4)[[1, 3]]
sigma = network.round_sigma(sigma)
torch.save(dict(x=x, sigma=sigma, labels=labels, D=network(x, sigma, labels)), {str(tmp_path / "expected.pt")!r})
pickle.dump(dict(ema=network), open({str(tmp_path / "x.pkl")!r}, "wb"))
torch.save(dict(net=network), {str(tmp_path / "x.pt")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    expected = torch.load(tmp_path / "expected.pt", weights_only=True)
    for name in ("x.pkl", "x.pt"):
        denoiser = rs.load(tmp_path / name)
        with torch.no_grad():
            got = denoiser(expected["x"], float(expected["sigma"]), expected["labels"])
        want = expected["D"].double()
        assert float((got.double() - want).norm() / want.norm()) < 2e-5
        assert not any("raw" not in note for note in denoiser.info["notes"])  # the source is a known one
