"""Finds and checks what to export before TensorFlow is imported, so that wrong arguments are answered at once.

A request holds the model's file, the images to prove it on, the images to calibrate on, and the export's settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np

from ..calib import METHODS, Method
from ..runtime.console import say
from ..runtime.engines.engine_options import EngineOptions
from ..runtime.errors import DataError, ImageError, RunError, UsageError
from ..runtime.frame import Pixels
from ..runtime.manifest import Precision
from ..runtime.preprocess import read_image
from ..runtime.sources.media_files import describe_left_out, is_wanted
from ..train.class_folders import find_classes, list_folder
from ..train.data import LabelledImage, read_list
from ..train.run_folder import RunFolder
from ..train.splits import find_splits, holds_images
from .adopt.adoption import Adoption, Statement, is_foreign, look_into
from .artifacts import PRECISIONS, UNCALIBRATED, Recurrent

MIN_IMAGES = 8  # a bundle has so many golden examples, and a gate's largest batch so many images
MAX_SUBSTITUTES = 32  # images in all, if a run validated on too few: thousands of training images prove no more


@dataclass(frozen=True)
class ChosenImages:
    """The images to prove an export on, the classes taking turns, and the reason for each that was passed over.

    The first 8 could be read; as there may be thousands, the others are read only when they are run, and passed over
    then.
    """

    images: tuple[LabelledImage, ...]
    skipped: tuple[str, ...] = ()


def run_images(run: RunFolder, most: int = MAX_SUBSTITUTES) -> list[LabelledImage]:
    """List a run's validation images, and where these are fewer than 8, training images after them, ``most`` in all."""
    validation = read_list(run.images("validation"))
    if len(validation) >= MIN_IMAGES:
        return validation
    train = read_list(run.images("train")) if run.images("train").exists() else []
    lent = _round_robin(train)[: most - len(validation)]
    if lent:
        say(
            f"warning: the run validated on {len(validation)} images, so {len(lent)} that it was trained on check the "
            "export too: that shows whether variants agree with Keras, and nothing of their accuracy",
            "yellow",
        )
    return validation + lent


def folder_images(folder: Path, option: str = "--images", *, prefer: str = "val") -> list[LabelledImage]:
    """List the images of a folder: of class folders, of a data set's ``val/`` or ``train/``, or directly in it.

    Images outside class folders have an empty label. ``prefer`` is the part of a data set to take: ``val`` (``train``
    where there is none), or ``train``. Messages say that ``option`` named the folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{option} {folder}: expected a folder of class folders or of images, found no folder there")
    left_out = Counter[str]()
    folders, files = list_folder(folder)
    loose = sorted(path for path in files if is_wanted(path, left_out, videos=False))
    if loose and sum(map(holds_images, folders)) < 2:
        classes = {"": loose}
    else:  # which counts the files anew, and images beside class folders as left out
        left_out.clear()
        splits = find_splits(folder)
        classes = find_classes(splits.train if prefer == "train" else splits.validation or splits.train, left_out)
    if described := describe_left_out(left_out):
        say(f"{option} {folder}: {described}")
    return [LabelledImage(path, label) for label, paths in classes.items() for path in paths]


def choose_images(candidates: Sequence[LabelledImage], count: int | None = None) -> ChosenImages:
    """Take ``count`` images, or all where there are fewer or it is None, going round the classes in turn.

    Where fewer than 8 images can be read it raises DataError.
    """
    skipped: list[str] = []
    others = iter(_round_robin(candidates))
    images = [image for image, _ in islice(readable(others, skipped), MIN_IMAGES)]
    if len(images) < MIN_IMAGES:
        reason = f"; the first that can't be read: {skipped[0]}" if skipped else ""
        raise DataError(
            f"expected at least {MIN_IMAGES} readable images to check the export on, found {len(images)} of "
            f"{len(candidates)}{reason}. Name a folder of images with --images DIR"
        )
    return ChosenImages((*images, *others)[:count], tuple(skipped))


def readable(images: Iterable[LabelledImage], skipped: list[str]) -> Iterator[tuple[LabelledImage, Pixels]]:
    """Read images one by one; the reason for each that can't be read is added to ``skipped``."""
    for image in images:
        try:
            frame = read_image(image.path)
        except ImageError as error:  # noqa: PERF203  # beside reading the file it costs nothing
            skipped.append(str(error))
        else:
            yield image, frame


