"""Runs a graph over calibration images, one batch at a time, and measures its tensors; ``calibrate`` keeps the result.

One loop serves four questions: statistics of every tensor, largest values, channels one by one, and how the inputs of
matrix products vary together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.backends.onnxruntime import TensorSession
from ..runtime.errors import CalibrationError
from ..runtime.preprocess import contract_hash
from ..runtime.spec import ModelSpec
from .images import BATCH, CalibrationImages, read_batches
from .statistics import TensorStatistics, require_finite
from .statistics_file import Binding, MeasuredStatistics, images_hash, load_if_same, save

RECOMMENDED_IMAGES = 300  # the fewest that the accuracy of INT8 was measured with
SURVEYED_IMAGES = 100  # so many settle the channels' peaks and the RMS, but not the ranges
# the pixels of one batch: two images of 299x299. With every activation of Xception an output (226 MB an image),
# batches of 2, 4 and 8 took 0.38, 0.44 and 0.62 s an image and 1.5, 2.6 and 4.8 GB: memory that is mapped anew each
# time is slow
BATCH_PIXELS = 2 * 299 * 299

Float32 = npt.NDArray[np.float32]
OnBatch = Callable[[int], None] | None


@dataclass(frozen=True)
class Calibration:
    """Statistics of every tensor of a graph, by its name, and the ``binding`` that says what they were measured on.

    ``images`` counts the images measured, and ``skipped`` says which could not be read and why. ``reason`` says in a
    sentence for the report whether the statistics were in the file already.
    """

    statistics: dict[str, TensorStatistics]
    binding: Binding
    images: int
    reason: str
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """What ``measure_channels`` measured: the statistics of every output of the graph, by its name.

    ``peaks``, the largest |value| of each channel, (C,) float32, and ``means``, (C,) float64, are of the tensors asked
    for.
    """

    statistics: dict[str, TensorStatistics]
    peaks: dict[str, Float32]
    means: dict[str, npt.NDArray[np.float64]]


def calibrate(
    graph: bytes, images: CalibrationImages, spec: ModelSpec, weights: str, path: Path, *, on_batch: OnBatch = None
) -> Calibration:
    """Read the statistics of a graph's inputs and outputs from ``path`` if they still hold, else measure and save them.

    ``graph`` is the bytes of an ONNX file, whose outputs include every tensor to be measured; ``weights`` is the
    SHA-256 of the Keras weights. ``on_batch`` is called after each batch with its number of images.

    Raises:
        CalibrationError: no image can be read, or an activation is not finite.
        BackendError: ONNX Runtime refused the graph, or failed.
    """
    binding = Binding(
        weights, images_hash(images.sha256s), contract_hash(spec), graph=hashlib.sha256(graph).hexdigest()
    )
    measured, reason = load_if_same(path, binding)
    warnings: list[str] = []
    if measured is None:
        measured = measure_statistics(graph, images.paths, spec, on_batch=on_batch)
        try:
            save(path, measured, binding)
        except OSError as error:
            warnings.append(f"the ranges can't be saved ({error}): the next export measures them again")
    if measured.images < RECOMMENDED_IMAGES:
        warnings.append(
            f"calibrated on {measured.images} images: expected {RECOMMENDED_IMAGES} or more, with fewer the ranges "
            "depend on chance; name a folder with more images with --calib DIR"
        )
    return Calibration(measured.statistics, binding, measured.images, reason, measured.skipped, tuple(warnings))


def measure_statistics(
    graph: bytes, paths: Collection[Path], spec: ModelSpec, *, on_batch: OnBatch = None
) -> MeasuredStatistics:
    """Measure a graph's inputs and outputs over images; arguments and errors are those of ``calibrate``."""
    statistics: dict[str, TensorStatistics] = {}

    def update(tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, values in tensors.items():
            statistics.setdefault(name, TensorStatistics(name)).update(values)

    skipped = _run(graph, paths, spec, update, on_inputs=update, on_batch=on_batch)
    return MeasuredStatistics(statistics, len(paths) - len(skipped), tuple(skipped))


def measure_peaks(
    graph: bytes, paths: Collection[Path], spec: ModelSpec, *, on_batch: OnBatch = None
) -> tuple[dict[str, float], list[str]]:
    """Return the largest |value| of each output of a graph over images, and why some of these were passed over.

    It is a third of the work of ``measure_statistics``. The arguments and errors are those of ``calibrate``.
    """
    peaks: dict[str, float] = {}

    def update(tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, values in tensors.items():
            low, high = float(values.min()), float(values.max())  # NaN comes through both
            peaks[name] = require_finite(name, max(-low, high, peaks.get(name, 0.0)))

    skipped = _run(graph, paths, spec, update, on_batch=on_batch)
    return peaks, skipped


def measure_channels(
    graph: bytes, paths: Collection[Path], spec: ModelSpec, channels: Collection[str], *, on_batch: OnBatch = None
) -> ChannelStatistics:
    """Take a first look at a graph's outputs, and at ``channels``, outputs (N, C, …), one channel after the other.

    Images that can't be read are passed over; the other arguments and the errors are those of ``calibrate``.
    """
    statistics: dict[str, TensorStatistics] = {}
    peaks: dict[str, Float32] = {}
    sums: dict[str, npt.NDArray[np.float64]] = {}

    def update(tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, values in tensors.items():
            statistics.setdefault(name, TensorStatistics(name)).update(values)
            if name in channels:
                rest = (0, *range(2, values.ndim))
                peaks[name] = np.maximum(peaks.get(name, np.float32(0)), np.abs(values).max(axis=rest))
                sums[name] = sums.get(name, 0) + values.mean(axis=rest, dtype=np.float64) * len(values)

    skipped = _run(graph, paths, spec, update, on_batch=on_batch)
    count = len(paths) - len(skipped)
    return ChannelStatistics(statistics, peaks, {name: total / count for name, total in sums.items()})


def second_moments(
    graph: bytes, paths: Collection[Path], spec: ModelSpec, *, on_batch: OnBatch = None
) -> dict[str, Float32]:
    """Measure the mean of x xᵀ over images (and timesteps), (F, F) float32, of every output (…, F) of a graph.

    The arguments and errors are those of ``calibrate``.
    """
    sums: dict[str, Float32] = {}
    rows: dict[str, int] = {}

    def update(tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, values in tensors.items():
            flat = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
            require_finite(name, float(np.abs(flat).max()))
            if name not in sums:
                sums[name], rows[name] = np.zeros((flat.shape[1], flat.shape[1]), np.float32), 0
            sums[name] += flat.T @ flat
            rows[name] += len(flat)

    _run(graph, paths, spec, update, batch=BATCH, on_batch=on_batch)
    for name, count in rows.items():
        sums[name] /= count
    return sums


def _run(
    graph: bytes,
    paths: Collection[Path],
    spec: ModelSpec,
    on_outputs: Callable[[Mapping[str, npt.NDArray[Any]]], None],
    *,
    on_inputs: Callable[[Mapping[str, npt.NDArray[Any]]], None] = lambda _: None,
    batch: int | None = None,
    on_batch: OnBatch = None,
) -> list[str]:
    """Run a graph over images, hand on what it takes and gives, and return why images were passed over.

    ``batch`` is by default as many images, 1 to 8, as make a batch whose tensors together take some hundreds of MB.
    """
    skipped: list[str] = []
    batch = batch or max(1, min(BATCH, BATCH_PIXELS // spec.image_size**2))
    with TensorSession(graph) as session:
        for tensors in read_batches(paths, spec, batch=batch, on_skip=skipped.append):
            on_inputs({name: tensors[name] for name in session.inputs})
            # the outputs have no name here: one would keep them in memory while the next batch's are computed
            on_outputs(session.run(tensors))
            if on_batch is not None:
                on_batch(len(next(iter(tensors.values()))))
    if len(skipped) == len(paths):
        reason = f"; the first: {skipped[0]}" if skipped else ""
        raise CalibrationError(
            f"expected images to calibrate on, found none that can be read of {len(paths)}{reason}. "
            "Name a folder of images with --calib DIR"
        )
    return skipped
