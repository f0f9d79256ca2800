"""Opens the sinks that a request asks for, in one list."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from .. import console
from ..console import say
from ..pipeline.infer_request import InferRequest
from ..sources.events import Events
from .display import default_headless, require_display
from .jsonlines import LiveJson
from .recorder import Recorder, check_recording
from .result import LiveSink
from .rows import Rows
from .sink import JsonLines, Sink, Table
from .smoothing import Smoothing
from .snapshots import Snapshots, parse_condition, prepare_folder
from .statusline import StatusLine
from .table import LiveTable
from .window import WITHOUT, Window

if TYPE_CHECKING:
    from ..sources import Capture

__all__ = ["Outputs", "check_outputs"]

FILE_FPS = 25.0  # frames a second of a recording, where neither the video file nor --fps says how many


def check_outputs(request: InferRequest, labels: tuple[str, ...] | None = None) -> None:
    """Refuse outputs that can't be opened, before minutes are spent on an engine for them.

    Args:
        request: the outputs; where ``labels`` is None, the folder for snapshots is created.
        labels: all labels of the model, to check the condition alone; None: not known yet, everything else is checked.

    Raises:
        UsageError: see ``Outputs``.
    """
    if request.when is not None:
        parse_condition(request.when, labels)
    if labels is not None:
        return
    if request.save is not None:
        check_recording(request.save)
    if request.snapshots is not None:
        prepare_folder(request.snapshots)
    if request.window:
        require_display(WITHOUT)


class Outputs:
    """Opens and holds the sinks of one run.

    Args:
        request: which sinks to open.
        labels: all labels of the model.
        captures: the sources.
        events: where a sink reports that the disk is full.
        opened: gets the ``close`` of each sink, to call if a later one can't be opened.

    Attributes:
        sinks: the sinks for the pipeline, which closes them.

    Raises:
        UsageError: a folder is not there, the model lacks a label, or there is no display for ``--window``.
    """

    def __init__(
        self,
        request: InferRequest,
        labels: tuple[str, ...],
        captures: Sequence[Capture],
        events: Events,
        opened: ExitStack,
    ) -> None:
        self._request = request
        self._labels = labels
        self._live = [capture.name for capture in captures if capture.live]
        self._rows: Rows | None = None
        self._kept_files: dict[str, Recorder | Snapshots] = {}
        self._opened = opened
        # what only checks comes before what opens a window, and the lines on the terminal come last
        kept = [*self._files(events), *self._window()]
        sinks = [*self._results(captures), *kept]
        self.sinks: list[LiveSink] = sinks
        if request.smooth is not None:
            self.sinks = [Smoothing(request.smooth, sinks, live=self._live)]

    def summary(self) -> int:
        """Say on stderr how a run of files went; return 1 where one could not be read or an output written, else 0."""
        if self._rows is None:
            return 0
        self._rows.summary()
        missing = [name for name, sink in self._kept_files.items() if sink.stopped]
        for name in missing:
            say(f"{name} incomplete, for the reason named above", style="bold yellow")
        return 1 if self._rows.unreadable or missing else 0

    def _files(self, events: Events) -> list[LiveSink]:
        request = self._request
        if request.save is not None:
            fps = request.fps or FILE_FPS
            recorder = Recorder(request.save, fps, events=events, live=self._live, say=say)
            self._kept_files["the recording is"] = recorder
        if request.snapshots is not None and request.when is not None:
            condition = parse_condition(request.when, self._labels)
            self._kept_files["the snapshots are"] = Snapshots(request.snapshots, condition, events=events)
        return [self._kept(sink) for sink in self._kept_files.values()]

    def _window(self) -> list[LiveSink]:
        request = self._request
        wanted = request.live and not default_headless() if request.window is None else request.window
        return [self._kept(Window(self._labels, request.top_k, live=self._live))] if wanted else []

    def _results(self, captures: Sequence[Capture]) -> list[LiveSink]:
        request = self._request
        if request.live:
            rows: LiveSink = LiveJson(request.top_k) if request.as_json else LiveTable(self._labels, request.top_k)
            return [rows, self._kept(StatusLine(live=self._live))]
        if request.as_json:
            sink: Sink = JsonLines(request.top_k, newest=request.every_frame is False)
        else:
            sink = Table(request.top_k, self._labels, console.stdout)
        totals = [getattr(capture, "total", None) for capture in captures]
        known = [total for total in totals if total is not None]
        self._rows = Rows(sink, sum(known) if len(known) == len(totals) else None)
        return [self._kept(self._rows)]

    def _kept(self, sink: LiveSink) -> LiveSink:
        self._opened.callback(sink.close)
        return sink
