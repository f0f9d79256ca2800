"""Runs a graph over calibration images, one batch at a time, and measures its tensors; ``calibrate`` keeps the result.

One loop serves four questions: statistics of every tensor, largest values, channels one by one, and how the inputs of
matrix products vary together. A graph may come as two, of which the second takes what the first gives: then the
first runs on the few images whose activations fit into memory, and the second, whose weights count, on many at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..runtime.backends.onnxruntime import TensorSession
from ..runtime.errors import CalibrationError
from ..runtime.preprocess import contract_hash
from ..runtime.process import usable_cpus
from ..runtime.spec import ModelSpec
from .images import BATCH, CalibrationImages, read_batches
from .statistics import TensorStatistics
from .statistics_file import Binding, MeasuredStatistics, images_hash, load_if_same, save
from .tensor_measures import ChannelledStatistics, SecondMoments, TensorMeasure, TensorPeak

RECOMMENDED_IMAGES = 300  # the fewest that the accuracy of INT8 was measured with
SURVEYED_IMAGES = 100  # so many settle the channels' peaks and the RMS, but not the ranges
# the pixels of one batch: two images of 299x299. With every activation of Xception an output (226 MB an image),
# batches of 2, 4 and 8 took 0.38, 0.44 and 0.62 s an image and 1.5, 2.6 and 4.8 GB
BATCH_PIXELS = 2 * 299 * 299
# images of a batch for a second graph: the 82 M weights of two LSTM(2048) are read once for all of them
LARGE_BATCH = 32

Float32 = npt.NDArray[np.float32]
OnBatch = Callable[[int], None] | None
Graphs = bytes | Sequence[bytes]
M = TypeVar("M", bound=TensorMeasure)


@dataclass(frozen=True)
class Calibration:
    """Statistics of every tensor of a graph, by its name, and the ``binding`` that says what they were measured on.

    ``images`` counts the images measured, and ``skipped`` says which could not be read and why. ``reason`` says in a
    sentence for the report whether the statistics were in the file already. ``channels``, the largest |value| of each
    channel, (C,) float32, are of the tensors asked for; None where the statistics come from the file, which lacks them.
    """

    statistics: dict[str, TensorStatistics]
    binding: Binding
    images: int
    reason: str
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    channels: dict[str, Float32] | None = None


@dataclass(frozen=True, eq=False)
class Peaks:
    """The largest |value| of every output of a graph, by its name, and of each channel, (C,), of those asked for.

    ``skipped`` says why some images were passed over.
    """

    largest: Mapping[str, float]
    channels: Mapping[str, Float32]
    skipped: tuple[str, ...] = ()

    def joined(self, others: Peaks) -> Peaks:
        """Return the peaks over these images and others; those of channels only where both have them."""
        largest = {name: max(peak, others.largest.get(name, 0.0)) for name, peak in self.largest.items()}
        both = self.channels.keys() & others.channels.keys()
        channels = {name: np.maximum(self.channels[name], others.channels[name]) for name in both}
        return Peaks({**others.largest, **largest}, channels, (*self.skipped, *others.skipped))


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
    graph: Graphs,
    images: CalibrationImages,
    spec: ModelSpec,
    weights: str,
    path: Path,
    *,
    channels: Collection[str] = (),
    on_batch: OnBatch = None,
) -> Calibration:
    """Read the statistics of a graph's inputs and outputs from ``path`` if they still hold, else measure and save them.

    ``graph`` is the bytes of an ONNX file, or of several that follow each other, whose outputs include every tensor to
    be measured; ``weights`` is the SHA-256 of the Keras weights. ``channels`` are outputs (N, C, …) whose channels'
    peaks are wanted too. ``on_batch`` is called after each batch with its number of images.

    Raises:
        CalibrationError: no image can be read, or an activation is not finite.
        BackendError: ONNX Runtime refused the graph, or failed.
    """
    digest = hashlib.sha256(b"".join(_in_order(graph))).hexdigest()
    binding = Binding(weights, images_hash(images.sha256s), contract_hash(spec), graph=digest)
    measured, reason = load_if_same(path, binding)
    warnings: list[str] = []
    peaks: dict[str, Float32] | None = None
    if measured is None:
        measured, peaks = _measure(graph, images.paths, spec, channels, on_batch)
        try:
            save(path, measured, binding)
        except OSError as error:
            warnings.append(f"the ranges can't be saved ({error}): the next export measures them again")
    if measured.images < RECOMMENDED_IMAGES:
        warnings.append(
            f"calibrated on {measured.images} images: expected {RECOMMENDED_IMAGES} or more, with fewer the ranges "
            "depend on chance; name a folder with more images with --calib DIR"
        )
    return Calibration(measured.statistics, binding, measured.images, reason, measured.skipped, tuple(warnings), peaks)


def measure_statistics(
    graph: Graphs, paths: Collection[Path], spec: ModelSpec, *, on_batch: OnBatch = None
) -> MeasuredStatistics:
    """Measure a graph's inputs and outputs over images; arguments and errors are those of ``calibrate``."""
    return _measure(graph, paths, spec, (), on_batch)[0]


def _measure(
    graph: Graphs, paths: Collection[Path], spec: ModelSpec, channels: Collection[str], on_batch: OnBatch
) -> tuple[MeasuredStatistics, dict[str, Float32]]:
    found, skipped = _run(
        graph,
        paths,
        spec,
        lambda name: ChannelledStatistics(name, channels=name in channels),
        inputs=True,
        on_batch=on_batch,
    )
    statistics = {name: item.statistics for name, item in found.items()}
    return MeasuredStatistics(statistics, len(paths) - len(skipped), tuple(skipped)), _channels_of(found)


