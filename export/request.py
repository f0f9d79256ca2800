"""What to export, found and checked before TensorFlow is imported: wrong arguments are answered at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.errors import RunError, UsageError
from ..train.run_folder import RunFolder
from .images import ChosenImages, choose_images, folder_images, run_images

__all__ = ["PARITY_IMAGES", "ExportRequest", "make_request"]

PARITY_IMAGES = 32


@dataclass(frozen=True)
class ExportRequest:
    """A model file, the images to check it on, and the folder of the bundle.

    ``run`` and ``metrics`` are what the bundle's provenance says of where the model came from.
    """

    model: Path
    images: ChosenImages
    out: Path
    run: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


def make_request(
    model: Path | None = None,
    *,
    images: Path | None = None,
    out: Path | None = None,
    runs: Path = Path("runs"),
    parity_images: int = PARITY_IMAGES,
) -> ExportRequest:
    """Find what to export.

    Args:
        model: a run folder or a ``.keras`` file; by default the newest run of ``runs``.
        images: a folder of images to check on; a run has its validation images, a file needs them named.
        out: the bundle's folder; by default ``bundle/`` in the run, or beside the file.
        runs: the folder of all runs.
        parity_images: how many images to check on, at least 8.

    Raises:
        RunError: no run there, or one without a trained model.
        UsageError: no such file, a file without ``images``, or fewer than 8 parity images.
        DataError: too few readable images.
    """
    if parity_images < 8:
        raise UsageError(f"--parity-images: expected at least 8, found {parity_images}")
    if model is not None and not model.is_dir():
        return _file_request(model, images, out, parity_images)
    run = RunFolder.find(model, runs)
    if not run.model.is_file():
        raise RunError(f"{run.path}: expected a trained model.keras, found none; finish the training with --resume")
    candidates = folder_images(images) if images else run_images(run)
    return ExportRequest(
        run.model, choose_images(candidates, parity_images), out or run.bundle, run.name, _run_metrics(run)
    )


def _file_request(model: Path, images: Path | None, out: Path | None, parity_images: int) -> ExportRequest:
    if not model.is_file():
        raise UsageError(f"MODEL: expected a run folder or a .keras file, found nothing at {model}")
    if images is None:
        raise UsageError(
            f"{model}: a model file comes without images; name a folder of real ones to check it on: --images DIR"
        )
    chosen = choose_images(folder_images(images), parity_images)
    return ExportRequest(model, chosen, out or model.parent / "bundle")


def _run_metrics(run: RunFolder) -> dict[str, float]:
    """The run's measured numbers; a run interrupted before its evaluation has none."""
    content = run.read_json(run.metrics) if run.metrics.exists() else {}
    return {name: float(value) for name, value in content.items() if type(value) in (int, float)}
