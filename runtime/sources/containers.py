"""Read from a video file what OpenCV doesn't tell: whether its end is missing, which codec it has, if it is mirrored.

The parts of a container say how long they are, and a part that reaches beyond the file's end proves that the file was
cut. Counts of frames and durations prove nothing: an edit list hides frames, sound outlasts pictures, rates vary.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

HEAD = 512  # bytes of a part that are looked at: an Ogg page's header, FLV's metadata
MAX_PARTS = 2**17  # 18 hours of an MP4 in fragments of a second; of what has more, nothing is claimed
MAX_TRACKS = 64
MAX_INDEX = 2**24  # bytes of the index that are searched; a film's has a few MiB
TAIL = 1024  # bytes at a file's end that are all zeros where space was reserved, and never filled

# the boxes of MP4 and QuickTime outside all others: whatever else follows them is not taken for a part
BOXES = frozenset(b"ftyp styp moov moof mdat free skip wide uuid sidx ssix mfra meta emsg prft pdin pnot".split())
# Matroska's elements outside all others, and those below a segment of unknown length
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
ELEMENTS = frozenset(
    bytes.fromhex("114d9b74 1549a966 1654ae6b 1f43b675 1c53bb6b 1254c367 1941a469")[at : at + 4]
    for at in range(0, 28, 4)
) | {b"\xec"}
# ASF's objects outside all others: header, data, index
ASF = frozenset(
    bytes.fromhex(guid)
    for guid in (
        "3026b2758e66cf11a6d900aa0062ce6c",
        "3626b2758e66cf11a6d900aa0062ce6c",
        "90080033b1e5cf1189f400a0c90349cb",
    )
)
FLV_SIZE = re.compile(rb"\0\x08filesize\0(.{8})", re.DOTALL)
CODEC = re.compile(rb"\x86.(V_[\w/]+)|vids(\w{4})|^DKIF.{4}(\w{4})", re.DOTALL)  # of Matroska, AVI, IVF
NAMES = {"av01": "AV1", "AV01": "AV1", "V_AV1": "AV1", "vvc1": "VVC", "vvi1": "VVC"}


@dataclass(frozen=True)
class Container:
    """What a video file says of itself.

    Attributes:
        size: the file's bytes; None for what is no regular file, of which nothing else is known either.
        promised: the byte at which its last part ends, as it says; beyond ``size`` if the file was cut.
        hollow: whether the file's end is zeros.
        codec: the name of its pictures' codec; None where it is not known.
        mirrored: whether its pictures are to be mirrored.
        lost: whether it is an MP4 without its index, of which nothing can be decoded.
    """

    size: int | None
    promised: int = 0
    hollow: bool = False
    codec: str | None = None
    mirrored: bool = False
    lost: bool = False

    @property
    def cut(self) -> bool:
        """Whether bytes at the file's end are missing for sure."""
        return self.size is not None and self.promised > self.size


def read_container(path: Path) -> Container:
    """Look at the parts of a file, of which a few bytes each are read; OSError where it can't be."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe's bytes are there only once
        return Container(None)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(2**16)
        end, index = _walk_parts(file, size)
        file.seek(max(size - TAIL, 0))
        tail = file.read(TAIL)
    if start[4:8] in BOXES:
        codec, mirrored = _track(index)
    else:
        codec, mirrored = _name(CODEC.search(start)), False
    lost = start[4:8] in BOXES and not index
    return Container(size, end or size + _missing_of_packet(tail), not any(tail), codec, mirrored, lost)


def _walk_parts(file: BinaryIO, size: int) -> tuple[int, bytes]:
    """Return where the last part of a container ends, as far as that is known, and an MP4's index."""
    end, index = 0, b""
    for _ in range(MAX_PARTS):
        file.seek(end)
        head = file.read(HEAD)
        length = _length(head.ljust(32, b"\0"), size - end)
        if head[4:8] == b"moov":
            index = head + file.read(min(length, MAX_INDEX))
        end += length
        if not length or end >= size:
            break
    return end, index


def _track(index: bytes) -> tuple[str | None, bool]:
    """Return the codec of an MP4's first track of pictures, and whether its matrix mirrors: ISO 14496-12, 8.3.2."""
    tracks = index.split(b"tkhd", MAX_TRACKS)[1:]  # from the version of their headers on
    track = next((track for track in tracks if re.search(rb"hdlr.{8}vide", track, re.DOTALL)), b"")
    if len(track) < 88:
        return None, False
    a, b, _, c, d = struct.unpack_from(">5i", track, 52 if track[0] else 40)
    return _name(re.search(rb"stsd.{12}(\w{4})", track, re.DOTALL)), a * d < b * c


def _name(found: re.Match[bytes] | None) -> str | None:
    name = next(filter(None, found.groups())).decode() if found else None
    return NAMES.get(name, name) if name else None


def _missing_of_packet(tail: bytes) -> int:
    """Return how many bytes the last packet of an MPEG-TS lacks, whose packets begin alike every 188 or 192 bytes."""
    for start in range(TAIL - 188, len(tail)):
        if any(set(tail[start % step :: step]) == {ord("G")} for step in (188, 192)):
            return start + 188 - len(tail)
    return 0


def _length(head: bytes, left: int) -> int:
    """Return how long the part of a container is that begins so, by its header; 0 if that is unknown."""
    if head[4:8] in BOXES:
        length = int.from_bytes(head[:4], "big")
        return int.from_bytes(head[8:16], "big") if length == 1 else length or left
    if head[:4] == b"RIFF":
        return _riff_length(int.from_bytes(head[4:8], "little"), left)
    if head[:4] in (EBML, SEGMENT) or head[: 9 - head[0].bit_length()] in ELEMENTS:
        return _element_length(head)
    if head[:16] in ASF:
        return int.from_bytes(head[16:24], "little")
    if head[:4] == b"OggS":
        return 27 + head[26] + sum(head[27 : 27 + head[26]])
    size = struct.unpack(">d", found[1])[0] if head[:3] == b"FLV" and (found := FLV_SIZE.search(head)) else 0.0
    return int(size) if 0 < size < 2**63 else 0


def _riff_length(length: int, left: int) -> int:
    if length in (0, 2**32 - 1):  # never filled in
        return 0
    return left if length <= left < length + 8 else length + 8  # some writers count these 8 bytes of the header as well


def _element_length(head: bytes) -> int:
    """Return the length of a Matroska element with its header, or its header's where its own is unknown: all ones."""
    at = 9 - head[0].bit_length()
    width = 9 - head[at].bit_length()
    ones = (1 << 7 * width) - 1
    length = int.from_bytes(head[at : at + width], "big") & ones
    return at + width + (0 if length == ones else length)
