"""Runs a request: as the supervisor, as its worker, or in one process without either."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping

import typer

from .. import console
from ..console import say
from ..errors import BackendError
from ..pipeline.request import Request
from ..sources.events import Event
from .heartbeat import Heartbeat
from .signals import StopSignals
from .supervisor import Supervisor
from .watch import Limits
from .worker import die_with_parent, own_command

__all__ = ["INTERRUPTED", "run"]

INTERRUPTED = 130
MODULE = "hybrid_edge.runtime.commands.infer"


def run(request: Request) -> int:
    """Do what a call of the command asks for.

    Returns:
        the exit code: 0, or 1 where a file could not be read or an output not written.

    Raises:
        HybridEdgeError: see ``classify``.
        KeyboardInterrupt: SIGINT came, and what was in the model was finished.
        SystemExit: SIGTERM came; or this process supervised, and the worker, which has said everything, is gone.
    """
    heartbeat = Heartbeat.from_environment()
    if heartbeat is None and request.supervised:
        raise SystemExit(_supervise(request))
    if heartbeat is not None:
        die_with_parent()
    with StopSignals(stop_codes(request)) as signals:
        from ..pipeline.assembly import classify  # noqa: PLC0415  # a supervisor loads neither OpenCV nor an engine

        return classify(request, signals, heartbeat)


def stop_codes(request: Request) -> Mapping[int, int]:
    """Return the exit code for each signal: SIGTERM is the ordinary end of a camera's run, and not of a folder's."""
    ordinary = 0 if request.live else INTERRUPTED
    return {signal.SIGINT: INTERRUPTED, signal.SIGTERM: ordinary, signal.SIGHUP: ordinary}


def _supervise(request: Request) -> int:
    supervisor = Supervisor(
        own_command(MODULE, sys.argv[1:]),
        codes=stop_codes(request),
        say=_tell,
        report=_print_event if request.as_json else lambda _: None,
        limits=Limits.of(request.hang_timeout),
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
        console.status.show_cursor()  # a worker that was killed during its status line has left it hidden


def _tell(text: str) -> None:
    if console.status.is_terminal:
        console.status.line()  # below the status line of a worker that was killed
    say(text, style="yellow")


def _print_event(event: Event) -> None:
    """Write an event as the JSON line that the worker, which is gone, would have written."""
    line = {"event": event.kind, "source": event.source, "detail": event.detail, "time": event.timestamp}
    typer.echo(json.dumps({**line, "seconds": event.seconds}))