def measure_peaks(
    graph: Graphs,
    paths: Collection[Path],
    spec: ModelSpec,
    *,
    channels: Collection[str] = (),
    on_batch: OnBatch = None,
) -> Peaks:
    """Measure the largest |value| of each output of a graph over images, and of each channel of some.

    It is less than half of the work of ``measure_statistics``. The arguments and errors are those of ``calibrate``.
    """
    found, skipped = _run(
        graph, paths, spec, lambda name: TensorPeak(name, channels=name in channels), on_batch=on_batch
    )
    return Peaks({name: item.largest for name, item in found.items()}, _channels_of(found), tuple(skipped))


def measure_channels(
    graph: Graphs, paths: Collection[Path], spec: ModelSpec, channels: Collection[str], *, on_batch: OnBatch = None
) -> ChannelStatistics:
    """Take a first look at a graph's outputs, and at ``channels``, outputs (N, C, …), one channel after the other.

    Images that can't be read are passed over; the other arguments and the errors are those of ``calibrate``.
    """
    found, skipped = _run(
        graph,
        paths,
        spec,
        lambda name: ChannelledStatistics(name, channels=name in channels, means=True),
        on_batch=on_batch,
    )
    count = len(paths) - len(skipped)
    means = {name: item.sums / count for name, item in found.items() if name in channels}
    return ChannelStatistics({name: item.statistics for name, item in found.items()}, _channels_of(found), means)


def second_moments(
    graph: bytes, paths: Collection[Path], spec: ModelSpec, *, on_batch: OnBatch = None
) -> dict[str, Float32]:
    """Measure the mean of x xᵀ over images (and timesteps), (F, F) float32, of every output (…, N, F) of a graph.

    The arguments and errors are those of ``calibrate``.
    """
    found, _ = _run(graph, paths, spec, SecondMoments, batch=BATCH, on_batch=on_batch)
    return {name: item.mean for name, item in found.items()}


def _channels_of(found: Mapping[str, TensorPeak] | Mapping[str, ChannelledStatistics]) -> dict[str, Float32]:
    return {name: item.channels for name, item in found.items() if item.channels is not None}


def _run(
    graph: Graphs,
    paths: Collection[Path],
    spec: ModelSpec,
    make: Callable[[str], M],
    *,
    inputs: bool = False,
    batch: int | None = None,
    on_batch: OnBatch = None,
) -> tuple[dict[str, M], list[str]]:
    """Run a graph over images, measure each tensor that it gives, and say why images were passed over.

    ``make`` gives what measures the tensor of a name; several tensors are measured at a time, each by one thread. With
    ``inputs`` what the graph takes is measured too. ``batch`` is for graphs that take images, by default as many, 1 to
    8, as make a batch whose tensors together take some hundreds of MB.
    """
    skipped: list[str] = []
    measures: dict[str, M] = {}
    batch = batch or max(1, min(BATCH, BATCH_PIXELS // spec.image_size**2))
    with ExitStack() as stack:
        sessions = [stack.enter_context(TensorSession(part)) for part in _in_order(graph)]
        pool = stack.enter_context(ThreadPoolExecutor(len(usable_cpus())))
        sizes = [batch if "image" in session.inputs else LARGE_BATCH for session in sessions]
        taken = {name for session in sessions for name in session.inputs}

        def measure(tensors: Mapping[str, npt.NDArray[Any]]) -> None:
            items = [measures.setdefault(name, make(name)) for name in tensors]
            for _ in pool.map(lambda item, values: item.update(values), items, tensors.values()):
                pass  # what one of them raised is raised here

        for tensors in read_batches(paths, spec, batch=max(sizes), on_skip=skipped.append):
            if inputs:
                measure({name: values for name, values in tensors.items() if name in taken})
            for rows, found in _outputs(sessions, tensors, sizes[0]):
                measure(found)
                if on_batch is not None and rows:
                    on_batch(rows)
    if len(skipped) == len(paths):
        reason = f"; the first: {skipped[0]}" if skipped else ""
        raise CalibrationError(
            f"expected images to calibrate on, found none that can be read of {len(paths)}{reason}. "
            "Name a folder of images with --calib DIR"
        )
    return measures, skipped


def _outputs(
    sessions: Sequence[TensorSession], tensors: Mapping[str, Float32], size: int
) -> Iterator[tuple[int, dict[str, npt.NDArray[Any]]]]:
    """Yield what the first session gives, ``size`` rows at a time, then what the others give, for all rows.

    With it comes the number of images that are done by it; the arrays are written over when the next are asked for.
    """
    first, *others = sessions
    passed = {name for session in others for name in session.inputs}
    kept: dict[str, list[npt.NDArray[Any]]] = {}
    for start in range(0, len(next(iter(tensors.values()))), size):
        part = {name: values[start : start + size] for name, values in tensors.items()}
        found = first.run_in_place(part)
        for name in passed.intersection(found):
            kept.setdefault(name, []).append(found[name].copy())
        yield len(next(iter(part.values()))), found
    joined = {name: np.concatenate(values) for name, values in kept.items()}
    for session in others:
        yield 0, session.run_in_place({**tensors, **joined})


def _in_order(graph: Graphs) -> Sequence[bytes]:
    return [graph] if isinstance(graph, bytes) else graph
