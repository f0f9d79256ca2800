"""Keeps single frames as files when the model sees what somebody waits for: ``--snapshots DIR --when LABEL>0.8``."""

from __future__ import annotations

import difflib
import math
import operator
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..opencv import cv2
from ..sources.events import Events
from ..storage import free_path, write_bytes
from .sink import Result, Sink

if TYPE_CHECKING:
    from ..classifier import Prediction

JPEG_QUALITY = 95  # JPEG's, from 0 to 100
MAX_JPEG_SIDE = 65_500  # pixels of a side, the most that OpenCV's encoder takes
SNAPSHOT_SPACING = 30  # frames of one source, from one snapshot to the next: about a second of a camera
MAX_PART_BYTES = 60  # bytes of a source's or label's name in a file's name
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
CONDITION = re.compile(r"\s*(?P<label>.+?)\s*(?P<comparison>>=|<=|>|<)\s*(?P<limit>[^<>=]*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """This class compares one label's probability with a limit; ``comparison`` is ``>``, ``>=``, ``<`` or ``<=``."""

    label: str
    comparison: str
    limit: float

    def holds(self, prediction: Prediction) -> bool:
        """Return whether the condition holds for a prediction."""
        return COMPARISONS[self.comparison](self.probability(prediction), self.limit)

    def probability(self, prediction: Prediction) -> float:
        """Return the probability that a prediction gives the label."""
        return float(prediction.probabilities[prediction.labels.index(self.label)])


def parse_condition(text: str, labels: Sequence[str] | None) -> Condition:
    """Read ``LABEL>0.8``; also ``>=``, ``<`` and ``<=``. A label may hold any characters, these included.

    Where the model's labels are not known yet (None), any label is taken.

    Raises:
        UsageError: there is no comparison, the model lacks the label, or no probability can meet the limit.
    """
    match = CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(f"--when {text!r}: expected LABEL>0.8 (or >=, <, <=), found no comparison with a number")
    label, comparison = match["label"], match["comparison"]
    try:
        limit = float(match["limit"])
    except ValueError:
        limit = math.nan
    if not 0 <= limit <= 1:
        found = match["limit"] or "nothing"
        raise UsageError(f"--when {text!r}: expected a probability from 0 to 1 after {comparison}, found {found}")
    if (comparison, limit) in {(">", 1.0), ("<", 0.0)}:
        raise UsageError(f"--when {text!r}: expected a condition that can hold, found that no probability is {text!r}")
    if labels is not None and label not in labels:
        raise UsageError(f"--when {text!r}: expected one of the model's {len(labels)} labels, {_offer(label, labels)}")
    return Condition(label, comparison, limit)


def _offer(label: str, labels: Sequence[str]) -> str:
    near = difflib.get_close_matches(label, labels, n=3, cutoff=0.5)
    some = near or list(labels[:5])
    return f"found {label!r}; {'near it' if near else 'some of them'}: {', '.join(some)}"


class Snapshots(Sink):
    """This sink writes captured frames on which a condition holds as JPEGs, or PNGs beyond that format's size.

    It writes at most one in 30 frames of a camera, stream or video: a condition that holds all day must not fill the
    disk at once. A name has the time of capture, where there is one, the source, the region, the frame's number, the
    label and its probability. Where a file can't be written, because the disk is full above all, that is reported as
    ``disk-full``, no more files are written, and ``stopped`` is True.
    """

    def __init__(self, folder: Path, condition: Condition, *, events: Events | None = None) -> None:
        prepare_folder(folder)
        self.stopped = False
        self._folder = folder
        self._condition = condition
        self._events = events or Events()
        self._last: dict[str, int] = {}  # the number of each video's last snapshot

    def write(self, result: Result) -> None:
        """Write this frame, if the condition holds and, of a video, the last snapshot is at least 30 frames back."""
        prediction, frame = result.prediction, result.frame
        if self.stopped or prediction is None or frame.image is None or not self._condition.holds(prediction):
            return
        if frame.video and not self._due(frame.name, frame.index):
            return
        suffix = ".jpg" if max(frame.image.shape) <= MAX_JPEG_SIDE else ".png"
        _, data = cv2.imencode(
            suffix, frame.image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
        )
        try:
            write_bytes(self._path(result, self._condition.probability(prediction), suffix), data.tobytes())
        except OSError as error:
            self.stopped = True
            detail = f"--snapshots {self._folder}: {error.strerror or error}; no more are written"
            self._events.report("disk-full", frame.source, detail)

    def _due(self, name: str, index: int) -> bool:
        last = self._last.get(name)
        if last is not None and last <= index < last + SNAPSHOT_SPACING:
            return False
        self._last[name] = index
        return True

    def _path(self, result: Result, probability: float, suffix: str) -> Path:
        """Return a path for this snapshot that nothing has yet."""
        frame = result.frame
        _, is_address, address = frame.source.partition("://")
        parts = [
            _part(address if is_address else Path(frame.source).stem),
            *([_part(frame.region)] if frame.region else []),
            *([f"{frame.index:06d}"] if frame.video else []),
        ]
        if frame.timestamp:
            moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(frame.timestamp))
            parts.insert(0, f"{moment}.{int(frame.timestamp * 1000) % 1000:03d}Z")
        name = "_".join([*parts, _part(self._condition.label), f"{probability:.3f}"])
        return free_path(self._folder / f"{name}{suffix}")


def prepare_folder(folder: Path) -> None:
    """Create the folder, if it is not there; UsageError says that this fails, or that it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--snapshots {folder}: expected a folder, or to create one: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--snapshots {folder}: expected to be allowed to write into it, found that it is not")


def _part(text: str) -> str:
    """Return text as a part of a file's name: letters, digits and little else, in any script."""
    plain = re.sub(r"[^\w.-]+", "-", text).strip("-.")
    return plain.encode()[:MAX_PART_BYTES].decode(errors="ignore") or "x"  # a whole name has room for 255
