"""Writes MP4 files of JPEG pictures that can be played at every moment: each picture is a fragment of its own.

OpenCV's writer keeps the index for the end, so that a killed process leaves a file that nothing plays; it has no
encoder that every build shares, says nothing when the disk is full, and knows one constant frame rate. PyAV writes
fragments, and would bring all of FFmpeg to every device. Motion JPEG in fragments (ISO/IEC 14496-12, 8.8; codec 0x6C of
14496-1) needs none of that: whatever was written can be read, and each picture is shown when it was taken. FFmpeg, and
with it OpenCV, and GStreamer play it; browsers don't.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

TIMESCALE = 90_000  # ticks a second: the usual one, all common frame rates are whole in it
IDENTITY_MATRIX = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
KEY_FRAME = 0x02000000  # the flag of a picture that depends on no other
MAX_TICKS = 2**32 - 1  # ticks of one picture, 13 hours: a fragment has 32 bits for them
MDAT_HEAD_SIZE = 8
MOOF_TAIL_SIZE = 8  # bytes of a picture's duration and size, with which its moof ends
JPEG_OBJECT_TYPE = 0x6C  # object type of ISO/IEC 10918-1
LANGUAGE_UNDETERMINED = 0x55C4  # language "und"


class Mp4Writer:
    """Writes one file, a picture at a time; each ``write`` leaves a whole file of ``size`` bytes behind.

    Width and height are in pixels, up to 65,535. A file that exists is never written over: FileExistsError; OSError
    says that it can't be created.
    """

    def __init__(self, path: Path, width: int, height: int) -> None:
        self.path = path
        self.width, self.height = width, height
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._sequence = 0
        self.size = 0  # bytes of whole boxes
        self._start = self._end = 0  # ticks at which the last picture starts and ends
        self._duration_at: int | None = None  # offset of the last picture's duration in the file
        try:
            self._append(_header(width, height))
        except OSError:
            self.close()
            path.unlink(missing_ok=True)
            raise

    @property
    def end(self) -> float:
        """The time at which the last picture ends, seconds from the start of the file."""
        return self._end / TIMESCALE

    def is_taken_away(self) -> bool:
        """Return whether the file was removed, moved, emptied or closed, so that it must not be written to any more.

        An emptied one (``: > out.mp4``, copytruncate) is removed: its name is then free for the next. What was written
        after the emptying and before this look leaves a hole of zeros where the file's head was. OSError says that the
        device is gone.
        """
        try:
            if self._file < 0 or not os.path.samestat(os.fstat(self._file), self.path.stat()):
                return True
        except FileNotFoundError:
            return True
        if any(os.pread(self._file, 8, 0)):
            return False
        self.path.unlink(missing_ok=True)
        return True

    def write(self, jpeg: bytes, start: float, duration: float) -> None:
        """Append a JPEG of the declared size; the picture before is shown until ``start``, whatever its duration.

        ``start`` is in seconds from the start of the file; if not behind the start of the picture before, it is the end
        of that. ``duration`` is in seconds, at least one tick. OSError says that the disk is full or gone; the file
        then ends with the picture before.
        """
        ticks = max(round(start * TIMESCALE), 0)
        if self._sequence and ticks <= self._start:
            ticks = self._end
        length = max(round(duration * TIMESCALE), 1)
        self._sequence += 1
        if self._duration_at is not None and ticks != self._end:  # players take gaps for missing frames
            os.pwrite(self._file, struct.pack(">I", min(ticks - self._start, MAX_TICKS)), self._duration_at)
        head = _fragment(self._sequence, ticks, length, len(jpeg))
        duration_at = self.size + len(head) - MDAT_HEAD_SIZE - MOOF_TAIL_SIZE
        self._append(head + jpeg)
        self._start, self._end, self._duration_at = ticks, ticks + length, duration_at

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def _append(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._file, memoryview(data)[done:], self.size + done)
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _full_box(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _header(width: int, height: int) -> bytes:
    """Return ``ftyp`` and ``moov``: one track of pictures, all of which come in fragments."""
    brands = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso5iso6mp41")
    movie = struct.pack(">4I I H 10x", 0, 0, TIMESCALE, 0, 0x10000, 0x100)
    after = struct.pack(">24x I", 2)  # the next track's number
    track = struct.pack(">5I 8x 4H", 0, 0, 1, 0, 0, 0, 0, 0, 0)
    size = struct.pack(">2I", width << 16, height << 16)
    tables = [_full_box(kind, bytes(4)) for kind in (b"stts", b"stsc")]
    tables += [_full_box(b"stsz", bytes(8)), _full_box(b"stco", bytes(4))]
    references = _full_box(b"dref", struct.pack(">I", 1), _full_box(b"url ", flags=1))
    media = _box(
        b"mdia",
        _full_box(b"mdhd", struct.pack(">4I 2H", 0, 0, TIMESCALE, 0, LANGUAGE_UNDETERMINED, 0)),
        _full_box(b"hdlr", bytes(4), b"vide", bytes(12), b"classified frames\0"),
        _box(
            b"minf",
            _full_box(b"vmhd", bytes(8), flags=1),
            _box(b"dinf", references),
            _box(b"stbl", _full_box(b"stsd", struct.pack(">I", 1), _sample_entry(width, height)), *tables),
        ),
    )
    defaults = _full_box(b"trex", struct.pack(">5I", 1, 1, 0, 0, KEY_FRAME))
    moov = _box(
        b"moov",
        _full_box(b"mvhd", movie, IDENTITY_MATRIX, after),
        _box(b"trak", _full_box(b"tkhd", track, IDENTITY_MATRIX, size, flags=3), media),
        _box(b"mvex", defaults),
    )
    return brands + moov


def _sample_entry(width: int, height: int) -> bytes:
    """Return ``mp4v`` with a decoder configuration (14496-1, 7.2.6) that says JPEG."""
    decoder = struct.pack(">2B 3x 2I", JPEG_OBJECT_TYPE, 4 << 2 | 1, 0, 0)
    stream = struct.pack(">HB", 1, 0) + _descriptor(4, decoder) + _descriptor(6, b"\x02")
    picture = struct.pack(">6x H 16x 2H 2I 4x H 32x H h", 1, width, height, 72 << 16, 72 << 16, 1, 24, -1)
    return _box(b"mp4v", picture, _full_box(b"esds", _descriptor(3, stream)))


def _descriptor(tag: int, body: bytes) -> bytes:
    return bytes((tag, len(body))) + body


def _fragment(sequence: int, start: int, duration: int, size: int) -> bytes:
    """Return the ``moof`` of one picture of ``size`` bytes and the head of its ``mdat``; times are in ticks."""

    def moof(offset: int) -> bytes:
        run = struct.pack(">I i 2I", 1, offset, duration, size)
        return _box(
            b"moof",
            _full_box(b"mfhd", struct.pack(">I", sequence & 0xFFFFFFFF)),
            _box(
                b"traf",
                _full_box(b"tfhd", struct.pack(">I", 1), flags=0x020000),  # offsets count from the moof
                _full_box(b"tfdt", struct.pack(">Q", start), version=1),
                _full_box(b"trun", run, flags=0x000301),  # offset, duration and size
            ),
        )

    return moof(len(moof(0)) + MDAT_HEAD_SIZE) + struct.pack(">I4s", 8 + size, b"mdat")
