"""Writes MP4 files that can be played at every moment: each picture is a fragment of its own.

OpenCV's writer keeps the index for the end, so that a killed process leaves a file that nothing plays; it has no
encoder that every build shares, says nothing when the disk is full, and knows one constant frame rate. PyAV writes
fragments, and would bring all of FFmpeg, with encoders under the GPL, to every device. Fragments (ISO/IEC 14496-12,
8.8) need none of that: whatever was written can be read, and each picture is shown when it was taken.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from ..frame import Pixels
from .encoders import Encoder, Sample

TIMESCALE = 90_000  # ticks a second: the usual one, all common frame rates are whole in it
IDENTITY_MATRIX = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
KEY_FRAME = 0x02000000  # the flag of a picture that depends on no other
DEPENDENT_FRAME = 0x01010000  # the flags of one that depends on others, and where no player can begin
MAX_TICKS = 2**32 - 1  # ticks of one picture, 13 hours: a fragment has 32 bits for them
MDAT_HEAD_SIZE = 8
MOOF_TAIL_SIZE = 12  # bytes of a picture's duration, size and flags, with which its moof ends
LANGUAGE_UNDETERMINED = 0x55C4  # language "und"


class Mp4Writer:
    """Writes one file, a picture at a time; each ``write`` leaves a whole file of ``size`` bytes behind.

    ``encoder`` says the size of the pictures, and is closed with the file. A file that exists is never written over:
    FileExistsError; OSError says that it can't be created.
    """

    def __init__(self, path: Path, encoder: Encoder) -> None:
        self.path = path
        self.encoder = encoder
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._sequence = 0
        self.size = 0  # bytes of whole boxes
        self._start = self._end = 0  # ticks at which the last picture starts and ends
        self._duration_at: int | None = None  # offset of the last picture's duration in the file

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

    def write(self, picture: Pixels, start: float, duration: float) -> None:
        """Append an (H, W, 3) uint8 BGR picture; the one before is shown until ``start``, whatever its duration.

        ``start`` is in seconds from the start of the file; if not behind the start of the picture before, it is the end
        of that. ``duration`` is in seconds, at least one tick.

        Raises:
            OSError: the disk is full or gone; the file then ends with the picture before, and without any it is gone.
            EncoderError: the encoder gave up; the same holds.
        """
        sample = self.encoder.encode(picture)
        if not self.size:
            self._begin()
        ticks = max(round(start * TIMESCALE), 0)
        if self._sequence and ticks <= self._start:
            ticks = self._end
        length = max(round(duration * TIMESCALE), 1)
        self._sequence += 1
        if self._duration_at is not None and ticks != self._end:  # players take gaps for missing frames
            os.pwrite(self._file, struct.pack(">I", min(ticks - self._start, MAX_TICKS)), self._duration_at)
        head = _fragment(self._sequence, ticks, length, sample)
        duration_at = self.size + len(head) - MDAT_HEAD_SIZE - MOOF_TAIL_SIZE
        self._append(head + sample.data)
        self._start, self._end, self._duration_at = ticks, ticks + length, duration_at

    def close(self) -> None:
        """Close the file and its encoder; calling it again does nothing. A file without a picture is removed."""
        if self._file >= 0:
            file, self._file = self._file, -1
            self.encoder.close()
            if not self.size:
                self.path.unlink(missing_ok=True)
            os.close(file)

    def _begin(self) -> None:
        try:
            self._append(_header(self.encoder))
        except OSError:
            self.close()
            raise

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


def _header(encoder: Encoder) -> bytes:
    """Return ``ftyp`` and ``moov``: one track of pictures, all of which come in fragments."""
    brands = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso5iso6mp41")
    movie = struct.pack(">4I I H 10x", 0, 0, TIMESCALE, 0, 0x10000, 0x100)
    after = struct.pack(">24x I", 2)  # the next track's number
    track = struct.pack(">5I 8x 4H", 0, 0, 1, 0, 0, 0, 0, 0, 0)
    size = struct.pack(">2I", encoder.width << 16, encoder.height << 16)
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
            _box(b"stbl", _full_box(b"stsd", struct.pack(">I", 1), _sample_entry(encoder)), *tables),
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


def _sample_entry(encoder: Encoder) -> bytes:
    """Return what the pictures are (14496-12, 12.1.3), with what configures their decoder."""
    kind, configuration, content = encoder.sample_entry()
    size = (encoder.width, encoder.height)
    picture = struct.pack(">6x H 16x 2H 2I 4x H 32x H h", 1, *size, 72 << 16, 72 << 16, 1, 24, -1)
    return _box(kind, picture, _box(configuration, content))


def _fragment(sequence: int, start: int, duration: int, sample: Sample) -> bytes:
    """Return the ``moof`` of one picture and the head of its ``mdat``; times are in ticks."""
    flags = KEY_FRAME if sample.key else DEPENDENT_FRAME

    def moof(offset: int) -> bytes:
        run = struct.pack(">I i 3I", 1, offset, duration, len(sample.data), flags)
        return _box(
            b"moof",
            _full_box(b"mfhd", struct.pack(">I", sequence & 0xFFFFFFFF)),
            _box(
                b"traf",
                _full_box(b"tfhd", struct.pack(">I", 1), flags=0x020000),  # offsets count from the moof
                _full_box(b"tfdt", struct.pack(">Q", start), version=1),
                _full_box(b"trun", run, flags=0x000701),  # offset, duration, size and flags
            ),
        )

    return moof(len(moof(0)) + MDAT_HEAD_SIZE) + struct.pack(">I4s", 8 + len(sample.data), b"mdat")
