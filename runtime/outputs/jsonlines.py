"""Writes results and faults as JSON lines, for machines."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, TextIO

from ..sources.events import Event
from .result import Result, Status

if TYPE_CHECKING:
    from ..classifier import Prediction

__all__ = ["LiveJson"]


class LiveJson:
    """This ``LiveSink`` writes each result and each event as one JSON object on a line of its own, and flushes it.

    A result has ``source`` and ``frame`` (its number), then ``labels`` and ``probabilities`` (the top k, descending) or
    ``error``; ``batch``, ``preprocess_ms``, ``inference_ms``; of a camera or stream also ``captured`` (Unix seconds),
    ``age_ms`` (from capture to result), ``dropped`` and ``reconnects`` (so far). ``smoothed_s`` says that the
    probabilities are an average over about so many seconds. A line with ``event`` is no result but a fault or its end:
    ``event`` (its kind), ``source``, ``detail``, ``time`` (Unix seconds), ``seconds`` (how long, or null).
    """

    def __init__(self, top_k: int = 5, stream: TextIO | None = None) -> None:
        """Write the ``top_k`` labels of each result to a stream; None: to stdout."""
        self._top_k = top_k
        self._stream = stream

    def write(self, result: Result) -> None:
        """Write one result.

        Raises:
            OSError: the stream can't be written; it is a BrokenPipeError where the reader is gone.
        """
        frame = result.frame
        line: dict[str, object] = {"source": frame.source, "frame": frame.index}
        if frame.timestamp:
            line["captured"] = round(frame.timestamp, 6)
        if frame.captured:
            line["age_ms"] = round(result.age_ms, 3)
        if result.prediction is None:
            line["error"] = frame.error
        else:
            line.update(self._prediction(result.prediction), batch=result.batch)
        if frame.video:
            line.update(dropped=result.dropped, reconnects=result.reconnects)
        self._line(line)

    def event(self, event: Event) -> None:
        """Write one event."""
        self._line(
            {
                "event": event.kind,
                "source": event.source,
                "detail": event.detail,
                "time": round(event.timestamp, 6),
                "seconds": None if event.seconds is None else round(event.seconds, 3),
            }
        )

    def status(self, status: Status) -> None:
        """Do nothing: each line has its counts."""

    def poll(self) -> bool:
        """Return False: nobody can ask this sink to stop."""
        return False

    def close(self) -> None:
        """Do nothing: each line was flushed."""

    def _prediction(self, prediction: Prediction) -> dict[str, object]:
        top = prediction.top(self._top_k)
        line: dict[str, object] = {
            "labels": [label for label, _ in top],
            "probabilities": [float(f"{probability:.7g}") for _, probability in top],
            "preprocess_ms": round(prediction.preprocess_ms, 3),
            "inference_ms": round(prediction.inference_ms, 3),
        }
        smoothed = getattr(prediction, "smoothed_s", None)  # importing SmoothedPrediction would bring OpenCV with it
        return line if smoothed is None else {**line, "smoothed_s": smoothed}

    def _line(self, line: dict[str, object]) -> None:
        stream = sys.stdout if self._stream is None else self._stream  # a status line may have replaced it
        stream.write(json.dumps(line) + "\n")
        stream.flush()
