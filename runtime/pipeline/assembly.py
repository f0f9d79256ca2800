"""Puts bundle, captures, outputs and pipeline together as a request asks for, and runs them in this process."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from ... import runtime
from ..bundle import Bundle
from ..console import say, waiting
from ..engines.engine_options import MIB, EngineOptions, parse_profile
from ..engines.progress import make_reporter
from ..outputs.choice import ChosenSinks, check_outputs
from ..service.heartbeat import Heartbeat
from ..service.signals import StopSignals
from ..service.worker import REPLACED
from ..sources import CaptureOptions, open_captures, reading_note
from ..sources.events import Events
from .lease import Lease
from .pipeline import Pipeline, PipelineOptions
from .request import Request
from .tally import Tally

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..sources import Capture

__all__ = ["classify", "engine_options"]


def classify(request: Request, signals: StopSignals, heartbeat: Heartbeat | None) -> int:
    """Classify until the sources end, a signal comes or the window is closed.

    Args:
        request: what to do.
        signals: the handlers, already set up; they are told when a signal is no longer to interrupt but to drain.
        heartbeat: tells the supervisor what goes on; None where no supervisor watches.

    Returns:
        the exit code: 1 where a file could not be read or an output not written, else 0.

    Raises:
        HybridEdgeError: the request can't be met: sources, bundle, engine, outputs, or three failed batches in a row.
        KeyboardInterrupt: SIGINT came.
        SystemExit: another signal came.
    """
    events = _events()
    captures = _captures(request, events)
    plan = _pipeline_options(request)
    check_outputs(request)
    lease = Lease(_open(request, heartbeat), None if heartbeat else request.hang_timeout)
    with lease as classifier, ExitStack() as opened:
        from ..classifier import announce  # noqa: PLC0415  # loaded by now, and not before the spinner turns

        announce(classifier)
        if request.live or heartbeat is not None:
            _warm_up(classifier, request.batch_size)
        outputs = ChosenSinks(request, classifier.labels, captures, events, opened)
        tally = Tally()
        pipeline = Pipeline(classifier, captures, [*outputs.sinks, tally], plan, events)
        opened.pop_all()  # from here on the pipeline closes the sinks
        try:
            _run(pipeline, tally, signals, heartbeat)
        finally:
            lease.leave_behind(pipeline.unfinished)
        code = outputs.summary()
    signals.leave()
    return code


def engine_options(profile: str | None, workspace: int | None, *, build: bool = True) -> EngineOptions:
    """Make the options that ``--profile MIN,OPT,MAX``, ``--workspace MIB`` and ``--no-build`` ask for, or the defaults.

    Raises:
        UsageError: the profile is not three batch sizes in ascending order, or the workspace is too small.
    """
    sizes = {} if profile is None else {"profile": parse_profile(profile)}
    return EngineOptions(**sizes, workspace=None if workspace is None else workspace * MIB, build=build)


def _captures(request: Request, events: Events) -> list[Capture]:
    options = CaptureOptions(request.width, request.height, request.fps, request.every_frame)
    captures = open_captures(request.sources, options, events)
    for note in filter(None, map(reading_note, request.sources)):
        say(note)
    return captures


def _pipeline_options(request: Request) -> PipelineOptions:
    latest = None if request.every_frame is None else not request.every_frame
    return PipelineOptions(request.batch_size, request.max_wait, latest)


def _events() -> Events:
    """Make the run's event counts, in which each worker that was given up before this one is counted already."""
    events = Events()
    for _ in range(int(os.environ.pop(REPLACED, "0"))):
        events.report("engine-hung")
    return events


def _open(request: Request, heartbeat: Heartbeat | None) -> Classifier:
    engine = engine_options(request.profile, request.workspace, build=request.build)
    with waiting("opening the bundle") as stop:
        bundle = Bundle.open(request.bundle)
        check_outputs(request, bundle.labels)
        return runtime.Classifier.load(
            bundle,
            backend=request.backend,
            precision=request.precision,
            batch_size=request.batch_size,
            threads=request.threads,
            check=request.check,
            engine=engine,
            reporter=make_reporter(stop, heartbeat.progress if heartbeat else lambda: None),
        )


def _warm_up(classifier: Classifier, batch: int) -> None:
    """Run a batch of zeros: engines load and choose kernels at a size's first one, which must not look like a hang."""
    tensors = {name: np.zeros((batch, *shape), np.float32) for name, shape in classifier.spec.inputs.items()}
    classifier.selection.backend.run(tensors)


def _run(pipeline: Pipeline, tally: Tally, signals: StopSignals, heartbeat: Heartbeat | None) -> None:
    if heartbeat is not None:
        heartbeat.running(lambda: (pipeline.activity.busy(), tally.counts()))
    try:
        with signals.draining() as stop:
            pipeline.run(stop)
    finally:
        if heartbeat is not None:
            heartbeat.stopping()  # after an error too: the supervisor then limits the time that closing takes
