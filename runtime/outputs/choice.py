"""Opens the outputs that a request asks for, in one list."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from ..console import say
from ..pipeline.request import Request
from ..sources.events import Events
from .display import default_headless, require_display
from .recorder import Recorder, check_recording
from .result_lines import FileProgress, JsonLines, ResultTable
from .sink import Sink
from .smoothing import Smoothing
from .snapshots import Snapshots, parse_condition, prepare_folder
from .statusline import StatusLine
from .window import WITHOUT, Window

if TYPE_CHECKING:
    from ..sources import Capture

__all__ = ["ChosenSinks", "check_outputs"]

FILE_FPS = 25.0  # frames a second of a recording, where neither the video file nor --fps says how many

Opened = TypeVar("Opened", bound=Sink)


def check_outputs(request: Request, labels: tuple[str, ...] | None = None) -> None:
    """Refuse outputs that can't be opened, before minutes are spent on an engine for them.

    Args:
        request: the outputs; where ``labels`` is None, the folder for snapshots is created.
        labels: all labels of the model, to check the condition alone; None: not known yet, everything else is checked.

    Raises:
        UsageError: see ``ChosenSinks``.
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


class ChosenSinks:
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
        request: Request,
        labels: tuple[str, ...],
        captures: Sequence[Capture],
        events: Events,
        opened: ExitStack,
    ) -> None:
        self._request = request
        self._live = [capture.name for capture in captures if capture.live]
        self._progress: FileProgress | None = None
        self._files: dict[str, Recorder | Snapshots] = {}
        self._opened = opened
        # what only checks comes before what opens a window, and the lines on the terminal come last
        self._open_files(labels, events)
        window = self._window(labels)
        sinks = [*self._lines(labels, captures), *self._files.values(), *window]
        self.sinks: list[Sink] = sinks
        if request.smooth is not None:
            self.sinks = [Smoothing(request.smooth, sinks, live=self._live)]

    def summary(self) -> int:
        """Say on stderr how a run of files went; return 1 where one could not be read or an output written, else 0."""
        if self._progress is None:
            return 0
        self._progress.summary()
        missing = [name for name, sink in self._files.items() if sink.stopped]
        for name in missing:
            say(f"{name} incomplete, for the reason named above", style="bold yellow")
        return 1 if self._progress.unreadable or missing else 0

    def _open_files(self, labels: tuple[str, ...], events: Events) -> None:
        request = self._request
        if request.save is not None:
            fps = request.fps or FILE_FPS
            recorder = Recorder(request.save, fps, events=events, live=self._live, say=say)
            self._files["the recording is"] = self._closing(recorder)
        if request.snapshots is not None and request.when is not None:
            condition = parse_condition(request.when, labels)
            self._files["the snapshots are"] = Snapshots(request.snapshots, condition, events=events)

    def _window(self, labels: tuple[str, ...]) -> list[Window]:
        request = self._request
        wanted = request.live and not default_headless() if request.window is None else request.window
        return [self._closing(Window(labels, request.top_k, live=self._live))] if wanted else []

    def _lines(self, labels: tuple[str, ...], captures: Sequence[Capture]) -> list[Sink]:
        request = self._request
        lines: Sink = ResultTable(request.top_k, labels, live=request.live)
        if request.as_json:
            lines = JsonLines(request.top_k, live=request.live, newest=request.every_frame is False)
        if request.live:
            return [lines, self._closing(StatusLine(live=self._live))]
        totals = [getattr(capture, "total", None) for capture in captures]
        known = [total for total in totals if total is not None]
        self._progress = FileProgress(sum(known) if len(known) == len(totals) else None)
        return [lines, self._closing(self._progress)]

    def _closing(self, sink: Opened) -> Opened:
        self._opened.callback(sink.close)
        return sink
