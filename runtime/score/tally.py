"""Counts what a model said of many images, in a form that is added up over part files, and makes the summary."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

BINS = 20  # of the confidence histogram: 0 to 0.05, …, 0.95 to 1
STEPS = 8  # of the latency histogram, an octave: percentiles are exact to 2 ** (1 / 8), 9 %
MAX_REASONS = 20  # that are kept apart; others are one
OTHER = "other reasons"
FIGURES = re.compile(r"\d+")


class ScoreTally(BaseModel):
    """The counts of one part, or of several that were added up.

    Attributes:
        images: rows, unreadable ones among them.
        answers: images by answer: the most probable label, or ``unknown`` below ``--min-probability``.
        confidence: images by the most probable label's probability, in bins of 0.05.
        latency: images by their time in preprocessing and engine, milliseconds, 8 bins an octave: bin b is about
            ``2 ** (b / 8)`` ms.
        milliseconds: the sum of these times.
        unreadable: images by reason, in which numbers are ``N``.
    """

    images: int = 0
    answers: dict[str, int] = Field(default_factory=dict)
    confidence: list[int] = Field(default_factory=lambda: [0] * BINS, min_length=BINS, max_length=BINS)
    latency: dict[int, int] = Field(default_factory=dict)
    milliseconds: float = 0.0
    unreadable: dict[str, int] = Field(default_factory=dict)

    def count(self, answer: str, probability: float, milliseconds: float) -> None:
        """Count one image that was classified."""
        self.images += 1
        self.answers[answer] = self.answers.get(answer, 0) + 1
        self.confidence[min(int(probability * BINS), BINS - 1)] += 1
        place = round(STEPS * math.log2(max(milliseconds, 1e-6)))
        self.latency[place] = self.latency.get(place, 0) + 1
        self.milliseconds += milliseconds

    def count_unreadable(self, reason: str) -> None:
        """Count one image that could not be read."""
        self.images += 1
        self._add_reason(FIGURES.sub("N", reason), 1)

    def add(self, other: ScoreTally) -> None:
        """Add another tally's counts to this one's."""
        self.images += other.images
        self.milliseconds += other.milliseconds
        self.confidence = [ours + theirs for ours, theirs in zip(self.confidence, other.confidence, strict=True)]
        self.answers = dict(Counter(self.answers) + Counter(other.answers))
        self.latency = dict(Counter(self.latency) + Counter(other.latency))
        for reason, number in other.unreadable.items():
            self._add_reason(reason, number)

    @property
    def failures(self) -> int:
        """How many images could not be read."""
        return sum(self.unreadable.values())

    def figures(self) -> dict[str, Any]:
        """Return the summary's figures: counts, the confidence histogram, latency in milliseconds."""
        readable = self.images - self.failures
        return {
            "images": self.images,
            "unreadable": self.failures,
            "unreadable_by_reason": _descending(self.unreadable),
            "answers": _descending(self.answers),
            "confidence": self.confidence,
            "latency_ms": {"mean": self.milliseconds / readable} | self._percentiles() if readable else None,
        }

    def _percentiles(self) -> dict[str, float]:
        found, seen, total = dict[str, float](), 0, sum(self.latency.values())
        wanted = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
        for place, number in sorted(self.latency.items()):
            seen += number
            for name, share in wanted.items():
                if name not in found and seen >= share * total:
                    found[name] = 2 ** (place / STEPS)
        return found

    def _add_reason(self, reason: str, number: int) -> None:
        if reason not in self.unreadable and len(self.unreadable) >= MAX_REASONS:
            reason = OTHER
        self.unreadable[reason] = self.unreadable.get(reason, 0) + number


def _descending(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
