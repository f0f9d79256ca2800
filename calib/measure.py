"""The calibration from end to end: images and a graph -> statistics, from the file where they are the same."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..runtime.backends.onnxruntime import TensorSession
from ..runtime.digest import file_sha256
from ..runtime.errors import CalibrationError
from ..runtime.preprocess import contract_hash
from ..runtime.spec import ModelSpec
from ..runtime.terminal import progress, status
from .collect import collect, collect_peaks
from .images import BATCH, CalibrationImages, read_batches
from .ranges import Binding, Measured, images_hash, load_if_same, save
from .statistics import TensorStatistics

__all__ = ["ENOUGH", "Calibration", "batch_size", "calibrate", "calibration_bar", "measure", "measure_peaks"]

ENOUGH = 300  # the fewest images that the accuracy of INT8 was measured with
# of one batch: two images of 299x299. With every activation of Xception an output (226 MB an image) batches of 2, 4 and
# 8 took 0.38, 0.44 and 0.62 s an image and 1.5, 2.6 and 4.8 GB: memory that is mapped anew each time is slow
PIXELS = 2 * 299 * 299


@dataclass(frozen=True)
class Calibration:
    """Statistics of every tensor of a graph, and where they come from.

    Attributes:
        statistics: by tensor name.
        binding: what they were measured on.
        images: how many were measured.
        reused: they were in the file already.
        reason: a sentence for the report: what was reused, or why it was measured (again).
        skipped: images that could not be read, with the reasons.
        warnings: for the user.
    """

    statistics: dict[str, TensorStatistics]
    binding: Binding
    images: int
    reused: bool
    reason: str
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def calibrate(
    graph: Path | bytes,
    images: CalibrationImages,
    spec: ModelSpec,
    weights: str,
    path: Path,
    *,
    batch: int | None = None,
    threads: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Calibration:
    """The statistics of a graph's inputs and outputs: from ``path`` where they are the same, else measured and saved.

    Args:
        graph: ONNX file or its bytes; what is to be measured inside it is among its outputs.
        images: from ``choose_images``.
        spec: whose preprocessing.
        weights: SHA-256 of the Keras weights.
        path: the file that keeps them, ``ranges.npz``.
        batch: images a run, whose measured tensors are all in memory at once; by default 1 to 8 by the images' size.
        threads: of ONNX Runtime.
        on_batch: told after each batch how many images it had (see ``calibration_bar``).

    Raises:
        CalibrationError: no image can be read, or an activation is not finite.
        BackendError: ONNX Runtime refused the graph, or failed.
    """
    graph_hash = file_sha256(graph) if isinstance(graph, Path) else hashlib.sha256(graph).hexdigest()
    binding = Binding(weights, images_hash(images.sha256s), contract_hash(spec), graph_hash)
    measured, reason = load_if_same(path, binding)
    reused = measured is not None
    warnings: list[str] = []
    if measured is None:
        measured = measure(graph, images.paths, spec, batch=batch, threads=threads, on_batch=on_batch)
        try:
            save(path, measured, binding)
        except OSError as error:
            warnings.append(f"the ranges can't be saved ({error}): the next export measures them again")
    if measured.images < ENOUGH:
        warnings.append(
            f"calibrated on {measured.images} images: expected {ENOUGH} or more, with fewer the ranges depend on "
            "chance; name a folder with more images with --calib DIR"
        )
    return Calibration(measured.statistics, binding, measured.images, reused, reason, measured.skipped, tuple(warnings))


def measure(
    graph: Path | bytes,
    paths: tuple[Path, ...],
    spec: ModelSpec,
    *,
    batch: int | None = None,
    threads: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Measured:
    """Run a graph over images and measure its inputs and outputs; arguments and errors as in ``calibrate``."""
    skipped: list[str] = []
    batch = batch or batch_size(spec)
    with TensorSession(graph, threads=threads) as session:
        statistics = collect(session, read_batches(paths, spec, batch=batch, on_skip=skipped.append), on_batch=on_batch)
    if not statistics:
        reason = f"; the first: {skipped[0]}" if skipped else ""
        raise CalibrationError(
            f"expected images to calibrate on, found none that can be read of {len(paths)}{reason}. "
            "Name a folder of images with --calib DIR"
        )
    return Measured(statistics, len(paths) - len(skipped), tuple(skipped))


def measure_peaks(
    graph: Path | bytes,
    paths: tuple[Path, ...],
    spec: ModelSpec,
    *,
    batch: int | None = None,
    threads: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """The largest |activation| of each of a graph's outputs over images; arguments and errors as in ``calibrate``."""
    with TensorSession(graph, threads=threads) as session:
        batches = read_batches(paths, spec, batch=batch or batch_size(spec), on_skip=lambda _: None)
        return collect_peaks(session, batches, on_batch=on_batch)


def batch_size(spec: ModelSpec) -> int:
    """Images a run, so that all measured tensors of one batch take some hundreds of MB."""
    return max(1, min(BATCH, PIXELS // spec.image_size**2))


@contextlib.contextmanager
def calibration_bar(images: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr, gone when it ends; gives what ``on_batch`` is to be."""
    bar = progress(unit="images", transient=True)
    bar.disable = not status.is_terminal  # rich would leave an empty line in a log
    with bar:
        task = bar.add_task("calibration", total=images)
        yield lambda count: bar.advance(task, count)
