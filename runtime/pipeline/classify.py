"""Opens what a request names (sources, bundle, outputs), and runs a pipeline from one to the other in this process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as NotInTime
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ... import runtime
from .. import console
from ..background import start_in_background
from ..bundle import Bundle, locate
from ..bundle_store import BundleStore
from ..console import say, waiting
from ..digits import SIDE, reads_digits
from ..engines.engine_options import EngineOptions
from ..engines.progress import Reporter, make_reporter
from ..errors import HybridEdgeError, UsageError
from ..infer_request import InferRequest
from ..ink import is_dark_on_light
from ..outputs.answering import Answering
from ..outputs.choice import ChosenSinks, check_outputs, live_names
from ..outputs.sink import Result, Sink, Status
from ..service.heartbeat import Heartbeat
from ..service.signals import StopSignals
from ..service.supervisor import RESTART
from ..sources.blocking import BLOCKING_CALLS
from ..sources.capture import FileCapture, open_captures
from ..sources.events import Events
from ..sources.media_files import describe_left_out
from ..sources.names import CaptureOptions
from ..sources.regions import parse_regions, regions_of
from .dataflow import Pipeline, PipelineOptions
from .follow import Follower

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..sources.capture import Capture
    from ..web.live_page import LivePage
    from .models import Models

FOLLOW_TIMEOUT = 0.5  # seconds that the thread which opens other bundles may take to end
LOOKS = 100  # frames, after which no hint is looked for: what is shown does not change, and large frames cost time


def classify(request: InferRequest, signals: StopSignals, heartbeat: Heartbeat | None) -> int:
    """Classify until the sources end, a signal comes or the window is closed; return the exit code.

    It is 1 where a file could not be read or an output not written, ``RESTART`` where another process is to go on with
    another bundle, else 0. ``signals``, already set up, are told when
    a signal is no longer to interrupt but to drain; ``heartbeat`` is None where no supervisor watches.

    Raises:
        HybridEdgeError: the request can't be met: sources, bundle, engine, outputs, or three failed batches in a row.
        KeyboardInterrupt: SIGINT came.
        SystemExit: another signal came.
    """
    events = Events()
    for _ in range(heartbeat.replaced if heartbeat else 0):
        events.report("engine-hung")
    captures = _open_sources(request, events)
    plan = _plan(request, captures, goes_on=events.count("engine-hung") > 0)
    check_outputs(request)
    pages = _open_page(request, captures)
    store = _followed(request)
    classifier = _open_classifier(request, heartbeat, store)
    opened = ExitStack()
    opened.callback(classifier.close)
    with closed_in_time(opened.close, None if heartbeat else request.hang_timeout) as unfinished:
        from ..classifier import announce  # noqa: PLC0415  # loaded by now, and not before the spinner turns

        announce(classifier, again=heartbeat is not None and heartbeat.replaced > 0)
        if request.live or heartbeat is not None:
            _warm_up(classifier, request.batch_size)
        outputs = ChosenSinks(request, classifier, captures, events)
        latest_status = LatestStatus()
        hints = [PaperHint()] if reads_digits(classifier.spec) and not request.digit else []
        answering = Answering(
            smooth=request.smooth,
            min_probability=request.min_probability,
            stable=request.stable,
            live=live_names(request, captures),
        )
        sinks = [*outputs.sinks, *hints, latest_status, *pages]
        follower: Follower | None = None
        pipeline = Pipeline(classifier, captures, sinks, plan, events, answering)
        try:
            for page in pages:
                page.start(classifier, pipeline.ask)
            if heartbeat is not None:
                heartbeat.running(pipeline.busy, latest_status.counts)
            with signals.draining(lambda: pipeline.closing) as stop:
                follower = _follow(request, store, pipeline.models, events, opened, stop if heartbeat else None)
                pipeline.run(stop)
        finally:
            if follower is not None and not follower.stop(FOLLOW_TIMEOUT):
                unfinished.append("opening another bundle")
            unfinished.extend(pipeline.unfinished)
            if heartbeat is not None:
                heartbeat.stopping()  # after an error too: the time that closing takes is limited then
        code = outputs.summary()
    signals.leave()
    return RESTART if follower is not None and follower.begins_anew else code


@contextmanager
def closed_in_time(close: Callable[[], object], seconds: float | None) -> Iterator[list[str]]:
    """Close classifiers at the end; where that can't be done, the command leaves without tearing anything down.

    Yields a list for the names of threads that hang in a decoder or an engine, which then is not closed under them.
    Closing may take ``seconds``; None: as long as it needs, because a supervisor watches.
    """
    unfinished: list[str] = []
    try:
        yield unfinished
    finally:
        # an engine waits for what was begun on its device before it gives the memory back, and some never answer
        closing = None if unfinished else start_in_background(close, "closing")
        try:
            if closing is not None:
                closing.result(seconds)
        except NotInTime:
            unfinished.append("closing the engine")
        finally:
            # a stream's reader, left in a C++ call, would abort the process when it finds the interpreter gone
            if closing is None or not closing.done() or BLOCKING_CALLS.busy():
                console.leave_at_once()
        if unfinished:
            say(f"{', '.join(unfinished)} did not end in time and was left behind", style="yellow")


class LatestStatus(Sink):
    """This sink remembers the last status, whose counts a heartbeat carries to ``systemctl status``."""

    def __init__(self) -> None:
        self._last: Status | None = None

    def counts(self) -> Mapping[str, float]:
        """Return the results of all sources so far and those a second, by name; any thread may call it."""
        if self._last is None:
            return {}
        sources = self._last.sources
        totals = {name: sum(getattr(item, name) for item in sources) for name in ("classified", "dropped")}
        reconnects = {item.source: item.reconnects for item in sources}  # the same for all regions of a source
        return {"results/s": round(self._last.fps, 1), **totals, "reconnects": sum(reconnects.values())}

    def status(self, status: Status) -> None:
        """Remember this status in place of the one before."""
        self._last = status


class PaperHint(Sink):
    """This sink says once that the first frames look like ink on paper, of which a digits model has never seen any."""

    def __init__(self) -> None:
        self._left = LOOKS

    def write(self, result: Result) -> None:
        """Look at a frame, unless enough were looked at."""
        if self._left and result.prediction is not None and result.frame.image is not None:
            self._left -= 1
            if is_dark_on_light(result.frame.image):
                self._left = 0
                say(f"{result.frame.name}: looks like dark ink on paper; this model reads that with --digit")


def _open_sources(request: InferRequest, events: Events) -> list[Capture]:
    options = CaptureOptions(request.width, request.height, request.fps, request.every_frame)
    captures = open_captures(request.sources, options, events)
    left_out = sum((capture.left_out for capture in captures if isinstance(capture, FileCapture)), Counter[str]())
    for note in filter(None, [*_reading_notes(request), describe_left_out(left_out)]):
        say(note)
    return captures


def _reading_notes(request: InferRequest) -> Iterator[str | None]:
    if request.live:
        from ..sources.camera import reading_note  # noqa: PLC0415  # pictures need nothing of what cameras do

        yield from map(reading_note, request.sources)


def _plan(request: InferRequest, captures: Sequence[Capture], *, goes_on: bool) -> PipelineOptions:
    return PipelineOptions(
        request.batch_size,
        request.max_wait,
        None if request.every_frame is None else not request.every_frame,
        request.digit,
        regions_of(captures, parse_regions(request.regions)),
        regions_must_fit=not goes_on,  # for one whose engine hung, which may have met another resolution meanwhile
    )


def _followed(request: InferRequest) -> BundleStore | None:
    """Return what a live run follows: the bundle's link and versions; None for files, and for a tar."""
    path = locate(request.bundle) if request.live else Path()
    return BundleStore(path) if request.live and path.is_dir() else None


