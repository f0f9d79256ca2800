"""Gathers what TensorRT says while it works, so that a failure is shown in its own words."""

from __future__ import annotations

from typing import Any

from ..errors import BackendUnavailableError
from .library import Kind, Library

__all__ = ["Messages", "connect"]

SHOWN = 12  # messages that an error shows: the first is the cause, the rest follow from it
KEPT = 200  # different messages that are kept; an engine that runs for a year says the same again and again
ERRORS = ("ERROR", "INTERNAL_ERROR")
# a warning about each builder and runtime after a process's first, although each of them has its own logger
FOREIGN_LOGGER = "The logger passed into create"

_first_loggers: dict[Kind, Any] = {}


class Messages:
    """The messages of one builder or runtime, by severity, each once; verbose and informative ones are dropped."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Keep a message; TensorRT calls this from any thread."""
        kept = self.errors if severity in ERRORS else self.warnings if severity == "WARNING" else None
        if kept is None or len(kept) >= KEPT or FOREIGN_LOGGER in text:
            return
        line = _line(text)
        if line not in kept:
            kept.append(line)

    def clear(self) -> None:
        """Forget the messages so far: those that come next have other reasons."""
        self.errors.clear()
        self.warnings.clear()

    @property
    def summary(self) -> str:
        """The first errors in one line, or the first warnings where there are no errors."""
        found = self.errors or self.warnings
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        return "; ".join([*found[:SHOWN], *more]) or "it gave no reason"


def connect(library: Library, interface: Any, messages: Messages) -> tuple[Any, Any]:
    """Make a Builder or a Runtime that writes into ``messages``, and return it with its ILogger.

    Args:
        library: the TensorRT to use.
        interface: TensorRT's class ``Builder`` or ``Runtime``.
        messages: where this object's messages are gathered, and no other's.

    Raises:
        BackendUnavailableError: TensorRT made none, most often because the driver is too old for its CUDA.
    """
    logger = _make_logger(library, messages)
    # TensorRT takes the first logger that it is given as its global one, for as long as the process lasts
    _first_loggers.setdefault(library.kind, logger)
    try:
        return interface(logger), logger
    except (TypeError, RuntimeError) as error:  # what pybind11 raises for a constructor that gave nothing
        reason = messages.summary if messages.errors or messages.warnings else _line(str(error))
        raise BackendUnavailableError(
            f"{library.label} does not start here: {reason}; where that is CUDA's initialization, the NVIDIA driver is "
            "older than this TensorRT's CUDA (nvidia-smi shows both versions): update it, or install TensorRT for its "
            "CUDA version"
        ) from error


def _make_logger(library: Library, messages: Messages) -> Any:
    """Make an ILogger that writes into ``messages``; its class is made here, as its base has to be imported first."""
    trt = library.module
    chatter = {trt.ILogger.INFO, trt.ILogger.VERBOSE}

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants this call, not super()'s

        def log(self, severity: Any, text: str) -> None:
            if severity not in chatter:  # a large build has a million of those, and each holds up every thread
                messages.add(severity.name, text)

    return Logger()


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
