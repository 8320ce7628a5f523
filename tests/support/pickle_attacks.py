"""What a hostile or damaged checkpoint can hold: a table of attacks, each with the words it has to be refused with."""

from __future__ import annotations

import math
import struct

import torch

from support import pickle_forge as forge
from support.pickle_forge import Call, Emitter, Global, New, Raw, persistent, scalar

TINY = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 4,
    "img_channels": 1,
    "model_channels": 4,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}
ARGUMENTS = {n: v for n, v in TINY.items() if n != "class_name"}
EDM2 = {"img_resolution": 8, "img_channels": 3, "label_dim": 5}
EDM2_SAID = {"_init_kwargs": EDM2, **EDM2, "use_fp16": True, "sigma_data": 0.5}


def pickled(*code: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + b"".join(code)


def emitted(value, protocol: int = 4) -> bytes:
    return Emitter(protocol).pickle(value)


def module(parameters=None, buffers=None, modules=None, class_name="EDMPrecond", **state):
    parts = {"_parameters": parameters or {}, "_buffers": buffers or {}, "_modules": modules or {}}
    kwargs = ARGUMENTS if class_name == "EDMPrecond" else {}
    return persistent(class_name, {**parts, "_init_args": (), "_init_kwargs": kwargs, **state})


def sketched():
    """A network of EDM without weights."""
    return module(modules={"model": module(class_name="SongUNet")})


def inner(parameters):
    """A checkpoint whose inner network has these parameters."""
    return emitted({"ema": module(modules={"model": module(parameters, class_name="SongUNet")})})


def rebuilt(*args):
    """A checkpoint with one tensor that is made of `args`."""
    return inner({"w": Call("torch._utils._rebuild_tensor_v2", args)})


def with_storage(blob, size=(4,), stride=(1,), offset=0):
    storage = Call("torch.storage._load_from_bytes", (blob,))
    return rebuilt(storage, offset, size, stride, False, Call("collections.OrderedDict"))


def shared(count):
    """One storage of 16 kB and `count` tensors in it."""
    size, kept = (4000,), b"\xff\xff\0\0"
    storage = Call("torch.storage._load_from_bytes", (forge.storage_blob(b"\0" * 16_000, torch.float32),))
    codes = [Emitter(2).value(storage) + b"r" + kept] + [b"j" + kept] * (count - 1)
    make = "torch._utils._rebuild_tensor_v2"
    return inner({f"w{i}": Call(make, (Raw(c), 0, size, (1,), False, None)) for i, c in enumerate(codes)})


def cycle():
    """A module whose dict of modules holds the module."""
    child = Emitter(2).value(module(modules=Raw(b"h\xff")))
    return emitted({"ema": module(modules=Raw(b"}q\xffX\x05\x00\x00\x00model" + child + b"s"))})


def nested(depth):
    """A tuple in a tuple in a tuple."""
    return Raw(b")" + b"\x85" * depth)


def parameter(value):
    return Call("torch._utils._rebuild_parameter", (value, True, None))


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
GLOBAL = r"refused the global {}, which no EDM, EDM2 or PFGM\+\+ checkpoint needs"
ATTACKS = {
    # code
    "os.system": (emitted({"ema": Call("os.system", ("true",))}), GLOBAL.format("os.system")),
    "posix.system, protocol 2": (emitted({"ema": Call("posix.system", ("true",))}, 2), GLOBAL.format("posix.system")),
    "eval": (emitted({"ema": Call("builtins.eval", ("1",))}), GLOBAL.format("builtins.eval")),
    "exec": (emitted({"ema": Call("builtins.exec", ("1",))}), GLOBAL.format("builtins.exec")),
    "getattr": (emitted({"ema": Call("builtins.getattr", (1, "real"))}), GLOBAL.format("builtins.getattr")),
    "torch.load": (emitted({"ema": Call("torch.load", ("x",))}), GLOBAL.format("torch.load")),
    "inductor": (
        emitted(Call("torch._inductor.codecache.PyCodeCache")),
        "refused the global torch._inductor.codecache.Py",
    ),
    "dotted path after an allowed name": (
        emitted(Raw(Emitter(4).value("collections") + Emitter(4).text("OrderedDict.fromkeys") + b"\x93")),
        GLOBAL.format("collections.OrderedDict.fromkeys"),
    ),
    "a name with content": (
        emitted(Global("os.sys\x1b[31mtem")),
        "refused the global .a name that is not a plain word.",
    ),
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
    "BINBYTES8 2^40": (
        pickled(b"\x8e" + struct.pack("<Q", 2**40) + b"x."),
        "1099511627776 bytes are promised, 2 are left",
    ),
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
    "deep tuple as a module": (emitted({"ema": nested(200_000)}), "not a persistent object|a module is needed"),
    "deep tuple as an argument": (
        emitted({"ema": module(_init_kwargs={"img_resolution": nested(200_000)})}),
        "made with arguments that are no",
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
    "storage with two lengths": (with_storage(GOOD[:-24] + struct.pack("<q", 9) + GOOD[-16:]), "two lengths"),
    "storage of 2^40 numbers": (
        with_storage(forge.storage_blob(GOOD[-16:], torch.float32, numel=2**40)),
        "needs 4398046511104 bytes and has 16",
    ),
    "storage big-endian": (
        with_storage(GOOD.replace(b"little_endianq\x01\x88", b"little_endianq\x01\x89")),
        "not little-endian",
    ),
    "offset past the end": (with_storage(GOOD, offset=1), "reaches outside of its storage"),
    "negative offset": (with_storage(GOOD, offset=-1), "not lists of natural numbers"),
    "negative stride": (with_storage(GOOD, stride=(-1,)), "not lists of natural numbers"),
    "sizes and strides of two lengths": (with_storage(GOOD, size=(2, 2)), "not lists of natural numbers"),
    "nine dimensions": (with_storage(GOOD, size=(1,) * 9, stride=(1,) * 9), "not lists of natural numbers"),
    "float sizes": (with_storage(GOOD, size=(4.0,)), "not lists of natural numbers"),
    "stride-0 expansion": (with_storage(GOOD, size=(2**40,), stride=(0,)), "reaches outside of its storage"),
    "stride past the end": (with_storage(GOOD, size=(2,), stride=(4,)), "reaches outside of its storage"),
    "size product over 2^64": (
        with_storage(GOOD, size=(2**32, 2**32), stride=(0, 0)),
        "reaches outside of its storage",
    ),
    "tensor without storage": (rebuilt(None, 0, (1,), (1,), False, None), "has no storage"),
    "tensor with metadata": (rebuilt(None, 0, (1,), (1,), False, None, {"neg": True}), "arguments that torch does not"),
    "a number for a tensor": (inner({"w": 3}), "a tensor is needed"),
    "parameter in a parameter": (inner({"w": parameter(parameter(1))}), "a tensor is needed"),
    "one storage for many tensors": (shared(21), "ask for more bytes than the file has"),
    # modules
    "version 7": (emitted({"ema": persistent("EDMPrecond", {}, version=7)}), "another version than 6"),
    "version True": (emitted({"ema": persistent("EDMPrecond", {}, version=True)}), "another version than 6"),
    "type function": (emitted({"ema": persistent("EDMPrecond", {}, type="function")}), "another version"),
    "no source": (emitted({"ema": persistent("EDMPrecond", {}, source=None)}), "no module_src"),
    "record of a list": (
        emitted({"ema": Call("torch_utils.persistence._reconstruct_persistent_obj", ([],))}),
        "not one dict",
    ),
    "class name with content": (emitted({"ema": persistent("EDM\nPrecond", {})}), "no class_name"),
    "EDM2 without arguments": (emitted({"ema": module(class_name="Precond")}), "img_resolution is missing"),
    "EDM2 without a network": (
        emitted({"ema": module(class_name="Precond", _init_kwargs=EDM2, **EDM2)}),
        "no inner network of the class UNet under the name unet",
    ),
    "EDM2 around another network": (
        emitted({"ema": module(modules={"unet": module(class_name="ViT")}, class_name="Precond", **EDM2_SAID)}),
        "no inner network of the class UNet under the name unet",
    ),
    "an encoder of another class": (
        emitted({"encoder": persistent("os", {}), "ema": module(modules={"model": module(class_name="SongUNet")})}),
        "an encoder of the class os is not supported, only StandardRGBEncoder, StabilityVAEEncoder",
    ),
    "an encoder in itself": (
        emitted({"encoder": Raw(b"}q\xffX\x05\x00\x00\x00scaleh\xffs"), "ema": sketched()}, 2),
        "the encoder is not a persistent object",
    ),
    "an array of a global": (emitted(Call("numpy.core.multiarray._reconstruct", (Global("os.system"),))), "os.system"),
    "an array class that is called": (emitted(Call("numpy.ndarray", ((1 << 40,),))), "something is called that must"),
    "an array class that is made": (emitted(New("numpy.ndarray")), "an object is made that must not be"),
    "another function of numpy": (
        emitted(Call("numpy._core.multiarray.frombuffer", (b"x",))),
        GLOBAL.format("numpy._core.multiarray.frombuffer"),
    ),
    "an array as the network": (
        emitted({"ema": Call("numpy.core.multiarray._reconstruct", (Global("numpy.ndarray"), (0,), b"b"))}),
        "a module is needed where something else stands",
    ),
    "another class": (
        emitted({"ema": module(class_name="Generator")}),
        "class Generator is not supported, only EDMPrecond",
    ),
    "module cycle": (cycle(), "nested deeper than a network"),
    "2^60 ways to one module": (emitted({"ema": doubled(60)}), "the modules are more than a network's can be"),
    "no ema": (emitted({"G_ema": None, "step": 3}), "neither ema nor net, .*; its keys are G_ema, step"),
    "ema None": (emitted({"ema": None}), "neither ema nor net"),
    "ema not a module": (emitted({"ema": {"a": 1}}), "a module is needed"),
    "a state dict": (emitted({"state_dict": {}, "epoch": 1}), "diffusers"),
    "not a dict": (emitted([1, 2]), "does not hold a dict"),
    "trailing bytes": (emitted({}) + b"\0", "bytes follow the end of the pickle"),
    "no inner network": (emitted({"ema": module()}), "no inner network under the name model"),
    "positional arguments": (emitted({"ema": module(_init_args=(32,))}), "arguments that have no names"),
    "no modules dict": (
        emitted({"ema": persistent("EDMPrecond", {"_parameters": {}, "_buffers": {}})}),
        "a module has no dict",
    ),
    "name with a dot": (emitted({"ema": module(buffers={"a.b": None, "": None})}), "not a plain word"),
    "unknown argument": (emitted({"ema": module(_init_kwargs={"img_resolutio": 4})}), "did you mean 'img_resolution'"),
    "absurd width": (
        emitted({"ema": module(_init_kwargs=ARGUMENTS | {"model_channels": 2**40})}),
        "model_channels must be",
    ),
    "old torch.save": (GOOD, "torch.save's old format"),
}


def sketch(pickle_protocol: int) -> bytes:
    """A checkpoint with all parts of a real one and few of each: it can be read, but lacks weights and is refused."""
    conv = module(
        {"weight": torch.nn.Parameter(torch.ones(4, 1, 3, 3)), "bias": None},
        {"resample_filter": torch.ones(1, 1, 2, 2)},
        class_name="Conv2d",
        _non_persistent_buffers_set={"passing"},
        skip_scale=scalar(0.5**0.5),
    )
    enc = New(
        "torch.nn.modules.container.ModuleDict", {"_parameters": {}, "_buffers": {}, "_modules": {"4x4_conv": conv}}
    )
    root = module(
        modules={"model": module(modules={"enc": enc}, class_name="SongUNet")}, sigma_min=0.0, sigma_max=math.inf
    )
    return Emitter(pickle_protocol).pickle({"ema": root, "loss_fn": New("dnnlib.util.EasyDict", items={"a": 1})})
