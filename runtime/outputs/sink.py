"""Defines the results and statuses that the pipeline tells its outputs, and the base class of these outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..frame import Frame
from ..sources.events import Event, Kind

if TYPE_CHECKING:
    from ..classifier import Classifier, Prediction


UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """What a source shows, as far as one can act on it: what outputs show first.

    Attributes:
        label: the most probable label, or with ``--stable`` the last one that has been it for long enough; ``UNKNOWN``
            where that is none.
        probability: the label's in this result, 0 to 1; where there is none, the most probable label's.
        since: since when this source's answer has been this one, Unix seconds.
        known: whether ``label`` is the model's; False for none, also where the model has a label "unknown" of its own.
    """

    label: str
    probability: float
    since: float
    known: bool = True


@dataclass(frozen=True, eq=False)
class Result:
    """One frame that went through the model, or that could not be read.

    Attributes:
        frame: what was captured; its ``image`` is the very one that was classified.
        prediction: what the model said; None where the frame has an ``error``.
        age_ms: time from capture to the moment this result was made, milliseconds; 0 where nobody measures ages.
        dropped: frames of this source given up so far, in favour of newer ones or for want of memory or an engine.
        reconnects: how often this source's frames flowed again after a break so far.
        batch: how many frames went through the model together with this one.
        smoothed_s: over about how many seconds the prediction's probabilities are averaged; None where they are not.
        answer: what outputs show first; None exactly where ``prediction`` is None.
    """

    frame: Frame
    prediction: Prediction | None
    age_ms: float
    dropped: int = 0
    reconnects: int = 0
    batch: int = 1
    smoothed_s: float | None = None
    answer: Answer | None = None

    def ranked(self, k: int) -> list[tuple[str, float | None]]:
        """Return the answer and, below it, the most probable other labels: k in all, none for an unreadable frame.

        An answer that is unknown has no probability: None.
        """
        if self.prediction is None or self.answer is None:
            return []
        own = self.answer.label if self.answer.known else None
        others = [(label, probability) for label, probability in self.prediction.top(k) if label != own]
        return [(self.answer.label, None if own is None else self.answer.probability), *others][: max(k, 0)]


@dataclass(frozen=True)
class SourceStatus:
    """This class holds the counts so far of one source, or of one region of it.

    ``captured == classified + dropped + unreadable + waiting``. ``name`` is the source's, with its region where it has
    one (as ``Frame.name``); ``source`` and ``region`` are the two by themselves.
    """

    name: str
    captured: int
    classified: int
    dropped: int
    unreadable: int
    waiting: int
    reconnects: int
    flowing: bool
    source: str = ""
    region: str = ""


@dataclass(frozen=True)
class Status:
    """The whole pipeline at one moment; sinks get one about every second.

    Attributes:
        fps: results a second over the last five seconds.
        age_p50_ms: median age of the last results, milliseconds; ``age_p99_ms`` is their 99th percentile.
        inference_ms: mean time of one batch in the engine, milliseconds.
        faults: how many events of each kind there were so far.
        seconds: how long frames have been flowing.
    """

    fps: float
    age_p50_ms: float
    age_p99_ms: float
    inference_ms: float
    sources: tuple[SourceStatus, ...]
    faults: Mapping[Kind, int] = field(default_factory=dict)
    seconds: float = 0.0


class Sink:
    """This is the base class of every output: a subclass overrides what it needs, the rest does nothing.

    The pipeline calls a sink on the one thread that runs it, which a window needs, with results in the order in which
    they were made.
    """

    def model(self, classifier: Classifier) -> None:
        """Hear which classifier gives the results from here on: before the first one, and when another takes over."""

    def write(self, result: Result) -> None:
        """Take one result."""

    def event(self, event: Event) -> None:
        """Take one fault, or the end of one."""

    def status(self, status: Status) -> None:
        """Take how things stand: about once a second, and once at the end."""

    def poll(self) -> bool:
        """Return whether the user asked to stop (closed the window, pressed Q); called at least every 50 ms."""
        return False

    def close(self) -> None:
        """Finish what is being written; called once, also after a failure."""
