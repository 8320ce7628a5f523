"""Nothing in a checkpoint is run, and nothing but a CheckpointError comes out: attacks, a tripwire, thousands of
mutations.
"""

from __future__ import annotations

import ast
import io
import pickletools
import random
import struct
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from support import edm2_forge, edm2_golden
from support import pickle_forge as forge
from support.pickle_attacks import ATTACKS, TINY, sketch

from restart_sampling.common.errors import CheckpointError
from restart_sampling.models import build_network
from restart_sampling.models.files.pickles.checkpoint import read
from restart_sampling.models.files.pickles.machine import OPCODES

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny():
    return build_network(TINY, seed=0)


@pytest.fixture(scope="module")
def edm2():
    """The smallest network of EDM2 that has every kind of module."""
    small = {"img_resolution": 4, "model_channels": 4, "channels_per_head": 4, "attn_resolutions": [2], "label_dim": 2}
    return edm2_golden.network(small | {"img_channels": 4, "logvar_channels": 8})


@pytest.fixture(scope="module")
def state(tiny):
    return forge.training_state(tiny)


def load(content: bytes):
    """Network of a checkpoint given as bytes."""
    return read("x.pkl", memoryview(content)).network()


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(name):
    content, message = ATTACKS[name]
    with pytest.raises(CheckpointError, match=message) as info:
        load(content)
    said = str(info.value)
    assert said.startswith("x.pkl: ") and "Error while reading" not in said
    assert said.isprintable() and len(said) < 400


HOSTILE = """
import os, subprocess, socket
open({flag!r}, "w").write("the source text was run")
os.system("true")
class EDMPrecond: pass
class Precond: pass
class StabilityVAEEncoder: pass
"""
TRIPWIRE = """
import sys, pathlib
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
import restart_sampling as rs
folder = pathlib.Path({folder!r})
rs.load(folder / "honest.pkl"), rs.load(folder / "honest.pt"), rs.load(folder / "honest-edm2.pkl")
try:
    rs.load(folder / "refused.pkl")
except rs.CheckpointError:
    pass
before, events, on = set(sys.modules), [], [True]
WATCHED = ("exec", "compile", "import", "pickle.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork",
           "os.spawn", "socket.", "ctypes.", "marshal.", "code.__new__", "urllib", "os.remove", "os.rename", "shutil.")
def note(event, args):
    if on[0] and event.startswith(WATCHED):
        events.append((event, str(args)[:200]))
sys.addaudithook(note)
loaded, refused = 0, 0
for path in sorted((folder / "attacks").iterdir()):
    try:
        rs.load(path)
        loaded += 1
    except rs.CheckpointError:
        refused += 1
on[0] = False
new = sorted(set(sys.modules) - before)
theirs = ("training", "torch_utils", "dnnlib")
names = [m for m in sys.modules if m.split(".")[0] in theirs or m.startswith("_imported_module_")]
print(loaded, refused, events, new, names)
exec("1")  # the hook does see such things
on[0] = True
exec("1")
print(len(events) > 0)
"""


