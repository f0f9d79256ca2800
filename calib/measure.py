"""Calibrates from end to end: runs a graph over images and measures it, or reuses the file of an earlier run."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..runtime.backends.onnxruntime import TensorSession
from ..runtime.console import progress, status
from ..runtime.errors import CalibrationError
from ..runtime.preprocess import contract_hash
from ..runtime.spec import ModelSpec
from ..runtime.storage import file_sha256
from .collect import collect, collect_peaks
from .images import BATCH, CalibrationImages, read_batches
from .ranges import Binding, Measured, images_hash, load_if_same, save
from .statistics import TensorStatistics

__all__ = ["ENOUGH", "Calibration", "batch_size", "calibrate", "calibration_bar", "measure", "measure_peaks"]

ENOUGH = 300  # the fewest images that the accuracy of INT8 was measured with
# the pixels of one batch: two images of 299x299. With every activation of Xception an output (226 MB an image),
# batches of 2, 4 and 8 took 0.38, 0.44 and 0.62 s an image and 1.5, 2.6 and 4.8 GB: memory that is mapped anew each
# time is slow
PIXELS = 2 * 299 * 299


@dataclass(frozen=True)
class Calibration:
    """Statistics of every tensor of a graph, and where they come from.

    Attributes:
        statistics: the statistics by the tensor's name.
        binding: what the statistics were measured on.
        images: how many images were measured.
        reused: whether the statistics were in the file already.
        reason: a sentence for the report: what was reused, or why it was measured (again).
        skipped: images that could not be read, with the reasons.
        warnings: sentences for the user.
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
    """Read the statistics of a graph's inputs and outputs from ``path`` if they still hold, else measure and save them.

    Args:
        graph: an ONNX file or its bytes, whose outputs include every tensor to be measured.
        images: the images that ``choose_images`` chose.
        spec: says how the images are preprocessed.
        weights: the SHA-256 of the Keras weights.
        path: the file that keeps the statistics, ``ranges.npz``.
        batch: the number of images in each run, whose measured tensors are all in memory at once; by default 1 to 8,
            by the images' size.
        threads: how many threads ONNX Runtime may use.
        on_batch: called after each batch with its number of images (see ``calibration_bar``).

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
    """Run a graph over images and measure its inputs and outputs; arguments and errors are those of ``calibrate``."""
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
    """Return the largest |value| of each output of a graph over images; arguments and errors are ``calibrate``'s."""
    with TensorSession(graph, threads=threads) as session:
        batches = read_batches(paths, spec, batch=batch or batch_size(spec), on_skip=lambda _: None)
        return collect_peaks(session, batches, on_batch=on_batch)


def batch_size(spec: ModelSpec) -> int:
    """Return how many images make a batch whose measured tensors together take some hundreds of MB: 1 to 8."""
    return max(1, min(BATCH, PIXELS // spec.image_size**2))


@contextlib.contextmanager
def calibration_bar(images: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on stderr while the block runs; the block gets the function to pass as ``on_batch``."""
    bar = progress(unit="images", transient=True)
    bar.disable = not status.is_terminal  # where stderr is no terminal, rich would leave an empty line in the log
    with bar:
        task = bar.add_task("calibration", total=images)
        yield lambda count: bar.advance(task, count)
