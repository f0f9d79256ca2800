"""Classified frames as a video, each with its label: ``--save``."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ...errors import UsageError
from ...opencv import cv2
from ..events import Event, Events
from ..result import Result, Status
from .draw import canvas, caption, fit, notice
from .mp4 import Mp4Writer
from .smoothing import SmoothedPrediction
from .text import Pixels

__all__ = ["Recorder", "check_recording"]

QUALITY = 80  # JPEG
LARGEST = 1920  # pixels, the longer side of a recorded frame
SMALLEST = 240  # the shorter side: a label is not readable below
IMAGE_SECONDS = 1.0  # for which a single image is shown
GAP = 2.0  # seconds without a classified frame after which the video says so, not showing the last one any longer
OPEN_FILES = 32  # at a time; of more sources than that, the one that gave nothing for longest is closed


@dataclass
class _Part:
    """One file being written.

    Attributes:
        frame: (width, height) of the source's frames.
        origin: the source's time at the file's start, seconds.
    """

    writer: Mp4Writer
    frame: tuple[int, int]
    origin: float


class Recorder:
    """Writes each source's classified frames to a file of its own; a ``LiveSink``.

    The first file has the name that was asked for, further ones (another source, another resolution, a name that is
    taken: nothing is written over) a number in it: ``out-2.mp4``. A file can be played at every moment, also after the
    process was killed. Frames of cameras and streams are shown when they were captured, with a notice in place of gaps;
    those of files at ``fps``; single images for a second each, all in one file, fitted to the size of the first. Frames
    are Motion JPEG, no larger than 1920 pixels; tiny ones are enlarged until a label can be read.

    Where a file can't be written, a full disk above all, that is reported as ``disk-full``, what was written stays
    playable, and nothing more is recorded.

    Attributes:
        paths: the files so far.
    """

    def __init__(
        self,
        path: Path,
        fps: float = 25.0,
        *,
        events: Events | None = None,
        live: Collection[str] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing is created before the first frame.

        Args:
            path: the file, ``.mp4``.
            fps: frames a second of files, whose own rate nobody knows.
            events: whom to tell that the disk is full.
            live: names of the cameras and streams, as their frames carry them.
            say: whom to tell, in one line, which file is written.

        Raises:
            UsageError: not an .mp4, or in a folder that is not there or not writable.
        """
        check_recording(path)
        self.paths: list[Path] = []
        self._path = path
        self._interval = 1 / fps
        self._events = events or Events()
        self._live = frozenset(live)
        self._say = say
        self._parts: OrderedDict[str, _Part] = OrderedDict()  # the one written last at the end
        self._stopped = False

    def write(self, result: Result) -> None:
        """Write one frame; one that was not classified is left out."""
        if self._stopped or result.prediction is None or result.frame.image is None:
            return
        try:
            self._record(result, result.frame.image)
        except OSError as error:
            self._give_up(error, result.frame.source)

    def event(self, event: Event) -> None:
        """Nothing: gaps show."""

    def status(self, status: Status) -> None:
        """Nothing: each frame is written when it comes."""

    def poll(self) -> bool:
        """Never asks to stop."""
        return False

    def close(self) -> None:
        """Close the files."""
        while self._parts:
            self._parts.popitem()[1].writer.close()

    def _record(self, result: Result, image: Pixels) -> None:
        frame = result.frame
        live = frame.source in self._live
        now = frame.captured if live else frame.index * self._interval
        part = self._part(frame.source if frame.video else "", image, now, steady=frame.video)
        start = now - part.origin if frame.video else part.writer.end
        end = part.writer.end
        if live and start > end + GAP:
            self._write_gap(part.writer, end + self._interval, start)
        picture = canvas(part.writer.width, part.writer.height)
        fit(image, picture)
        _label(picture, result)
        part.writer.write(_encode(picture), start, self._interval if frame.video else IMAGE_SECONDS)

    def _part(self, key: str, image: Pixels, now: float, *, steady: bool) -> _Part:
        """The file that this frame goes to: another one where the size changed, or time went back."""
        size = image.shape[1], image.shape[0]
        part = self._parts.pop(key, None)
        if part is not None and steady and (part.frame != size or now < part.origin):
            part.writer.close()
            part = None
        if part is None:
            while len(self._parts) >= OPEN_FILES:
                self._parts.popitem(last=False)[1].writer.close()
            part = _Part(self._create(*_recorded(*size)), size, now)
        self._parts[key] = part
        return part

    def _create(self, width: int, height: int) -> Mp4Writer:
        number = len(self.paths) + 1
        while True:
            stem = self._path.stem if number == 1 else f"{self._path.stem}-{number}"
            path = self._path.with_name(stem + self._path.suffix)
            try:
                writer = Mp4Writer(path, width, height)
            except FileExistsError:
                number += 1
                continue
            self.paths.append(path)
            self._say(f"recording to {path}, {width}x{height}")
            return writer

    def _write_gap(self, writer: Mp4Writer, start: float, end: float) -> None:
        picture = canvas(writer.width, writer.height)
        notice(picture, [f"nothing classified for {end - start:.0f} s"], _text_size(writer.height))
        writer.write(_encode(picture), start, self._interval)

    def _give_up(self, error: OSError, source: str) -> None:
        self._stopped = True
        self.close()
        where = self.paths[-1] if self.paths else self._path
        self._events.report("disk-full", source, f"--save {where}: {error.strerror}; recording stopped")


def check_recording(path: Path) -> None:
    """Refuse a file that can't be recorded to.

    Raises:
        UsageError: not an .mp4, or in a folder that is not there or not writable.
    """
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"--save {path}: expected a name that ends in .mp4, found {path.suffix or 'no suffix'}")
    if not path.parent.is_dir():
        raise UsageError(f"--save {path}: expected the folder {path.parent} to exist, found none; create it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"--save {path}: expected to be allowed to write into {path.parent}, found that it is not")


def _label(picture: Pixels, result: Result) -> None:
    prediction, frame = result.prediction, result.frame
    if prediction is None:
        return
    clock = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(frame.timestamp))}  " if frame.timestamp else ""
    smoothed = "smoothed  " if isinstance(prediction, SmoothedPrediction) else ""
    (label, probability), *_ = prediction.top(1)
    details = f"{smoothed}{clock}#{frame.index}"
    caption(picture, label, probability, details, _text_size(picture.shape[0]))


def _text_size(height: int) -> int:
    return min(max(height // 24, 13), 32)


def _recorded(width: int, height: int) -> tuple[int, int]:
    """The size of a recorded frame: even, as decoders of other codecs expect it, neither too large nor too small."""
    scale = min(LARGEST / max(width, height), 1)
    if scale == 1 and min(width, height) < SMALLEST:
        scale = min(-(-SMALLEST // min(width, height)), LARGEST // max(width, height))
    return _even(width * scale), _even(height * scale)


def _even(side: float) -> int:
    return max(round(side / 2) * 2, 2)


def _encode(picture: Pixels) -> bytes:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return data.tobytes()