def _follow(
    request: InferRequest,
    store: BundleStore | None,
    models: Models,
    events: Events,
    opened: ExitStack,
    stop: threading.Event | None,
) -> Follower | None:
    if store is None:
        return None
    follower = Follower(
        store,
        models,
        events,
        open_bundle=lambda folder: _open_bundle(request, folder),
        load=lambda bundle: _load(request, bundle, Reporter()),
        begin_anew=stop.set if stop else None,
        closing=opened.callback,
    )
    follower.start()
    return follower


def _open_classifier(request: InferRequest, heartbeat: Heartbeat | None, store: BundleStore | None) -> Classifier:
    with waiting("opening the bundle") as stop:
        reporter = make_reporter(stop, heartbeat.progress if heartbeat else lambda: None)
        if store is not None and store.trial is not None:
            try:
                return _load(request, _open_bundle(request, store.wanted()), reporter)
            except HybridEdgeError as error:  # the update sees that, and the link leads to one that is proven
                say(f"the bundle on trial is not taken: {error}", style="yellow")
        return _load(request, _open_bundle(request, request.bundle), reporter)


def _open_bundle(request: InferRequest, path: Path | None) -> Bundle:
    bundle = Bundle.open(path, request.trust)
    check_outputs(request, bundle.labels)
    if request.digit and not reads_digits(bundle.spec):
        raise UsageError(
            f"--digit: expected a model of the labels 0 to 9 in {SIDE}x{SIDE} pixels, found {len(bundle.labels)} "
            f"labels ({', '.join(bundle.labels[:3])} …) in {bundle.spec.image_size}x{bundle.spec.image_size}; "
            "leave --digit out, or name a digits model with --bundle"
        )
    return bundle


def _load(request: InferRequest, bundle: Bundle, reporter: Reporter) -> Classifier:
    return runtime.Classifier.load(
        bundle,
        backend=request.backend,
        precision=request.precision,
        batch_size=request.batch_size,
        threads=request.threads,
        check=request.checked,
        calibrated=request.calibrated,
        engine=EngineOptions.from_flags(request.profile, request.workspace, build=request.build),
        reporter=reporter,
    )


def _open_page(request: InferRequest, captures: Sequence[Capture]) -> list[LivePage]:
    """Open the live page, where the request asks for one: its address is taken before minutes go into an engine."""
    if request.web is None:
        return []
    try:
        from ..web.live_page import LivePage  # noqa: PLC0415  # most runs need neither starlette nor uvicorn
    except ImportError as error:
        raise UsageError(
            f"--web: expected starlette and uvicorn, found not both that can be imported ({error}): "
            "pip install 'hybrid-edge[web]'"
        ) from error
    return [LivePage(request, captures)]


def _warm_up(classifier: Classifier, batch: int) -> None:
    """Run a batch of zeros: engines load and choose kernels at a size's first one, which must not look like a hang."""
    tensors = {name: np.zeros((batch, *shape), np.float32) for name, shape in classifier.spec.inputs.items()}
    classifier.selection.backend.run(tensors)
