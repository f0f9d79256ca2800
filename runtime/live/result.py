"""What the live pipeline tells its sinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..frame import Frame
from .events import Event, Kind

if TYPE_CHECKING:
    from ..classifier import Prediction

__all__ = ["LiveSink", "Result", "SourceStatus", "Status"]


@dataclass(frozen=True, eq=False)
class Result:
    """One frame that went through the model, or that could not be read.

    Attributes:
        frame: what was captured; its ``image`` is the very one that was classified.
        prediction: None where the frame has an ``error``.
        age_ms: from capture to the moment this result was made, milliseconds.
        dropped: frames of this source given up so far, in favour of newer ones or for want of memory or an engine.
        reconnects: how often this source came back so far.
        batch: how many frames went through the model together with this one.
    """

    frame: Frame
    prediction: Prediction | None
    age_ms: float
    dropped: int = 0
    reconnects: int = 0
    batch: int = 1


@dataclass(frozen=True)
class SourceStatus:
    """One source's counts so far: ``captured == classified + dropped + unreadable + waiting``."""

    name: str
    captured: int
    classified: int
    dropped: int
    unreadable: int
    waiting: int
    reconnects: int
    flowing: bool


@dataclass(frozen=True)
class Status:
    """The whole pipeline, every second or so.

    Attributes:
        fps: results a second over the last seconds.
        age_p50_ms: median age of the last results, milliseconds; ``age_p99_ms`` the 99th percentile.
        inference_ms: mean time of one batch in the engine, milliseconds.
        sources: each source's counts.
        faults: how many events of each kind so far.
        seconds: since the start.
    """

    fps: float
    age_p50_ms: float
    age_p99_ms: float
    inference_ms: float
    sources: tuple[SourceStatus, ...]
    faults: Mapping[Kind, int] = field(default_factory=dict)
    seconds: float = 0.0


class LiveSink(Protocol):
    """Takes results in the order in which they are made, on the thread that runs the pipeline (a window needs that)."""

    def write(self, result: Result) -> None:
        """One result."""

    def event(self, event: Event) -> None:
        """One fault, or its end."""

    def status(self, status: Status) -> None:
        """How things stand: about once a second, and once at the end."""

    def poll(self) -> bool:
        """Called at least every 50 ms; whether the user asked to stop (closed the window, pressed Q)."""

    def close(self) -> None:
        """Finish what was being written; called once, also after a failure."""
