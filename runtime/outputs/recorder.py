"""Writes classified frames as a video, each with its label: ``--save``."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..canvas.pictures import blank, caption, fit, inset, notice
from ..frame import Pixels
from ..sources.events import Events
from ..storage import check_writable
from .encoders import Encoder, EncoderError, H264Encoder, JpegEncoder
from .mp4 import Mp4Writer
from .sink import Result, Sink

MAX_SIDE = 1920  # pixels that the longer side of a recorded frame has at most
MIN_SIDE = 240  # pixels below which the shorter side is enlarged: a label is not readable there
IMAGE_SECONDS = 1.0  # seconds for which a single image is shown
MAX_PAUSE = 2.0  # seconds without a classified frame after which the video says so, not showing the last one any longer
MAX_FILE_SIZE = 4_000_000_000  # bytes after which another file is begun: FAT32 and many players end at 2**32
MIN_FILE_SECONDS = 10.0  # of a file that a change of size began, before the next change begins another
LOOK_EVERY = 1.0  # seconds between two looks at files that nothing is written to
MAX_OPEN_FILES = 32  # files open at a time; with more sources, the one that gave nothing for longest is closed


@dataclass
class _SourceFile:
    """One file that is being written, from frames of ``frame_size`` (width, height), pixels.

    ``offset`` is what the source's time lacks to the time in the file; ``last_index`` and ``last_time`` are those of
    the video's last frame; both times are in seconds.
    """

    writer: Mp4Writer
    frame_size: tuple[int, int]
    offset: float
    last_index: int = -1
    last_time: float = math.inf
    after_change: bool = False  # whether a change of size began it

    def too_short_for(self, size: tuple[int, int]) -> bool:
        """Return whether frames of another ``size`` are fitted into this file: a source that changes its size often."""
        return self.after_change and self.frame_size != size and self.writer.end < MIN_FILE_SECONDS

    def place(self, index: int, now: float, interval: float) -> tuple[float, float]:
        """Return where a video file's frame stands in the recording and how long it is shown at first, both seconds.

        A video that begins again goes on behind its last frame. The duration is ``interval`` where the frame before
        tells none.
        """
        frames, seconds = index - self.last_index, now - self.last_time
        if frames <= 0 or seconds < 0:
            self.offset = self.writer.end - now
        self.last_index, self.last_time = index, now
        return self.offset + now, seconds / frames if frames > 0 and seconds > 0 else interval


class Recorder(Sink):
    """This sink writes the frames of each source, or region, to a file of its own; ``paths`` are the files so far.

    The first file has the name that was asked for, further ones (another source or region, another resolution, a name
    that is taken: nothing is written over; 4 GB that are full) a number in it: ``out-2.mp4``. A file can be played at
    every moment, also after the process was killed, and taken away at every moment: one that was removed, moved or
    emptied begins anew under its name. Frames of cameras and streams are shown when they were captured, with a notice
    in place of gaps; those of video files where they stand in them, one that is read again behind the first time;
    single images for a second each, all in one file, fitted to the size of the first. A source that changes its
    resolution again within ten seconds has its frames fitted until these are over. Frames are no larger than 1920
    pixels, and tiny ones are enlarged until a label can be read. They are H.264 where an encoder is named, else Motion
    JPEG; where that encoder gives up, this is said, and the recording goes on as Motion JPEG in another file.

    Where a file can't be written, because the disk is full above all, that is reported as ``disk-full``, what was
    written stays playable, nothing more is recorded, and ``stopped`` is True.
    """

    def __init__(
        self,
        path: Path,
        fps: float = 25.0,
        *,
        events: Events | None = None,
        live: Collection[str] = (),
        say: Callable[[str], None] = lambda _: None,
        h264: str | None = None,
    ) -> None:
        """Check the path, an .mp4 that can be written, or raise UsageError; no file is created before the first frame.

        ``fps`` is that of video files that don't say when their frames are shown. ``live`` names the cameras and
        streams, as their frames carry them. ``say`` is called with lines that name the file being written, or say what
        became of it. ``h264`` is an encoder that ``find_h264_encoder`` found.
        """
        check_writable("--save", path, ".mp4")
        self.paths: list[Path] = []
        self.stopped = False
        self._path = path
        self._interval = 1 / fps
        self._events = events or Events()
        self._live = frozenset(live)
        self._say = say
        self._h264 = h264
        self._open_files: dict[str, _SourceFile] = {}  # the one that was written last stands at the end
        self._looked = time.monotonic()

    def write(self, result: Result) -> None:
        """Write one frame; one that was not classified is left out."""
        if self.stopped or result.prediction is None or result.frame.image is None:
            return
        try:
            self._record(result, result.frame.image)
        except EncoderError as error:
            self._h264 = None
            self._say(f"{error}; the recording goes on as Motion JPEG")
            self.close()
            self.write(result)
        except OSError as error:
            self._give_up(error, result.frame.source)

    def poll(self) -> bool:
        """Free the space of removed files whose source gives nothing; return False."""
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            for file in self._open_files.values():
                with suppress(OSError):  # told when the next frame can't be written
                    if file.writer.is_taken_away():
                        file.writer.close()
        return False

    def close(self) -> None:
        """Close the files; an error in that is told by ``say`` and sets ``stopped``."""
        while self._open_files:
            writer = self._open_files.popitem()[1].writer
            try:
                writer.close()
            except OSError as error:  # a network share may say only now that it is full, when events are told no more
                self.stopped = True
                self._say(f"--save {writer.path}: {error.strerror or error}; its end may be missing")

    def _record(self, result: Result, image: Pixels) -> None:
        frame = result.frame
        live = frame.name in self._live
        now = frame.captured if live else frame.index * self._interval if frame.position is None else frame.position
        file = self._file_for(result, image, now)
        start, seconds = file.writer.end, IMAGE_SECONDS
        if live:
            start, seconds = now + file.offset, self._interval
            if start > file.writer.end + MAX_PAUSE:
                self._write_gap(file.writer, file.writer.end + self._interval, start)
        elif frame.video:
            start, seconds = file.place(frame.index, now, self._interval)
        picture = _blank(file.writer)
        fit(image, picture)
        if frame.seen is not None:
            inset(frame.seen, picture)
        _label(picture, result)
        file.writer.write(picture, start, seconds)

    def _file_for(self, result: Result, image: Pixels, now: float) -> _SourceFile:
        """Return the file that a frame goes to: a new one where its size changed or the old is full or taken away."""
        frame, size = result.frame, (image.shape[1], image.shape[0])
        key = frame.name if frame.video else frame.region
        file, freed_name, changed = self._open_files.get(key), None, False
        if file is not None and file.writer.is_taken_away():
            freed_name = file.writer.path
            self._say(f"{freed_name} was removed, moved or emptied: the recording begins anew")
        if file is not None:
            changed = frame.video and file.frame_size != size and not file.too_short_for(size)
            if freed_name or file.writer.size >= MAX_FILE_SIZE or changed:
                self._open_files.pop(key).writer.close()
                file = None
        if file is None:
            while len(self._open_files) >= MAX_OPEN_FILES:
                self._open_files.pop(next(iter(self._open_files))).writer.close()
            writer = self._create(*_recorded_size(*size), freed_name)
            file = _SourceFile(writer, size, -now, after_change=changed)
        self._open_files[key] = self._open_files.pop(key, file)
        return file

    def _create(self, width: int, height: int, freed_name: Path | None) -> Mp4Writer:
        """Create a file under a name that nothing has: ``freed_name``, of a file taken away, else the next number's."""
        encoder: Encoder = JpegEncoder(width, height)
        if self._h264 is not None:
            encoder = H264Encoder(self._h264, width, height)
        numbered = (_numbered(self._path, number) for number in itertools.count(len(self.paths) + 1))
        names = itertools.chain([] if freed_name is None else [freed_name], numbered)
        while True:
            path = next(names)
            try:
                writer = Mp4Writer(path, encoder)
            except FileExistsError:
                continue
            except OSError:
                encoder.close()
                raise
            if path not in self.paths:
                self.paths.append(path)
            self._say(f"recording to {path}, {width}x{height}, {encoder.name}")
            return writer

    def _write_gap(self, writer: Mp4Writer, start: float, end: float) -> None:
        picture = _blank(writer)
        notice(picture, [f"nothing classified for {end - start:.0f} s"], _text_size(picture.shape[0]))
        writer.write(picture, start, self._interval)

    def _give_up(self, error: OSError, source: str) -> None:
        self.stopped = True
        self.close()
        where = self.paths[-1] if self.paths else self._path
        self._events.report("disk-full", source, f"--save {where}: {error.strerror or error}; recording stopped")


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _label(picture: Pixels, result: Result) -> None:
    frame = result.frame
    clock = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(frame.timestamp))}  " if frame.timestamp else ""
    smoothed = "smoothed  " if result.smoothed_s else ""
    (label, probability), *_ = result.ranked(1)
    region = f"{frame.region}  " if frame.region else ""
    details = f"{region}{smoothed}{clock}#{frame.index}"
    caption(picture, label, probability, details, _text_size(picture.shape[0]))


def _text_size(height: int) -> int:
    return min(max(height // 24, 13), 32)


def _recorded_size(width: int, height: int) -> tuple[int, int]:
    """Return a recorded frame's width and height: even, as other codecs expect, neither too large nor too small."""
    scale = min(MAX_SIDE / max(width, height), 1)
    if scale == 1 and min(width, height) < MIN_SIDE:
        scale = min(-(-MIN_SIDE // min(width, height)), MAX_SIDE // max(width, height))
    return _even(width * scale), _even(height * scale)


def _even(side: float) -> int:
    return max(round(side / 2) * 2, 2)


def _blank(writer: Mp4Writer) -> Pixels:
    return blank(writer.encoder.width, writer.encoder.height)
