"""Finds and checks what to export before TensorFlow is imported, so that wrong arguments are answered at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.errors import RunError, UsageError
from ..train.data import LabelledImage, read_list
from ..train.run_folder import RunFolder
from .images import MINIMUM, ChosenImages, choose_images, folder_images, run_images
from .settings import ExportSettings

__all__ = ["ExportRequest", "make_request"]


@dataclass(frozen=True)
class ExportRequest:
    """A model file, the images to prove it on, and the folder of the bundle.

    ``calibration`` holds the candidates for calibration images; ``run`` and ``metrics`` are what the bundle's
    provenance says of where the model came from.
    """

    model: Path
    images: ChosenImages
    out: Path
    settings: ExportSettings = field(default_factory=ExportSettings)
    calibration: tuple[LabelledImage, ...] = ()
    run: str = ""
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """The folder of the report, beside the bundle."""
        return self.out.parent / f"{self.out.name}-report"


def make_request(
    model: Path | None = None,
    *,
    images: Path | None = None,
    out: Path | None = None,
    runs: Path = Path("runs"),
    gate_images: int | None = None,
    calib: Path | None = None,
    settings: ExportSettings | None = None,
) -> ExportRequest:
    """Find what to export.

    Args:
        model: a run folder or a ``.keras`` file; by default the newest run of ``runs``.
        images: a folder of images to check on; a run has its validation images, a file needs them named.
        out: the bundle's folder; by default ``bundle/`` in the run, or beside the file.
        runs: the folder of all runs.
        gate_images: how many images to run every variant on, at least 8; by default all.
        calib: a folder of images to calibrate on; by default the run's stratified sample of its training images.
        settings: the precisions and how they are made; by default FP32.

    Raises:
        RunError: there is no run, or one without a trained model.
        UsageError: there is no such file, a file came without ``images``, or fewer than 8 gate images were asked for.
        DataError: there are too few readable images.
    """
    settings = settings or ExportSettings()
    if gate_images is not None and gate_images < MINIMUM:
        raise UsageError(f"--gate-images: expected at least {MINIMUM}, found {gate_images}")
    if model is not None and not model.is_dir():
        return _file_request(model, images, out, gate_images, calib, settings)
    run = RunFolder.find(model, runs)
    if not run.model.is_file():
        raise RunError(f"{run.path}: expected a trained model.keras, found none; finish the training with --resume")
    candidates = folder_images(images) if images else run_images(run)
    return ExportRequest(
        run.model,
        choose_images(candidates, gate_images),
        out or run.bundle,
        settings,
        _calibration(settings, calib, run),
        run.name,
        _run_metrics(run),
    )


def _file_request(
    model: Path,
    images: Path | None,
    out: Path | None,
    gate_images: int | None,
    calib: Path | None,
    settings: ExportSettings,
) -> ExportRequest:
    if not model.is_file():
        raise UsageError(f"MODEL: expected a run folder or a .keras file, found nothing at {model}")
    if images is None:
        raise UsageError(
            f"{model}: a model file comes without images; name a folder of real ones to check it on: --images DIR"
        )
    chosen = choose_images(folder_images(images), gate_images)
    calibration = _calibration(settings, calib, None)
    return ExportRequest(model, chosen, out or model.parent / "bundle", settings, calibration)


def _calibration(settings: ExportSettings, calib: Path | None, run: RunFolder | None) -> tuple[LabelledImage, ...]:
    """List the candidates for calibration images; FP32 needs none."""
    if not settings.needs_calibration:
        return ()
    if calib is not None:
        return tuple(folder_images(calib, "--calib", prefer="train"))
    if run is None:
        raise UsageError(
            f"a model file comes without images, and {' and '.join(settings.precisions)} must be calibrated: name a "
            "folder of some hundreds of training images with --calib DIR"
        )
    return tuple(read_list(run.images("calibration")))


def _run_metrics(run: RunFolder) -> dict[str, float]:
    """Read the run's measured numbers; a run interrupted before its evaluation has none."""
    content = run.read_json(run.metrics) if run.metrics.exists() else {}
    return {name: float(value) for name, value in content.items() if type(value) in (int, float)}
