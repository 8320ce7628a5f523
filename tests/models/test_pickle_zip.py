"""The zip form of a checkpoint: what torch.save writes is read, and an archive that is damaged or a trap is refused."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
import torch
from support import pickle_forge as forge
from support.pickle_attacks import TINY

from restart_sampling.common.errors import CheckpointError
from restart_sampling.models import build_network
from restart_sampling.models.files.pickles.checkpoint import read


@pytest.fixture(scope="module")
def tiny():
    return build_network(TINY, seed=0)


@pytest.fixture(scope="module")
def state(tiny):
    return forge.training_state(tiny)


def load(content: bytes):
    """Network of a checkpoint given as bytes."""
    return read("x.pkl", memoryview(content)).network()


def rezipped(content: bytes, change=None, **kwargs) -> bytes:
    """The members of a torch.save file written again by the standard library's zipfile, after `change(members)`."""
    members = {
        i.filename: zipfile.ZipFile(io.BytesIO(content)).read(i)
        for i in zipfile.ZipFile(io.BytesIO(content)).infolist()
    }
    if change is not None:
        change(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **kwargs) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def patched(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


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
    "path": (
        lambda c: rezipped(c, lambda m: m.update({"archive/../x y": b""})),
        "a name that torch.save does not give",
    ),
    "storage missing": (
        lambda c: rezipped(c, lambda m: m.pop("archive/data/3")),
        "a storage is named that the zip archive does",
    ),
    "storage short": (
        lambda c: rezipped(c, lambda m: m.update({"archive/data/3": b"1234"})),
        "needs [0-9]+ bytes and has 4",
    ),
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
}


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
    assert torch.equal(
        load(rezipped(state)).model.map_layer0.weight, tiny.model.map_layer0.weight
    )  # and an honest one is read


def test_members_inside_of_members(state):
    """The start of every zip bomb: one member's bytes hold another whole member, and both are in the directory."""
    single = io.BytesIO()
    with zipfile.ZipFile(single, "w") as file:
        file.writestr("archive/data/98", b"1234")
    inside = single.getvalue()[: directory(single.getvalue())]  # header and bytes
    twice = rezipped(state, lambda m: m.update({"archive/data/97": inside, "archive/data/98": b"1234"}))
    load(twice)  # in order as long as the directory names the outer one
    entry = twice.rindex(b"archive/data/98") - 46
    with pytest.raises(CheckpointError, match="two members of the zip archive overlap"):
        load(patched(twice, entry + 42, struct.pack("<I", twice.index(inside))))


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
