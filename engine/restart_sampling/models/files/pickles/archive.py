r"""Read a torch.save file as a zip archive of stored members (APPNOTE.TXT of PKWARE, sections 4.3 and 4.5.3).

    <root>/data.pkl          the pickle, whose persistent ids name storages
    <root>/data/<key>        the bytes of one storage
    <root>/byteorder         "little", absent in files of older versions of torch

The archive is read from its directory, and the members must agree with it: names are unique, members are stored as they
are (neither packed nor encrypted), lie inside the file and do not overlap, and a member's CRC-32 is checked when it is
read. Nothing is copied."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

from .limits import LIMITS, Refused

END = struct.Struct("<4s4H2IH")  # end of the directory
LOCATOR = struct.Struct("<4sIQI")  # where the 64-bit end is
END64 = struct.Struct("<4sQ2H2I4Q")
ENTRY = struct.Struct("<4s6H3I5H2I")
LOCAL = struct.Struct("<4s5H3I2H")
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED = 0x2041  # flag bits of the three kinds of encryption
NAME = re.compile(rb"[\w.-]+(/[\w.-]+)*", re.ASCII)


@dataclass(frozen=True)
class Member:
    """A stored file of the archive: `size` bytes from `start`; its own header begins at `begin`."""

    begin: int
    start: int
    size: int
    crc: int


class Archive:
    """The members of a zip file by name. Raises Refused for what torch.save does not write."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.members: dict[str, Member] = {}
        self._directory(*self._end())
        spans = sorted((m.begin, m.start + m.size) for m in self.members.values())
        for (_, end), (begin, _) in pairwise(spans):
            if begin < end:
                raise Refused("two members of the zip archive overlap", begin)
        pickles = [name for name in self.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise Refused("this is a zip archive without a data.pkl, so not a torch.save file")
        self.root = pickles[0].removesuffix("data.pkl")
        order = self.root + "byteorder"
        if order in self.members and bytes(self.read(order)[:8]) != b"little":
            raise Refused("the numbers are not little-endian", self.members[order].start)

    def read(self, name: str) -> memoryview:
        """Return the content of a member, a view. Raises Refused if its CRC-32 is wrong."""
        member = self.members[name]
        view = self.data[member.start : member.start + member.size]
        if zlib.crc32(view) != member.crc:
            raise Refused("the file is damaged: the CRC-32 of a member of the zip archive is wrong", member.start)
        return view

    def _end(self) -> tuple[int, int, int]:
        """Return the number of entries, and where the directory starts and ends."""
        data, size = self.data, len(self.data)
        first = max(0, size - END.size - FULL16)
        tail = bytes(data[first:])
        at = first + tail.rfind(b"PK\x05\x06")
        if at < first or at + END.size > size:
            raise Refused("the file is incomplete: a zip archive ends with a directory, this one does not", size)
        _, disk, _, _, entries, length, offset, comment = END.unpack_from(data, at)
        if at + END.size + comment != size or disk:
            raise Refused("the file is incomplete, or has bytes behind its zip archive", at)
        end = at
        if entries == FULL16 or FULL32 in (length, offset):
            if at < LOCATOR.size:
                raise Refused("the zip archive's directory cannot be found", at)
            magic, _, end, _ = LOCATOR.unpack_from(data, at - LOCATOR.size)
            if magic != b"PK\x06\x07" or end + END64.size > at:
                raise Refused("the zip archive's directory cannot be found", at - LOCATOR.size)
            magic, _, _, _, _, _, _, entries, length, offset = END64.unpack_from(data, end)
            if magic != b"PK\x06\x06":
                raise Refused("the zip archive's directory cannot be found", end)
        if offset + length > end or entries > min(LIMITS.members, length // ENTRY.size):
            raise Refused("the zip archive's directory does not fit in the file", end)
        return entries, offset, offset + length

    def _directory(self, entries: int, at: int, end: int) -> None:
        """Read the directory, which lies from byte `at` to byte `end`, into `members`."""
        for _ in range(entries):
            if at + ENTRY.size > end:
                raise Refused("the zip archive's directory does not fit in the file", at)
            entry = ENTRY.unpack_from(self.data, at)
            magic, flags, method, crc = entry[0], entry[3], entry[4], entry[7]
            packed, size, n_name, n_extra, n_comment, begin = *entry[8:13], entry[16]
            if magic != b"PK\x01\x02":
                raise Refused("the zip archive's directory is damaged", at)
            if method or flags & ENCRYPTED:
                raise Refused("a member of the zip archive is packed or encrypted, torch.save stores them plain", at)
            after = at + ENTRY.size + n_name
            if after + n_extra + n_comment > end:
                raise Refused("the zip archive's directory does not fit in the file", at)
            name = bytes(self.data[at + ENTRY.size : after])
            if n_name > LIMITS.name or not NAME.fullmatch(name):
                raise Refused("a member of the zip archive has a name that torch.save does not give", at)
            if FULL32 in (packed, size, begin):
                size, packed, begin = self._wide(after, n_extra, size, packed, begin)
            if packed != size:
                raise Refused("a member of the zip archive has two sizes", at)
            if name.decode() in self.members:
                raise Refused("two members of the zip archive have one name", at)
            self.members[name.decode()] = Member(begin, self._start(begin, name, size), size, crc)
            at = after + n_extra + n_comment

    def _wide(self, at: int, length: int, size: int, packed: int, begin: int) -> tuple[int, int, int]:
        """Return size, packed size and begin, from the 64-bit extra field those that do not fit in 32 bits."""
        end = at + length
        while at + 4 <= end:
            tag, n = struct.unpack_from("<2H", self.data, at)
            at += 4
            if tag == 1 and at + n <= end:
                wide = [v for (v,) in struct.iter_unpack("<Q", self.data[at : at + n // 8 * 8])]
                if len(wide) >= sum(v == FULL32 for v in (size, packed, begin)):
                    size, packed, begin = (wide.pop(0) if v == FULL32 else v for v in (size, packed, begin))
                    return size, packed, begin
            at += n
        raise Refused("the zip archive's directory is damaged", at)

    def _start(self, begin: int, name: bytes, size: int) -> int:
        """Return where the content of a member starts, after its own header, which must have the same name."""
        data = self.data
        if begin + LOCAL.size > len(data):
            raise Refused("a member of the zip archive lies outside of the file", begin)
        header = LOCAL.unpack_from(data, begin)
        at = begin + LOCAL.size
        start = at + header[9] + header[10]
        if header[0] != b"PK\x03\x04" or bytes(data[at : at + header[9]]) != name:
            raise Refused("a member of the zip archive is not where the directory says", begin)
        if start + size > len(data):
            raise Refused("a member of the zip archive lies outside of the file", begin)
        return start
