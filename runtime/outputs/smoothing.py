"""Averages probabilities over a source's last frames, where labels flicker, and marks the results as averages."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from ..classifier import Prediction
from ..errors import UsageError
from ..sources.events import Event, Kind
from .result import LiveSink, Result, Status

__all__ = ["SmoothedPrediction", "Smoothing"]

FILE_FPS = 25  # frames of a video file that count as a second
SOURCES = 256  # sources that are remembered; far more than run at once
BREAKS: frozenset[Kind] = frozenset({"lost", "stalled", "reconnected", "resized"})


@dataclass(frozen=True, eq=False)
class SmoothedPrediction(Prediction):
    """This prediction's probabilities are an average over time.

    Attributes:
        logits: the logits of the newest frame alone.
        smoothed_s: over about how many seconds the probabilities are averaged.
    """

    smoothed_s: float = 0.0


@dataclass(eq=False)
class _State:
    time: float
    probabilities: npt.NDArray[np.float32]


class Smoothing:
    """This ``LiveSink`` passes results on to other sinks with an exponential average of each source's probabilities.

    What came t seconds before the newest frame keeps exp(-t / ``seconds``) of its weight, so that the average spans the
    same time however many frames the engine leaves out. Of a video file, where nobody knows when a frame was taken, 25
    frames count as a second: the same on every machine. After a break (lost, stalled, another resolution) the average
    starts anew. Single images are passed on as they are.
    """

    def __init__(self, seconds: float, sinks: Sequence[LiveSink], *, live: Collection[str] = ()) -> None:
        """Average over about ``seconds``; ``live`` names the cameras and streams, as their frames carry them.

        Raises:
            UsageError: ``seconds`` is not a positive number.
        """
        if not math.isfinite(seconds) or seconds <= 0:
            raise UsageError(f"expected to smooth over more than 0 seconds, found {seconds}; leave it out for none")
        self._seconds = seconds
        self._live = frozenset(live)
        self._sinks = tuple(sinks)
        self._states: OrderedDict[str, _State] = OrderedDict()

    def write(self, result: Result) -> None:
        """Pass a result on with its averaged probabilities."""
        smoothed = self._smooth(result)
        for sink in self._sinks:
            sink.write(smoothed)

    def event(self, event: Event) -> None:
        """Pass an event on; a break ends the source's average."""
        if event.kind in BREAKS:
            self._states.pop(event.source, None)
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
        """Close every sink; the first error is raised once all of them are closed."""
        errors: list[Exception] = []
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:  # noqa: PERF203  # the others have files to finish
                errors.append(error)
        if errors:
            raise errors[0]

    def _smooth(self, result: Result) -> Result:
        prediction, frame = result.prediction, result.frame
        if prediction is None or not frame.video:
            return result
        time = frame.captured if frame.source in self._live else frame.index / FILE_FPS
        probabilities = self._average(frame.source, time, prediction.probabilities)
        values = {field.name: getattr(prediction, field.name) for field in fields(Prediction)}
        values["probabilities"] = probabilities
        return replace(result, prediction=SmoothedPrediction(**values, smoothed_s=self._seconds))

    def _average(self, source: str, time: float, new: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        state = self._states.pop(source, None)
        if state is not None and time > state.time:  # a source whose time goes back is another stream
            kept = math.exp((state.time - time) / self._seconds)
            new = (kept * state.probabilities + (1 - kept) * new).astype(np.float32)
        self._states[source] = _State(time, new)
        while len(self._states) > SOURCES:
            self._states.popitem(last=False)
        return new
