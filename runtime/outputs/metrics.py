"""Counts what Prometheus asks for: frames, results by label, faults, latency and age, engine, memory, temperatures.

The pipeline's thread only adds numbers here; a thread of its own makes a page of them when one is asked for.
prometheus-client is known here alone.
"""

from __future__ import annotations

import socket
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, get_args

from ... import __version__
from ..errors import UsageError
from ..sources.events import Kind
from ..sources.names import short_names
from ..sources.regions import FILES
from .metrics_server import MetricsServer
from .sensors import Sensors
from .sink import Result, Sink, SourceStatus, Status

try:
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ImportError as error:
    raise UsageError(
        f"--metrics: expected prometheus-client, found none that can be imported ({error}): "
        "pip install 'hybrid-edge[metrics]'"
    ) from error

if TYPE_CHECKING:
    from ..classifier import Classifier

PREFIX = "hybrid_edge"
STAGE_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds
AGE_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)
COUNTS = {
    "captured": "Frames that were captured",
    "classified": "Frames that went through the model",
    "dropped": "Frames given up for newer ones, or for want of memory or an engine",
    "unreadable": "Frames that could not be decoded",
}


@dataclass
class Times:
    """This class counts times in seconds by upper bounds, as a histogram of Prometheus."""

    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        """Count one time."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound with how many times were up to it; the last one is infinite."""
        return list(zip([*map(str, self.bounds), "+Inf"], map(float, accumulate(self.counts)), strict=True))


class Metrics(Sink):
    """This sink serves what it counts on a listening socket, at /metrics.

    ``live`` are the cameras and streams, as frames carry them; they are labelled by their short names, which show no
    user or password. ``engine`` goes out as the labels of ``hybrid_edge_info``.
    """

    def __init__(
        self, listener: socket.socket, live: Sequence[str], engine: Mapping[str, str], sensors: Sensors | None = None
    ) -> None:
        self._cameras = short_names(live)
        self._engine = dict(engine)
        self._sensors = sensors or Sensors()
        self._lock = threading.Lock()
        self._results: Counter[tuple[str, str, str]] = Counter()
        self._ages: dict[tuple[str, str], Times] = {}
        self._stages = {name: Times(STAGE_BOUNDS) for name in ("preprocess", "inference")}
        self._status: Status | None = None
        self._registry = CollectorRegistry()
        self._registry.register(_Collected(self))
        ProcessCollector(registry=self._registry)
        self._server = MetricsServer(listener, self.render)

    def model(self, classifier: Classifier) -> None:
        """Let the labels of ``hybrid_edge_info`` be this classifier's."""
        self._engine = engine_labels(classifier)

    def write(self, result: Result) -> None:
        """Count one result by its answer, and its times."""
        prediction, answer, frame = result.prediction, result.answer, result.frame
        if prediction is None or answer is None:
            return
        key = self._cameras.get(frame.source, FILES), frame.region
        with self._lock:
            self._results[(*key, answer.label)] += 1
            self._stages["preprocess"].add(prediction.preprocess_ms / 1000)
            self._stages["inference"].add(prediction.inference_ms / 1000)
            if frame.captured:
                if key not in self._ages:
                    self._ages[key] = Times(AGE_BOUNDS)
                self._ages[key].add(result.age_ms / 1000)

    def status(self, status: Status) -> None:
        """Keep the sources' counts for the next page."""
        self._status = status

    def close(self) -> None:
        """End the server."""
        self._server.close()

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its type: OpenMetrics where an Accept header asks for it, else Prometheus's text."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def families(self) -> Iterator[Metric]:
        """Yield everything that is known at this moment, as prometheus-client's families; any thread may call it."""
        yield InfoMetricFamily(PREFIX, "What classifies: engine and variant of the model", self._engine)
        yield from self._measured()
        if self._status is not None:
            yield from self._counted(self._status)
        yield _gauge("temperature_celsius", "Temperature of a thermal zone", "zone", self._sensors.temperatures())
        yield _gauge("power_watts", "Power on a supply rail; some rails feed others", "rail", self._sensors.power())

    def _measured(self) -> Iterator[Metric]:
        with self._lock:  # copies, as the pipeline's thread must not wait for what is made of them
            results = dict(self._results)
            stages = {(name,): (times.buckets(), times.total) for name, times in self._stages.items()}
            ages = {place: (times.buckets(), times.total) for place, times in self._ages.items()}
        by_label = CounterMetricFamily(
            f"{PREFIX}_results", "Results by their answer's label", labels=("camera", "region", "label")
        )
        for labels, count in results.items():
            by_label.add_metric(labels, count)
        yield by_label
        yield _histogram("stage_seconds", "Time of one frame in a stage, its share of the batch's", ("stage",), stages)
        yield _histogram("age_seconds", "Time from a frame's capture to its result", ("camera", "region"), ages)

    def _counted(self, status: Status) -> Iterator[Metric]:
        places = [(self._place(item), item) for item in status.sources]
        for name, text in COUNTS.items():
            frames = CounterMetricFamily(f"{PREFIX}_frames_{name}", text, labels=("camera", "region"))
            for place, item in places:
                frames.add_metric(place, getattr(item, name))
            yield frames
        cameras = {camera: item for (camera, _), item in places}  # a source's regions share its breaks
        reconnects = CounterMetricFamily(f"{PREFIX}_reconnects", "Times that frames flowed again", labels=("camera",))
        flowing = GaugeMetricFamily(f"{PREFIX}_camera_up", "Whether a camera's frames flow", labels=("camera",))
        for camera, item in cameras.items():
            reconnects.add_metric((camera,), item.reconnects)
            flowing.add_metric((camera,), item.flowing)
        faults = CounterMetricFamily(f"{PREFIX}_faults", "Faults, and ends of faults, by kind", labels=("kind",))
        for kind in get_args(Kind):
            faults.add_metric((kind,), status.faults.get(kind, 0))
        yield from (reconnects, flowing, faults)

    def _place(self, item: SourceStatus) -> tuple[str, str]:
        return self._cameras.get(item.source or item.name, FILES), item.region


class _Collected(Collector):
    """This collector gives prometheus-client what a sink knows."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.families()


def engine_labels(classifier: Classifier) -> dict[str, str]:
    """Return what ``hybrid_edge_info`` tells of a classifier: engine, variant, precision, and our version."""
    selection = classifier.selection
    return {
        "version": __version__,
        "engine": selection.backend.device,
        "variant": selection.variant.name,
        "precision": selection.variant.precision,
    }


def _gauge(name: str, text: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _histogram(
    name: str, text: str, labels: Sequence[str], times: Mapping[Any, tuple[list[tuple[str, float]], float]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"{PREFIX}_{name}", text, labels=labels)
    for values, (buckets, total) in times.items():
        family.add_metric(values, buckets, total)
    return family