def _round_robin(images: Iterable[LabelledImage]) -> list[LabelledImage]:
    """Order images so that each class gives one, then another, and so on, the classes in a fixed random order.

    With the classes sorted by name, 300 images of 100 classes would be all of the alphabet's beginning.
    """
    classes: dict[str, list[LabelledImage]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    order = sorted(classes)
    order = [order[index] for index in np.random.default_rng(0).permutation(len(order))]
    turns = max((len(members) for members in classes.values()), default=0)
    return [classes[label][turn] for turn in range(turns) for label in order if turn < len(classes[label])]


@dataclass(frozen=True)
class ExportSettings:
    """The precisions to export, and how they are made and judged.

    ``method`` says how INT8's ranges follow from what was measured; ``max_drop`` is the accuracy that INT8 may lose, 0
    to 1; with ``give_back``, INT8 that fails gives its most sensitive layers back to the next wider precision.

    Raises:
        UsageError: a value is not one of those allowed.
    """

    precisions: tuple[Precision, ...] = ("fp32",)
    recurrent: Recurrent = "auto"
    method: Method = "percentile"
    max_drop: float = 0.005
    give_back: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        _require("--recurrent", self.recurrent, get_args(Recurrent))
        _require("--method", self.method, METHODS)
        if not 0 <= self.max_drop <= 1:
            raise UsageError(f"--max-drop: expected points of accuracy from 0 to 100, found {100 * self.max_drop:g}")

    @property
    def needs_calibration(self) -> bool:
        """Whether images are needed to calibrate on: FP16 needs the largest activations, INT8 the ranges."""
        return not set(self.precisions) <= set(UNCALIBRATED)


def choose_precisions(asked: Collection[Precision]) -> tuple[Precision, ...]:
    """Return the precisions that were asked for, the widest first; FP32 where none was."""
    return tuple(name for name in PRECISIONS if name in asked) or ("fp32",)


def _require(option: str, found: str, expected: Iterable[str]) -> None:
    if found not in expected:
        raise UsageError(f"{option}: expected {', '.join(expected)}, found {found!r}")


@dataclass(frozen=True)
class ExportRequest:
    """A model file, the images to prove it on, and the folder of the bundle.

    ``calibration`` holds the candidates for calibration images; ``run`` and ``metrics`` are what the bundle's
    provenance says of where the model came from; ``adoption`` is what is said of a model that somebody else trained.
    """

    model: Path
    images: ChosenImages
    out: Path
    settings: ExportSettings = field(default_factory=ExportSettings)
    calibration: tuple[LabelledImage, ...] = ()
    run: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    adoption: Adoption | None = None

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
    stated: Statement | None = None,
) -> ExportRequest:
    """Find what to export.

    Args:
        model: a run folder, a ``.keras`` file, or a model that somebody else trained (``.keras``, ``.h5``, or the
            folder of a SavedModel); by default the newest run of ``runs``.
        images: a folder of images to check on; a run has its validation images, a file needs them named.
        out: the bundle's folder; by default ``bundle/`` in the run, or beside the file.
        runs: the folder of all runs.
        gate_images: how many images to run every variant on, at least 8; by default all.
        calib: a folder of images to calibrate on; by default the run's stratified sample of its training images.
        settings: the precisions and how they are made; by default FP32.
        stated: what is known of a model that somebody else trained.

    Raises:
        ModelFileError: somebody else's model file is not one that can be adopted.
        RunError: there is no run, or one without a trained model.
        UsageError: there is no such file, a file came without ``images``, or fewer than 8 gate images were asked for.
        DataError: there are too few readable images.
    """
    settings = settings or ExportSettings()
    if gate_images is not None and gate_images < MIN_IMAGES:
        raise UsageError(f"--gate-images: expected at least {MIN_IMAGES}, found {gate_images}")
    if model is not None and is_foreign(model):
        return _adopted_request(model, stated or Statement(), images, out, gate_images, calib, settings)
    if stated is not None and stated != Statement():
        raise UsageError(
            f"{', '.join(stated.options)}: expected a model that somebody else trained, found one of hybrid-train, "
            "which knows its labels and its preprocessing: leave these options out"
        )
    if model is not None and not model.is_dir():
        return _file_request(model, images, out, gate_images, calib, settings)
    run = RunFolder.find(model, runs)
    if not run.model.is_file():
        raise RunError(f"{run.path}: expected a trained model.keras, found none; finish the training with --resume")
    # what checks an export is not calibrated on: of a small set no more is taken than a check needs
    most = MIN_IMAGES if settings.needs_calibration and calib is None else MAX_SUBSTITUTES
    candidates = folder_images(images) if images else run_images(run, most)
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
    chosen = choose_images(folder_images(_named_images(model, images)), gate_images)
    calibration = _calibration(settings, calib, None)
    return ExportRequest(model, chosen, out or model.parent / "bundle", settings, calibration)


def _adopted_request(
    model: Path,
    stated: Statement,
    images: Path | None,
    out: Path | None,
    gate_images: int | None,
    calib: Path | None,
    settings: ExportSettings,
) -> ExportRequest:
    """Make the request for somebody else's model; without ``calib`` its images are shared between gate and calibration.

    Of a data set with splits those to validate on check it, and those to train on calibrate it.
    """
    found = look_into(model)
    images = _named_images(model, images)
    candidates = folder_images(images)
    if len(candidates) >= 2 * MIN_IMAGES and calib is None and settings.needs_calibration:
        gate_images = min(gate_images or len(candidates), max(len(candidates) // 2, MIN_IMAGES))
    chosen = choose_images(candidates, gate_images)
    calibration: tuple[LabelledImage, ...] = ()
    if settings.needs_calibration:
        named = ("--images", images) if calib is None else ("--calib", calib)
        calibration = tuple(folder_images(named[1], named[0], prefer="train"))
    adoption = stated.of(found, {image.label for image in candidates})
    where = model.parent / f"{model.stem}-bundle"
    return ExportRequest(model, chosen, out or where, settings, calibration, adoption=adoption)


def _named_images(model: Path, images: Path | None) -> Path:
    if images is None:
        raise UsageError(
            f"{model}: a model file comes without images; name a folder of real ones to check it on, in folders named "
            "by label where their classes are known: --images DIR"
        )
    return images


def _calibration(settings: ExportSettings, calib: Path | None, run: RunFolder | None) -> tuple[LabelledImage, ...]:
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
    """Read the run's measured numbers; an interrupted run has none."""
    content = run.read_json(run.metrics) if run.metrics.exists() else {}
    return {name: float(value) for name, value in content.items() if type(value) in (int, float)}
