"""Keeps what the API tells of a run: the latest results, changes of answers, latencies, counts and faults."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..frame import Pixels, region_name
from ..outputs.sink import Result, Sink, SourceStatus, Status
from ..sources.events import Event
from ..sources.names import display_name, short_names
from ..sources.regions import FILES

if TYPE_CHECKING:
    from ..sources.capture import Capture

RECENT = 600.0  # seconds of the timeline and of the history
CHANGE_EVERY = 1.0  # seconds: of answers that change more often, the last one is kept
MAX_TIMES = 1024  # results whose times are kept
MAX_FAULTS = 100  # events that a slow reader may have missed and still gets
RATE_STATUSES = 6  # over which a source's frames a second are counted: five seconds
EDGES_MS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
STAGES = ("preprocess", "inference", "age")


class SourceView:
    """This class holds what is known of one source, or one region of it: its latest result and changes of answer."""

    def __init__(self) -> None:
        self.result: Result | None = None
        self.changes: deque[tuple[float, str | None, float]] = deque(maxlen=int(RECENT / CHANGE_EVERY))
        self.counts: deque[tuple[float, int]] = deque(maxlen=RATE_STATUSES)


class LiveState(Sink):
    """This sink keeps the state of a run in bounded memory, and tells it as plain values; any thread may ask.

    Files have one place for all of them, as they have one mailbox. Whatever is told goes through ``display_name``:
    no address keeps its user and password.
    """

    def __init__(self, captures: Sequence[Capture], top_k: int) -> None:
        self._live = frozenset(capture.name for capture in captures if capture.live)
        self._files = next((capture.name for capture in captures if not capture.live), "")
        self._top_k = top_k
        self._lock = threading.Lock()
        self._watched: dict[str, SourceView] = {}
        self._ids: dict[str, str] = {}
        self._cameras: dict[str, str] = {}  # by the source's name, what a region's flag calls it
        self._status: Status | None = None
        self._times: dict[str, deque[float]] = {stage: deque(maxlen=MAX_TIMES) for stage in STAGES}
        self._history: deque[tuple[float, float, float]] = deque(maxlen=int(RECENT))
        self._faults: deque[tuple[int, Event]] = deque(maxlen=MAX_FAULTS)
        self.revisions = {"status": 0, "sources": 0, "latest": 0, "fault": 0}

    def write(self, result: Result) -> None:
        """Remember a result in place of the one before of its source and region."""
        frame = result.frame
        name = frame.name if frame.source in self._live else region_name(self._files, frame.region)
        with self._lock:
            watched = self._watched.setdefault(name, SourceView())
            watched.result = result
            self.revisions["latest"] += 1
            if result.prediction is None:
                return
            self._times["preprocess"].append(result.prediction.preprocess_ms)
            self._times["inference"].append(result.prediction.inference_ms)
            self._times["age"].append(result.age_ms)
            answer = result.answer
            if answer is not None:
                changes = watched.changes
                now = time.time()
                if not changes or changes[-1][1] != answer.label:
                    if changes and now - changes[-1][0] < CHANGE_EVERY:
                        changes.pop()
                    changes.append((now, answer.label, answer.probability))

    def event(self, event: Event) -> None:
        """Remember a fault, or the end of one."""
        with self._lock:
            self.revisions["fault"] += 1
            self._faults.append((self.revisions["fault"], event))
            if event.kind in ("lost", "stalled") and self._status is not None:
                for source in self._status.sources:
                    if source.source == event.source:
                        self._watched[source.name].changes.append((event.timestamp, None, 0.0))

    def status(self, status: Status) -> None:
        """Remember this status in place of the one before."""
        now = time.time()
        with self._lock:
            if self._status is None or len(status.sources) != len(self._ids):
                self._ids = short_names(source.name for source in status.sources)
                self._cameras = short_names(source.source for source in status.sources)
            self._status = status
            self._history.append((now, status.age_p50_ms, status.age_p99_ms))
            for source in status.sources:
                counts = self._watched.setdefault(source.name, SourceView()).counts
                counts.append((time.monotonic(), source.classified))
            self.revisions["status"] += 1
            self.revisions["sources"] += 1

    def tell_status(self) -> dict[str, Any]:
        """Return the rates, ages and faults of the whole run."""
        with self._lock:
            status = self._status or Status(0.0, 0.0, 0.0, 0.0, ())
            last = self._faults[-1][1] if self._faults else None
        return {
            "time": round(time.time(), 3),
            "seconds": round(status.seconds, 1),
            "fps": round(status.fps, 2),
            "age_p50_ms": round(status.age_p50_ms, 3),
            "age_p99_ms": round(status.age_p99_ms, 3),
            "inference_ms": round(status.inference_ms, 3),
            "faults": dict(status.faults),
            "last_fault": None if last is None else _fault(last),
        }

    def tell_sources(self) -> list[dict[str, Any]]:
        """Return each source's counts, its frames a second over the last five seconds and its picture's size."""
        with self._lock:
            sources = self._status.sources if self._status else ()
            return [self._source(source) for source in sources]

    def tell_latest(self, only: str | None = None) -> list[dict[str, Any]]:
        """Return each source's latest answer and the most probable labels; those of one ``id`` where it is given."""
        with self._lock:
            found = [(name, watched.result) for name, watched in self._watched.items() if watched.result is not None]
            ids = dict(self._ids)
        told = [(ids[name], result) for name, result in found if name in ids]
        return [self._latest(short, result) for short, result in told if only in (None, short)]

    def tell_timeline(self) -> dict[str, list[dict[str, Any]]]:
        """Return each source's changes of answer during the last ten minutes, by id, and the answer before them."""
        since = time.time() - RECENT
        with self._lock:
            changes = {short: list(self._watched[name].changes) for name, short in self._ids.items()}
        # the last one before them says what was shown when they began
        kept = {short: items[max(0, sum(item[0] < since for item in items) - 1) :] for short, items in changes.items()}
        return {
            short: [
                {"time": round(max(then, since), 3), "label": label, "probability": _rounded(value)}
                for then, label, value in items
            ]
            for short, items in kept.items()
        }

    def tell_latency(self) -> dict[str, Any]:
        """Return the percentiles and a histogram of the last results' times, and the ages of ten minutes."""
        with self._lock:
            times = {stage: list(values) for stage, values in self._times.items()}
            history = list(self._history)
        return {
            "stages": {stage: _spread(values) for stage, values in times.items()},
            "history": [
                {"time": round(then, 1), "p50": round(p50, 3), "p99": round(p99, 3)} for then, p50, p99 in history
            ],
        }

    def faults_after(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """Return the faults after that with this number, each with its own; the oldest may be forgotten."""
        with self._lock:
            return [(own, _fault(event)) for own, event in self._faults if own > number]

    def knows(self, short: str) -> bool:
        """Return whether there is a source of this id."""
        with self._lock:
            return short in self._ids.values()

    def picture(self, short: str) -> Pixels | None:
        """Return the latest whole picture of the source with this id, (H, W, 3) uint8 BGR; None where there is none."""
        with self._lock:
            name = next((name for name, own in self._ids.items() if own == short), None)
            watched = self._watched.get(name) if name is not None else None
            result = watched.result if watched is not None else None
        return None if result is None else result.frame.picture

    def _source(self, source: SourceStatus) -> dict[str, Any]:
        watched = self._watched[source.name]
        picture = None if watched.result is None else watched.result.frame.picture
        (then, before), (now, counted) = watched.counts[0], watched.counts[-1]
        height, width = (0, 0) if picture is None else picture.shape[:2]
        kept = ("flowing", "captured", "classified", "dropped", "unreadable", "reconnects")
        return {
            "id": self._ids[source.name],
            "name": display_name(source.name),
            "source": display_name(source.source),
            "camera": FILES if source.source == self._files else self._cameras[source.source],
            "region": source.region,
            "box": None if watched.result is None else watched.result.frame.box,
            **{name: getattr(source, name) for name in kept},
            "fps": round((counted - before) / (now - then), 2) if now > then else 0.0,
            "width": width,
            "height": height,
        }

    def _latest(self, short: str, result: Result) -> dict[str, Any]:
        answer, prediction = result.answer, result.prediction
        return {
            "id": short,
            "name": display_name(result.frame.name),
            "time": round(result.frame.timestamp, 3),
            "age_ms": round(result.age_ms, 3),
            "answer": None
            if answer is None
            else {
                "label": answer.label,
                "probability": _rounded(answer.probability),
                "since": round(answer.since, 3),
            },
            "error": None if result.frame.error is None else display_name(result.frame.error),
            "top": []
            if prediction is None
            else [{"label": label, "probability": _rounded(value)} for label, value in prediction.top(self._top_k)],
        }


def _fault(event: Event) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "source": display_name(event.source),
        "detail": display_name(event.detail),
        "time": round(event.timestamp, 3),
    }


def _rounded(probability: float) -> float:
    return float(f"{probability:.7g}")


def _spread(values: list[float]) -> dict[str, Any]:
    """Return percentiles of times, milliseconds, and how many lie below, between and above the edges."""
    p50, p99 = np.percentile(values or [0.0], (50, 99))
    counts = np.bincount(np.searchsorted(EDGES_MS, values, side="right"), minlength=len(EDGES_MS) + 1)
    return {
        "p50": round(float(p50), 4),
        "p99": round(float(p99), 4),
        "histogram": {"edges_ms": list(EDGES_MS), "counts": counts.tolist()},
    }
