"""What TensorRT says while it works: gathered, so that a failure is shown in its own words."""

from __future__ import annotations

from typing import Any

from .library import Library

__all__ = ["Messages", "make_logger"]

SHOWN = 12  # messages in an error: the first is the cause, the rest follow from it
KEPT = 200  # different ones; an engine that runs for a year says the same again and again
ERRORS = ("ERROR", "INTERNAL_ERROR")


class Messages:
    """The messages of one builder or runtime, by severity, each once; verbose and informative ones are dropped."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Keep a message; called by TensorRT, from any thread."""
        kept = self.errors if severity in ERRORS else self.warnings if severity == "WARNING" else None
        line = _line(text)
        if kept is not None and len(kept) < KEPT and line not in kept:
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


def make_logger(library: Library, messages: Messages) -> Any:
    """An ILogger that writes into ``messages``. The class is made here: its base is known only once imported."""
    trt = library.module

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants its own, not super()'s

        def log(self, severity: Any, text: str) -> None:
            messages.add(severity.name, text)

    return Logger()


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
