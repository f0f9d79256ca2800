"""What TensorRT says while it works: gathered, so that a failure is shown in its own words."""

from __future__ import annotations

from typing import Any

from ..errors import BackendUnavailableError
from .library import Kind, Library

__all__ = ["Messages", "connect"]

SHOWN = 12  # messages in an error: the first is the cause, the rest follow from it
KEPT = 200  # different ones; an engine that runs for a year says the same again and again
ERRORS = ("ERROR", "INTERNAL_ERROR")
# said of every builder and runtime but a process's first, each of which has a logger of its own all the same
FOREIGN_LOGGER = "The logger passed into create"

_first_loggers: dict[Kind, Any] = {}


class Messages:
    """The messages of one builder or runtime, by severity, each once; verbose and informative ones are dropped."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Keep a message; called by TensorRT, from any thread."""
        kept = self.errors if severity in ERRORS else self.warnings if severity == "WARNING" else None
        if kept is None or len(kept) >= KEPT or FOREIGN_LOGGER in text:
            return
        line = _line(text)
        if line not in kept:
            kept.append(line)

    def clear(self) -> None:
        """Forget them: what comes next has other reasons."""
        self.errors.clear()
        self.warnings.clear()

    @property
    def summary(self) -> str:
        """The first errors in one line; the warnings where there are none."""
        found = self.errors or self.warnings
        more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        return "; ".join([*found[:SHOWN], *more]) or "it gave no reason"


def connect(library: Library, interface: Any, messages: Messages) -> tuple[Any, Any]:
    """A Builder or a Runtime that writes into ``messages``, and its ILogger.

    Args:
        library: which TensorRT.
        interface: its class ``Builder`` or ``Runtime``.
        messages: which are this object's own.

    Raises:
        BackendUnavailableError: TensorRT gave none: most often the driver is too old for its CUDA.
    """
    logger = _make_logger(library, messages)
    # TensorRT's own global logger is the first that it was given, for as long as the process lasts
    _first_loggers.setdefault(library.kind, logger)
    try:
        return interface(logger), logger
    except (TypeError, RuntimeError) as error:  # pybind11's for a constructor that gave nothing
        reason = messages.summary if messages.errors or messages.warnings else _line(str(error))
        raise BackendUnavailableError(
            f"{library.label} does not start here: {reason}; where that is CUDA's initialization, the NVIDIA driver is "
            "older than this TensorRT's CUDA (nvidia-smi shows both versions): update it, or install TensorRT for its "
            "CUDA version"
        ) from error


def _make_logger(library: Library, messages: Messages) -> Any:
    """An ILogger that writes into ``messages``. The class is made here: its base is known only once imported."""
    trt = library.module
    chatter = {trt.ILogger.INFO, trt.ILogger.VERBOSE}

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants its own, not super()'s

        def log(self, severity: Any, text: str) -> None:
            if severity not in chatter:  # a million in a large build: each costs every thread of ours what is done here
                messages.add(severity.name, text)

    return Logger()


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
