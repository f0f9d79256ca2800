"""Results as the live pipeline would hand them to its sinks."""

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hybrid_edge.runtime.classifier import Prediction
from hybrid_edge.runtime.frame import Frame
from hybrid_edge.runtime.outputs.answering import Answering
from hybrid_edge.runtime.outputs.sink import Result, SourceStatus, Status
from hybrid_edge.runtime.sources.events import Kind

LABELS = ("cat", "dog", "a lighthouse on a rock in the sea, seen from a ship that is far away", "Größe", "猫")


def make_prediction(probabilities: Sequence[float] = (0.75, 0.2, 0.05, 0, 0)) -> Prediction:
    values = np.array(probabilities, np.float32)
    return Prediction(LABELS, values, np.log(np.maximum(values, 1e-9)), 0.5, 12.25)


def make_result(
    source: str = "cam0",
    index: int = 0,
    *,
    color: tuple[int, int, int] = (0, 0, 255),
    size: tuple[int, int] = (320, 240),
    image: npt.NDArray[np.uint8] | None = None,
    probabilities: Sequence[float] = (0.75, 0.2, 0.05, 0, 0),
    video: bool = True,
    captured: float | None = None,
    error: str | None = None,
    seen: npt.NDArray[np.uint8] | None = None,
    region: str = "",
) -> Result:
    """A classified picture of one color and of ``size`` (width, height), or an unreadable frame."""
    if image is None:
        image = np.full((size[1], size[0], 3), color, np.uint8)
    moment = time.monotonic() if captured is None else captured
    stamp = 1_800_000_000.25 + moment if moment else 0.0
    frame = Frame(source, index, None if error else image, error, video, moment, stamp, seen=seen, region=region)
    result = Result(frame, None if error else make_prediction(probabilities), 31.4, dropped=3, reconnects=1, batch=2)
    return Answering().answered(result)


def make_status(name: str = "cam0", *, flowing: bool = True, faults: dict[Kind, int] | None = None) -> Status:
    source = SourceStatus(name, 20, 15, 3, 1, 1, 1, flowing)
    return Status(24.8, 31.2, 71.9, 28.4, (source,), faults or {}, 3725.0)
