"""Runs a request: as the supervisor, as its worker, or in one process without either."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping

from .. import console
from ..console import say
from ..ending import takes
from ..errors import BackendError
from ..infer_request import InferRequest
from ..service.heartbeat import Heartbeat
from ..service.signals import StopSignals
from ..service.supervisor import Supervisor
from ..sources.events import Event


def run(request: InferRequest) -> int:
    """Do what a call of the command asks for; return the exit code, 1 where ``classify`` says so, else 0.

    Raises:
        HybridEdgeError: see ``classify``.
        KeyboardInterrupt: SIGINT came, and what was in the model was finished.
        SystemExit: SIGTERM came; or this process supervised, and the worker, which has said everything, is gone.
    """
    heartbeat = Heartbeat.from_environment(request.hang_timeout)
    if heartbeat is None and request.supervised:
        raise SystemExit(_supervise(request))
    signals = StopSignals(_stop_codes(request))
    from .classify import classify  # noqa: PLC0415  # a supervisor loads neither OpenCV nor an engine

    return classify(request, signals, heartbeat)


def _stop_codes(request: InferRequest) -> Mapping[int, int]:
    """Return the exit code for each signal: SIGTERM is the ordinary end of a camera's run, and not of a folder's."""
    ordinary = 0 if request.live else console.INTERRUPTED
    return {signal.SIGINT: console.INTERRUPTED, signal.SIGTERM: ordinary, signal.SIGHUP: ordinary}


def _supervise(request: InferRequest) -> int:
    supervisor = Supervisor(
        [sys.executable, *sys.orig_argv[1:]],
        codes=_stop_codes(request),
        say=_say_below_status,
        report=_print_event if request.as_json else lambda _: None,
        hang_timeout=request.hang_timeout,
        replaces=request.live,
    )
    try:
        return supervisor.run()
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.errno in console.FULL:
            raise  # our events' reader is gone, or the disk is full: one place tells that for all commands
        raise BackendError(
            f"expected to start the process that classifies, found: {(error.strerror or str(error)).lower()}; "
            "end what else takes this machine's memory or processes, or go without a second process: --no-supervise"
        ) from error
    finally:
        if takes(sys.stderr):
            console.status.show_cursor()  # a worker that was killed during its status line has left it hidden


def _say_below_status(text: str) -> None:
    if console.status.is_terminal:
        console.status.line()  # below the status line of a worker that was killed
    say(text, style="yellow")


def _print_event(event: Event) -> None:
    """Write an event as the JSON line that the worker, which is gone, would have written."""
    line = {"event": event.kind, "source": event.source, "detail": event.detail, "time": event.timestamp}
    console.print_json({**line, "seconds": event.seconds})
