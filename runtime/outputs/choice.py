"""Opens the outputs that a request asks for, in one list, and averages over time what they are told if it asks so."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..console import say
from ..infer_request import InferRequest
from ..sources.events import Event, Events, Kind
from ..storage import check_writable
from .display import display_problem, require_display
from .result_lines import FileProgress, JsonLines, ResultTable
from .sink import Result, Sink, Status
from .snapshots import Snapshots, parse_condition, prepare_folder
from .statusline import StatusLine
from .window import HEADLESS_ADVICE, Window

if TYPE_CHECKING:
    from ..sources.capture import Capture
    from .recorder import Recorder

FILE_FPS = 25.0  # frames a second of a recording, where neither the video file nor --fps says how many
SMOOTHED_FPS = 25  # frames of a video file that count as a second: the same on every machine
MAX_SOURCES = 256  # sources whose average is remembered; far more than run at once
BREAKS: frozenset[Kind] = frozenset({"lost", "stalled", "reconnected", "resized"})


def check_outputs(request: InferRequest, labels: tuple[str, ...] | None = None) -> None:
    """Refuse outputs that can't be opened, before minutes are spent on an engine for them; errors as ``ChosenSinks``.

    Given the model's labels, the condition alone is checked. Where they are None, since not known yet, everything else
    is, and the folder for snapshots is created.
    """
    if request.when is not None:
        parse_condition(request.when, labels)
    if labels is not None:
        return
    if request.save is not None:
        check_writable("--save", request.save, ".mp4")
    if request.snapshots is not None:
        prepare_folder(request.snapshots)
    if request.window:
        require_display(HEADLESS_ADVICE)


class ChosenSinks:
    """Opens and holds the sinks of one run, which the pipeline closes; a sink reports a full disk to ``events``.

    Raises:
        UsageError: a folder is not there, the model lacks a label, or there is no display for ``--window``.
    """

    def __init__(
        self, request: InferRequest, labels: tuple[str, ...], captures: Sequence[Capture], events: Events
    ) -> None:
        live = [capture.name for capture in captures if capture.live]
        self._files: dict[str, Recorder | Snapshots] = {}
        self._progress: FileProgress | None = None
        # what only checks comes before what opens a window
        if request.save is not None:
            from .encoders import find_h264_encoder  # noqa: PLC0415  # most runs record nothing and start sooner
            from .recorder import Recorder  # noqa: PLC0415

            recorder = Recorder(
                request.save, request.fps or FILE_FPS, events=events, live=live, say=say, h264=find_h264_encoder()
            )
            self._files["the recording is"] = recorder
        if request.snapshots is not None and request.when is not None:
            condition = parse_condition(request.when, labels)
            self._files["the snapshots are"] = Snapshots(request.snapshots, condition, events=events)
        has_window = request.live and not display_problem() if request.window is None else request.window
        window = [Window(labels, request.top_k, live=live)] if has_window else []
        self.sinks: list[Sink] = [*self._open_lines(request, labels, captures), *self._files.values(), *window]
        if request.smooth is not None:
            self.sinks = [Smoothing(request.smooth, self.sinks, live=live)]

    def _open_lines(self, request: InferRequest, labels: tuple[str, ...], captures: Sequence[Capture]) -> list[Sink]:
        results: Sink = ResultTable(request.top_k, labels, live=request.live)
        if request.as_json:
            results = JsonLines(request.top_k, live=request.live, newest=request.every_frame is False)
        if request.live:
            return [results, StatusLine(live=[capture.name for capture in captures if capture.live])]
        totals = [getattr(capture, "total", None) for capture in captures]
        known = [total for total in totals if total is not None]
        self._progress = FileProgress(sum(known) if len(known) == len(totals) else None)
        return [results, self._progress]

    def summary(self) -> int:
        """Say on stderr how a run of files went; return 1 where one could not be read or an output written, else 0."""
        if self._progress is None:
            return 0
        readable = self._progress.summary()
        incomplete = [name for name, sink in self._files.items() if sink.stopped]
        for name in incomplete:
            say(f"{name} incomplete, for the reason named above", style="bold yellow")
        return 1 if incomplete or not readable else 0


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
        time = frame.captured if frame.source in self._live else frame.index / SMOOTHED_FPS
        probabilities = self._average(frame.source, time, prediction.probabilities)
        return replace(result, prediction=replace(prediction, probabilities=probabilities), smoothed_s=self._seconds)

    def _average(self, source: str, time: float, new: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        before, average = self._averages.pop(source, (math.inf, new))
        if time > before:  # a source whose time goes back is another stream
            weight = math.exp((before - time) / self._seconds)
            new = (weight * average + (1 - weight) * new).astype(np.float32)
        self._averages[source] = time, new
        while len(self._averages) > MAX_SOURCES:
            self._averages.popitem(last=False)
        return new
