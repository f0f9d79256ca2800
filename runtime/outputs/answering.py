"""Makes of what a model says from frame to frame an answer that one can act on: averaged, sure enough, and stable."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..frame import Frame
from ..sources.events import Event, Kind
from .sink import UNKNOWN, Answer, Result

if TYPE_CHECKING:
    from ..classifier import Prediction

VIDEO_FPS = 25  # frames of a video file that count as a second: the same on every machine
MAX_SOURCES = 256  # sources that are remembered; far more than run at once
BREAKS: frozenset[Kind] = frozenset({"lost", "stalled", "reconnected", "resized"})
Label = tuple[str, bool]  # as an answer has it, and whether it is one of the model's


@dataclass
class _Memory:
    """What is remembered of one source: its average, its answer, and since when another label has been first.

    ``time`` and ``rival_from`` are seconds on the source's own clock, ``since`` Unix seconds.
    """

    source: str
    time: float
    average: npt.NDArray[np.float32]
    answer: Label
    since: float
    rival: Label
    rival_from: float


class Answering:
    """Gives every result its answer, after averaging its source's probabilities over time where that is asked for.

    What came t seconds before the newest frame keeps exp(-t / ``smooth``) of its weight, so that the average spans the
    same time however many frames the engine leaves out. An answer is the most probable label, or ``UNKNOWN`` where its
    probability is below ``min_probability``. With ``stable`` it is UNKNOWN at first, and changes when another label, or
    none, has been first for so many seconds without a break.

    Of a video file, where nobody knows when a frame was taken, 25 frames count as a second: the same on every machine.
    After a break (lost, stalled, another resolution) everything starts anew. Single images have nothing before them:
    neither average nor wait. It is not thread-safe.
    """

    def __init__(
        self,
        *,
        smooth: float | None = None,
        min_probability: float = 0.0,
        stable: float = 0.0,
        live: Collection[str] = (),
    ) -> None:
        """Take seconds, a probability and seconds; ``live`` has the names of cameras and streams, as ``Frame.name``."""
        self._smooth = smooth
        self._min_probability = min_probability
        self._stable = stable
        self._live = frozenset(live)
        self._memories: OrderedDict[str, _Memory] = OrderedDict()  # by the frames' names; the last used at the end

    def answered(self, result: Result) -> Result:
        """Return a result with its answer and, where that is asked for, averaged probabilities."""
        prediction, frame = result.prediction, result.frame
        if prediction is None:
            return result
        if not frame.video:
            return replace(result, answer=_answer(prediction, self._first(prediction), _clock(frame)))
        now = frame.captured if frame.name in self._live else frame.index / VIDEO_FPS
        memory = self._memories.pop(frame.name, None)
        if memory is not None and now <= memory.time:  # a source whose time goes back is another stream
            memory = None
        if self._smooth is not None:
            average = prediction.probabilities
            if memory is not None:
                weight = math.exp((memory.time - now) / self._smooth)
                average = (weight * memory.average + (1 - weight) * average).astype(np.float32)
            prediction = replace(prediction, probabilities=average)
        memory = self._remember(memory, frame, prediction, now)
        answer = _answer(prediction, memory.answer, memory.since)
        return replace(result, prediction=prediction, smoothed_s=self._smooth, answer=answer)

    def event(self, event: Event) -> None:
        """Forget a source's past, that of all its regions, where an event is a break."""
        if event.kind in BREAKS:
            for name in [name for name, memory in self._memories.items() if memory.source == event.source]:
                del self._memories[name]

    def _first(self, prediction: Prediction) -> Label:
        sure = prediction.probability >= self._min_probability
        return (prediction.label, True) if sure else (UNKNOWN, False)

    def _remember(self, memory: _Memory | None, frame: Frame, prediction: Prediction, now: float) -> _Memory:
        """Bring a source's memory, None where it has none, to this frame, and keep it."""
        first = self._first(prediction)
        if memory is None:
            answer = (UNKNOWN, False) if self._stable else first
            memory = _Memory(frame.source, now, prediction.probabilities, answer, _clock(frame), first, now)
        if first != memory.rival:
            memory.rival, memory.rival_from = first, now
        if first != memory.answer and now - memory.rival_from >= self._stable:
            memory.answer, memory.since = first, _clock(frame)
        memory.time, memory.average = now, prediction.probabilities
        self._memories[frame.name] = memory
        while len(self._memories) > MAX_SOURCES:
            self._memories.popitem(last=False)
        return memory


def _answer(prediction: Prediction, label: Label, since: float) -> Answer:
    name, known = label
    probability = prediction.probability
    if known and name != prediction.label:
        probability = float(prediction.probabilities[prediction.labels.index(name)])
    return Answer(name, probability, since, known)


def _clock(frame: Frame) -> float:
    return frame.timestamp or time.time()
