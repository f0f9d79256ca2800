"""Keeps measured statistics in a file with what they were measured on; for anything else they are measured again.

The file is one npz: ``record`` (JSON: format, binding, names, images), ``histograms`` (K, 4096) int64, ``counts`` (K,)
int64, ``figures`` (K, 4) float64: low, high, sum of squares, radius. It holds statistics and not ranges, so that
every method can be derived from one measurement.
"""

from __future__ import annotations

import hashlib
import json
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..runtime.storage import replacing
from .statistics import BINS, TensorStatistics

FORMAT = 1
MAX_BYTES = 2**28  # of the unpacked file; at 33 KiB a tensor it holds 8,000 tensors
# what NumPy, zipfile and zlib raise for damaged bytes; SyntaxError and TokenError: for a damaged array header
FAULTS = (
    *(ValueError, LookupError, TypeError, EOFError, RuntimeError, MemoryError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Binding:
    """What statistics were measured on; all are SHA-256.

    ``weights`` is of the Keras weights, ``images`` of the images' contents, from ``images_hash``, ``preprocessing``
    from ``runtime.preprocess.contract_hash``, and ``graph`` of the measured graph's bytes, which hold the names of its
    outputs.
    """

    weights: str
    images: str
    preprocessing: str
    graph: str


class MeasuredStatistics(NamedTuple):
    """Statistics by tensor name, the number of images behind them, and the images that could not be read."""

    statistics: dict[str, TensorStatistics]
    images: int
    skipped: tuple[str, ...] = ()


def images_hash(sha256s: Iterable[str]) -> str:
    """Hash many images' contents as one; their order and names do not count, as statistics don't depend on them."""
    return hashlib.sha256("\n".join(sorted(sha256s)).encode()).hexdigest()


def save(path: Path, measured: MeasuredStatistics, binding: Binding) -> None:
    """Write statistics and their binding to ``path``; an older file stays until the new one is whole."""
    items = list(measured.statistics.values())
    record = {
        "format": FORMAT,
        "binding": asdict(binding),
        "names": [item.name for item in items],
        "images": measured.images,
        "skipped": list(measured.skipped),
    }
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            record=np.frombuffer(json.dumps(record).encode(), np.uint8),
            histograms=np.array([item.histogram for item in items], np.int64).reshape(-1, BINS),
            counts=np.array([item.count for item in items], np.int64),
            figures=np.array([_figures(item) for item in items], np.float64).reshape(-1, 4),
        )


def load_if_same(path: Path, binding: Binding) -> tuple[MeasuredStatistics | None, str]:
    """Read the statistics of a file, if they were measured on exactly what ``binding`` says; else return None.

    With them comes a sentence for the report: what was reused, or why it has to be measured again.
    """
    if not path.exists():
        return None, f"measured: {path.name} is not there yet"
    try:
        record, measured = _read(path)
    except (OSError, *FAULTS) as error:
        return None, f"measured again: {path.name} can't be read or is damaged ({error or type(error).__name__})"
    found = record["binding"]
    other = [item.name for item in fields(Binding) if found.get(item.name) != getattr(binding, item.name)]
    if other:
        return None, f"measured again: {_and(other)} differ from those that {path.name} was measured on"
    return measured, f"reused from {path.name}: same weights, images, preprocessing and graph"


def _read(path: Path) -> tuple[dict[str, Any], MeasuredStatistics]:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(item.file_size for item in archive.infolist())
    if unpacked > MAX_BYTES:
        raise ValueError(f"expected at most {MAX_BYTES} bytes unpacked, found {unpacked}")
    with np.load(path, allow_pickle=False) as arrays:
        record = json.loads(bytes(arrays["record"]))
        if record["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, found {record['format']}")
        names = [str(name) for name in record["names"]]
        content = [arrays[name] for name in ("histograms", "counts", "figures")]
    found = [(array.shape, array.dtype.str) for array in content]
    number = len(names)
    if found != [((number, BINS), "<i8"), ((number,), "<i8"), ((number, 4), "<f8")]:
        raise ValueError(f"expected histograms, counts and figures of {number} tensors, found {found}")
    statistics = {name: _restore(name, *row) for name, *row in zip(names, *content, strict=True)}
    return record, MeasuredStatistics(statistics, int(record["images"]), tuple(map(str, record["skipped"])))


def _figures(item: TensorStatistics) -> tuple[float, float, float, float]:
    return item.low, item.high, item.square_sum, item.radius


def _restore(name: str, histogram: Any, count: Any, figures: Any) -> TensorStatistics:
    item = TensorStatistics(name)
    item.histogram, item.count = histogram, int(count)
    item.low, item.high, item.square_sum, item.radius = map(float, figures)
    sound = int(histogram.sum()) == item.count and histogram.min() >= 0 and item.peak < item.radius
    if not sound or item.low > item.high or not item.square_sum >= 0 or math.frexp(item.radius)[0] != 0.5:
        raise ValueError(f"the statistics of {name!r} contradict each other")
    return item


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
