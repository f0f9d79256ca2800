"""Opens the outputs that a request asks for, in one list."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..console import say
from ..frame import region_name
from ..infer_request import InferRequest
from ..listening import listen, shown_address
from ..sources.events import Event, Events
from ..sources.regions import parse_regions, regions_of
from ..storage import check_writable
from .display import display_problem, require_display
from .result_lines import FileProgress, JsonLines, ResultTable
from .sink import UNKNOWN, Sink
from .snapshots import Snapshots, parse_condition, prepare_folder
from .statusline import StatusLine
from .window import HEADLESS_ADVICE, Window

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..sources.capture import Capture
    from .recorder import Recorder

FILE_FPS = 25.0  # frames a second of a recording, where neither the video file nor --fps says how many


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
    if request.mqtt is not None:
        from .mqtt import parse_broker  # noqa: PLC0415  # of the extra mqtt

        parse_broker(request.mqtt, request.mqtt_password_file)
    if request.metrics is not None:
        from . import metrics  # noqa: F401, PLC0415  # of the extra metrics

        listen("--metrics", request.metrics).close()
    if request.window:
        require_display(HEADLESS_ADVICE)


def live_names(request: InferRequest, captures: Sequence[Capture]) -> list[str]:
    """Return the names of cameras, streams and their regions, as their frames carry them."""
    regions = regions_of(captures, parse_regions(request.regions))
    parts = [(capture.name, [item.name for item in regions[capture.name]]) for capture in captures if capture.live]
    return [region_name(name, region) for name, own in parts for region in own or [""]]


class ChosenSinks:
    """Opens and holds the sinks of one run, which the pipeline closes; a sink reports a full disk to ``events``.

    Raises:
        UsageError: a folder is not there, the model lacks a label, or there is no display for ``--window``.
    """

    def __init__(
        self, request: InferRequest, classifier: Classifier, captures: Sequence[Capture], events: Events
    ) -> None:
        labels = classifier.labels
        live = live_names(request, captures)
        shown = (*labels, UNKNOWN) if request.judges_answers else labels
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
        messages = [open_mqtt(request.mqtt, request, captures, events)] if request.mqtt is not None else []
        if request.metrics is not None:
            messages.append(open_metrics(request.metrics, classifier, captures))
        has_window = request.live and not display_problem() if request.window is None else request.window
        window = [Window(shown, request.top_k, live=live)] if has_window else []
        lines = self._open_lines(request, shown, captures, live)
        self.sinks: list[Sink] = [*lines, *self._files.values(), *messages, *window]

    def _open_lines(
        self, request: InferRequest, labels: tuple[str, ...], captures: Sequence[Capture], live: Sequence[str]
    ) -> list[Sink]:
        results: Sink = ResultTable(request.top_k, labels, live=request.live)
        if request.as_json:
            newest, answers = request.every_frame is False, request.judges_answers
            results = JsonLines(request.top_k, live=request.live, newest=newest, answers=answers)
        if request.live:
            return [results, StatusLine(live=live)]
        totals = [getattr(capture, "total", None) for capture in captures]
        known = [total for total in totals if total is not None]
        rows = max(1, len(request.regions))  # all files are one source, of which every region is
        self._progress = FileProgress(rows * sum(known) if len(known) == len(totals) else None)
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


def open_metrics(address: str, classifier: Classifier, captures: Sequence[Capture]) -> Sink:
    """Serve the numbers of a run to Prometheus at an address."""
    from .metrics import Metrics, engine_labels  # noqa: PLC0415  # of the extra metrics

    listener = listen("--metrics", address)
    say(f"metrics: http://{shown_address(listener)}/metrics")
    return Metrics(listener, [capture.name for capture in captures if capture.live], engine_labels(classifier))


def open_mqtt(address: str, request: InferRequest, captures: Sequence[Capture], events: Events) -> Sink:
    """Start what publishes to the broker at an address; the worker before this one could not tell of its own end."""
    from .mqtt import Mqtt, parse_broker  # noqa: PLC0415  # of the extra mqtt

    live = [capture.name for capture in captures if capture.live]
    sink = Mqtt(parse_broker(address, request.mqtt_password_file), live, request.top_k)
    if replaced := events.count("engine-hung"):
        sink.event(
            Event("engine-hung", "", f"the process that classifies was replaced, {replaced} in all", time.time())
        )
    return sink
