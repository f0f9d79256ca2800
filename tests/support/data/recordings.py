"""Recordings made, and really played back."""

import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hybrid_edge.runtime.frame import Pixels
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs.mp4 import TIMESCALE
from hybrid_edge.runtime.outputs.recorder import Recorder
from hybrid_edge.runtime.outputs.sink import Result
from support.live.results import make_result


def play(path: Path) -> list[tuple[float, Pixels]]:
    """Every picture of a video with its time in seconds."""
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()
    frames = []
    while True:
        there, image = capture.read()
        if not there:
            return frames
        frames.append((capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, np.asarray(image, np.uint8)))


def write_clip(path: Path, frames: Iterable[Pixels], rate: float = 25, codec: str = "MJPG") -> Path:
    """Write a video of frames of one size."""
    first, *others = frames
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, first.shape[1::-1])
    for frame in (first, *others):
        writer.write(frame)
    writer.release()
    return path


def record(path: Path, results: list[Result], **settings: object) -> Recorder:
    recorder = Recorder(path, **settings)  # type: ignore[arg-type]
    for result in results:
        recorder.write(result)
    recorder.close()
    return recorder


def lasts(path: Path) -> float:
    """Seconds for which a recording plays: until the end of its last picture."""
    data = path.read_bytes()
    (start,) = struct.unpack_from(">Q", data, data.rindex(b"tfdt") + 8)
    (duration,) = struct.unpack_from(">I", data, data.rindex(b"trun") + 16)
    return float(start + duration) / TIMESCALE


def at(position: float, index: int, source: str = "clip.mp4", **settings: object) -> Result:
    """A classified frame of a video file, and where it stands in it."""
    result = make_result(source, index, **settings)  # type: ignore[arg-type]
    return replace(result, frame=replace(result.frame, position=position))


def times(path: Path) -> list[float]:
    """When each picture of a video is shown, seconds."""
    return [moment for moment, _ in play(path)]
