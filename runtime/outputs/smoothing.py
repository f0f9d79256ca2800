"""Averages probabilities over a source's last frames, where labels flicker, and marks the results as averages."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..sources.events import Event, Kind
from .sink import Result, Sink, Status

__all__ = ["Smoothing"]

FILE_FPS = 25  # frames of a video file that count as a second
MAX_SOURCES = 256  # sources that are remembered; far more than run at once
BREAKS: frozenset[Kind] = frozenset({"lost", "stalled", "reconnected", "resized"})


class Smoothing(Sink):
    """This sink passes results on to other sinks with an exponential average of each source's probabilities.

    What came t seconds before the newest frame keeps exp(-t / ``seconds``) of its weight, so that the average spans the
    same time however many frames the engine leaves out. Of a video file, where nobody knows when a frame was taken, 25
    frames count as a second: the same on every machine. After a break (lost, stalled, another resolution) the average
    starts anew. Single images are passed on as they are.
    """

    def __init__(self, seconds: float, sinks: Sequence[Sink], *, live: Collection[str] = ()) -> None:
        """Average over about ``seconds``; ``live`` names the cameras and streams, as their frames carry them."""
        self._seconds = seconds
        self._live = frozenset(live)
        self._sinks = tuple(sinks)
        self._averages: OrderedDict[str, tuple[float, npt.NDArray[np.float32]]] = OrderedDict()  # with their times

    def write(self, result: Result) -> None:
        """Pass a result on with its averaged probabilities."""
        smoothed = self._smooth(result)
        for sink in self._sinks:
            sink.write(smoothed)

    def event(self, event: Event) -> None:
        """Pass an event on; a break ends the source's average."""
        if event.kind in BREAKS:
            self._averages.pop(event.source, None)
        for sink in self._sinks:
            sink.event(event)

    def status(self, status: Status) -> None:
        """Pass a status on."""
        for sink in self._sinks:
            sink.status(status)

    def poll(self) -> bool:
        """Poll every sink; return whether one was asked to stop."""
        asked = [sink.poll() for sink in self._sinks]  # any() over them would stop at the first, and a window freeze
        return any(asked)

    def close(self) -> None:
        """Close every sink, also after one that fails: the others have files to finish."""
        with ExitStack() as closing:
            for sink in reversed(self._sinks):
                closing.callback(sink.close)

    def _smooth(self, result: Result) -> Result:
        prediction, frame = result.prediction, result.frame
        if prediction is None or not frame.video:
            return result
        time = frame.captured if frame.source in self._live else frame.index / FILE_FPS
        probabilities = self._average(frame.source, time, prediction.probabilities)
        return replace(result, prediction=replace(prediction, probabilities=probabilities), smoothed_s=self._seconds)

    def _average(self, source: str, time: float, new: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        before, average = self._averages.pop(source, (math.inf, new))
        if time > before:  # a source whose time goes back is another stream
            kept = math.exp((before - time) / self._seconds)
            new = (kept * average + (1 - kept) * new).astype(np.float32)
        self._averages[source] = time, new
        while len(self._averages) > MAX_SOURCES:
            self._averages.popitem(last=False)
        return new
