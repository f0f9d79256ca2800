"""Measures a running pipeline: what each stage is doing, and how fast and how fresh results are."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

import numpy as np

__all__ = ["Activity", "Meter", "Stage"]

WINDOW = 5.0  # seconds over which results a second are counted
AGES = 1024  # results, and batches, whose times are kept


class Stage:
    """This class holds what a stage's own thread notes of its work, in plain attributes: that costs next to nothing."""

    def __init__(self) -> None:
        self.since = 0.0
        self.count = 0

    def enter(self) -> None:
        """Note that a call begins that may hang: into a decoder, an engine or a window."""
        self.since = time.monotonic()

    def leave(self) -> None:
        """Note that the call returned."""
        self.since = 0.0
        self.count += 1


class Activity:
    """This class holds every stage of a pipeline by name: ``capture NAME``, ``preprocess``, ``infer``, ``output``.

    Any thread may read it, while the stages work or hang.
    """

    def __init__(self) -> None:
        self._stages: dict[str, Stage] = {}

    def stage(self, name: str) -> Stage:
        """Make a stage to note work in, of that name or, where the name is taken, of that name and a number."""
        number = 1
        unique = name
        while unique in self._stages:
            number += 1
            unique = f"{name} ({number})"
        return self._stages.setdefault(unique, Stage())

    def busy(self) -> Mapping[str, float]:
        """Return for how many seconds each stage has been in its current call; 0 where it waits for work."""
        now = time.monotonic()
        return {name: max(0.0, now - since) if (since := stage.since) else 0.0 for name, stage in self._stages.items()}

    def counts(self) -> Mapping[str, float]:
        """Return how many calls each stage has finished."""
        return {name: stage.count for name, stage in self._stages.items()}

    def reading(self) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Return ``busy`` and ``counts``, as a heartbeat tells them."""
        return self.busy(), self.counts()


class Meter:
    """Measures rates and ages of results; only one thread may use it."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self._total = 0
        self._marks: deque[tuple[float, int]] = deque([(self.begun, 0)])
        self._ages: deque[float] = deque(maxlen=AGES)
        self._engine: deque[float] = deque(maxlen=AGES)

    @property
    def seconds(self) -> float:
        """Seconds since this meter was made."""
        return time.monotonic() - self.begun

    def result(self, age_ms: float) -> None:
        """Count one result of that age, milliseconds."""
        self._total += 1
        self._ages.append(age_ms)

    def batch(self, inference_ms: float) -> None:
        """Note one batch's time in the engine, milliseconds."""
        self._engine.append(inference_ms)

    def rate(self) -> float:
        """Return results a second over the last five seconds; callers ask about once a second."""
        now = time.monotonic()
        while len(self._marks) > 1 and now - self._marks[1][0] >= WINDOW:
            self._marks.popleft()
        then, before = self._marks[0]
        if now - self._marks[-1][0] >= 0.5:  # ten marks are enough, however often the rate is asked for
            self._marks.append((now, self._total))
        return (self._total - before) / (now - then) if now > then else 0.0

    def ages(self) -> tuple[float, float]:
        """Return median and 99th percentile of the last results' ages, milliseconds; 0 before the first."""
        if not self._ages:
            return 0.0, 0.0
        median, high = np.percentile(self._ages, (50, 99))
        return float(median), float(high)

    def inference_ms(self) -> float:
        """Return the mean time of the last batches in the engine, milliseconds; 0 before the first."""
        return float(np.mean(self._engine)) if self._engine else 0.0