def test_nothing_in_a_file_is_run(tmp_path, tiny, edm2, state):
    """Every attack, and hostile files with good weights, under an audit hook: they load or are refused, no more."""
    flag = tmp_path / "was-run"
    (tmp_path / "honest.pkl").write_bytes(forge.snapshot(tiny))
    (tmp_path / "honest.pt").write_bytes(state)
    (tmp_path / "honest-edm2.pkl").write_bytes(edm2_forge.snapshot(edm2))
    (tmp_path / "refused.pkl").write_bytes(ATTACKS["os.system"][0])
    attacks = tmp_path / "attacks"
    attacks.mkdir()
    source = HOSTILE.format(flag=str(flag))
    (attacks / "hostile2.pkl").write_bytes(forge.snapshot(tiny, 2, source=source))
    (attacks / "hostile4.pkl").write_bytes(forge.snapshot(tiny, 4, source=source))
    (attacks / "hostile.pt").write_bytes(forge.training_state(tiny, source=source))
    encoder = edm2_forge.vae(source)
    for protocol in (2, 4):
        content = edm2_forge.snapshot(edm2, protocol, source=source, encoder=encoder)
        (attacks / f"hostile-edm2-{protocol}.pkl").write_bytes(content)
    for i, (content, _) in enumerate(ATTACKS.values()):
        if len(content) < 200_000:  # the long ones are slow and have no code
            (attacks / f"{i}.pkl").write_bytes(content)
    count = len(list(attacks.iterdir()))
    paths = [str(ROOT / p) for p in ("engine", "kernels", "bindings")]
    code = TRIPWIRE.format(paths=paths, folder=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [f"5 {count - 5} [] [] []", "True"]
    assert not flag.exists()


@pytest.mark.parametrize("family", ["edm", "edm2"])
def test_the_hostile_source_is_one_that_pickle_would_run(tmp_path, tiny, edm2, family):
    """The fixture is no dud: a reader that executes module_src, as the original does, falls into it."""
    flag = tmp_path / "was-run"

    class Careless(forge.Plainly):
        def find_class(self, module, name):
            if module == "torch_utils.persistence":
                return lambda meta: exec(meta["module_src"], {}) or meta
            return super().find_class(module, name)

    source = HOSTILE.format(flag=str(flag))
    content = forge.snapshot(tiny, source=source) if family == "edm" else edm2_forge.snapshot(edm2, source=source)
    Careless(io.BytesIO(content)).load()
    assert flag.read_text() == "the source text was run"


def test_no_opcode_is_more_than_it_has_to_be():
    """The table against the standard library's: nothing that pops, duplicates, makes instances or looks anything up."""
    names = {ord(o.code): o.name for o in pickletools.opcodes}
    allowed = """PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE
        BINUNICODE SHORT_BINBYTES BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS
        EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL STACK_GLOBAL
        REDUCE NEWOBJ BUILD BINPERSID"""
    assert {names[code] for code in OPCODES} == set(allowed.split())


MODELS = ROOT / "engine/restart_sampling/models"
FAMILIES = [MODELS / "edm/pickled.py", MODELS / "edm2/pickled.py", MODELS / "encoder.py"]
READER = [*sorted((MODELS / "files/pickles").glob("*.py")), *FAMILIES]


def test_the_reader_is_where_the_next_test_looks():
    assert {"machine.py", "values.py", "modules.py", "encoders.py"} <= {file.name for file in READER}
    assert all(file.is_file() for file in READER)


@pytest.mark.parametrize("name", READER, ids=lambda p: p.relative_to(MODELS).as_posix())
def test_the_reader_names_nothing_that_runs(name):
    used = set()
    for node in ast.walk(ast.parse(name.read_text())):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            used |= {getattr(node, "module", None) or "", *(a.name for a in node.names)}
    assert not used & {
        "exec",
        "eval",
        "compile",
        "__import__",
        "importlib",
        "pickle",
        "_pickle",
        "marshal",
        "subprocess",
        "torch.load",
        "os.system",
        "runpy",
        "ctypes",
        "globals",
    }


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


@pytest.mark.parametrize("protocol, rounds", [(2, 5000), (4, 5000)])
def test_thousands_of_mutated_sketches(protocol, rounds, trials):
    """Small enough for thousands: machine, storages, walk and schema. Nothing but a CheckpointError ever comes out."""
    content, rounds = sketch(protocol), trials.count(rounds)
    generator, counts = random.Random(trials.start(protocol)), Counter()
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
def test_hundreds_of_mutated_snapshots(protocol, tiny, trials):
    content = forge.snapshot(tiny, protocol)
    generator, places = random.Random(trials.start(protocol)), opcode_places(content)
    counts = Counter(outcome(mutated(content, generator, places)) for _ in range(trials.count(500)))
    assert counts["refused"] > 300 and counts["loaded"] > 10


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("encoder", ["rgb", "vae"])
def test_hundreds_of_mutated_edm2_snapshots(protocol, encoder, edm2, trials):
    """Network and encoder: either both are loaded, or the file is refused."""
    content = edm2_forge.snapshot(edm2, protocol, encoder=getattr(edm2_forge, encoder)())
    assert outcome(content) == "loaded"
    generator, places = random.Random(trials.start(protocol + len(encoder))), opcode_places(content)
    counts = Counter(outcome(mutated(content, generator, places)) for _ in range(trials.count(500)))
    assert counts["refused"] > 300 and counts["loaded"] > 4


def test_hundreds_of_mutated_encoders(edm2, trials):
    """A file whose network is good: every mutation is in the encoder, which comes first."""
    content = edm2_forge.snapshot(edm2, encoder=edm2_forge.vae())
    end = content.index(b"dataset_kwargs")
    assert end < len(content) // 10
    generator, counts = random.Random(trials.start(1)), Counter()
    places = [p for p in opcode_places(content) if p < end]
    for _ in range(trials.count(500)):
        head = mutated(content[:end], generator, places)
        counts[outcome(head + content[end:])] += 1
    assert counts["refused"] > 300 and counts["loaded"] > 2


def test_mutated_zip_archives(state, trials):
    """The directory and the members of a .pt, then its pickle inside of an archive that is in order."""
    generator = random.Random(trials.start(0))
    start = struct.unpack_from("<I", state, state.rfind(b"PK\x05\x06") + 16)[0]  # of the directory
    places = [*range(start, len(state)), *range(60)]
    counts = Counter(outcome(mutated(state, generator, places)) for _ in range(trials.count(600)))
    assert counts["refused"] > 400 and counts["loaded"] > 10
    with zipfile.ZipFile(io.BytesIO(state)) as file:
        members = {name.removeprefix("archive/"): file.read(name) for name in file.namelist()}
    code = members.pop("data.pkl")
    storages = {n.removeprefix("data/"): v for n, v in members.items() if n.startswith("data/")}
    places = opcode_places(code)
    counts = Counter(
        outcome(forge.archive(mutated(code, generator, places), storages)) for _ in range(trials.count(500))
    )
    assert counts["refused"] > 250 and counts["loaded"] > 2
