"""Data sets are found, checked and split before any training starts.

Only paths and labels are kept, so memory does not grow with the images.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..runtime.errors import DataError, UsageError
from ..runtime.storage import write_bytes
from .checked_images import ImageFacts, check_images
from .class_folders import Classes
from .found_images import find_images, quoted
from .training_settings import TrainSettings

ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
UNESCAPES = {r"\\": "\\", r"\t": "\t", r"\n": "\n", r"\r": "\r"}


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image file and the class that it belongs to."""

    path: Path
    label: str


@dataclass(frozen=True)
class DataSet:
    """A data set fit to train on: at least two classes, at least one image of each in ``train``.

    ``labels`` are sorted; both lists of images are in the order of label and name, unshuffled, and ``facts`` has what
    was seen of each. ``skipped`` says why an image was left out, ``left_out`` counts by suffix the files that are no
    images; ``notes`` are whole sentences for the user about how the data set was understood, ``warnings`` about what is
    unusual and still trainable.
    """

    labels: tuple[str, ...]
    train: tuple[LabelledImage, ...]
    validation: tuple[LabelledImage, ...]
    skipped: dict[Path, str]
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    facts: dict[Path, ImageFacts] = field(default_factory=dict)

    @property
    def images(self) -> tuple[LabelledImage, ...]:
        """All images, those to train on first."""
        return self.train + self.validation


def scan(
    data: Path, *, val: Path | None = None, labels: Path | None = None, val_fraction: float = 0.2, seed: int = 0
) -> DataSet:
    """Find the images of a data set as ``find_images`` does, and split them where there are none to validate on.

    Every image is read once, and those that can't be read in full are left out. What was read is remembered in the
    cache, so that the next start on the same files is quick.

    The split is stratified: every class of two images or more has at least one on each side, and ``val_fraction``, in
    (0, 1), goes to validation. It depends on the seed and the files' names alone, class by class, so a new class leaves
    the split of the others as it was.

    Raises:
        UsageError: ``val_fraction`` is out of range.
        DataError: ``find_images`` raised it, no image of a class can be read, or there is nothing to validate on.
    """
    if not 0 < val_fraction < 1:
        raise UsageError(f"the validation fraction must lie between 0 and 1, found {val_fraction}")
    found = find_images(data, val, labels)
    facts, skipped = check_images(
        [path for classes in (found.train, found.validation) for paths in classes.values() for path in paths], data
    )
    train = _readable_classes(found.train, skipped, found.train_place)
    validation = _readable_classes(found.validation, skipped, found.validation_place)
    if not validation:
        train, validation = _split(train, val_fraction, seed)
    if not validation:
        raise DataError(f"{data}: nothing to validate on: each of the {len(train)} classes has one image; add images")
    missing = [label for label in train if label not in validation]
    unvalidated = f"no validation image of: {quoted(missing)}; such classes are trained on and not validated"
    return DataSet(
        labels=tuple(train),
        train=_flatten(train),
        validation=_flatten(validation),
        skipped=skipped,
        warnings=(unvalidated,) if missing else (),
        notes=found.notes,
        left_out=found.left_out,
        facts=facts,
    )


def scan_for(settings: TrainSettings) -> DataSet:
    """Find, check and split the data set of a training, as ``scan`` does."""
    val, labels = (Path(place) if place else None for place in (settings.val, settings.labels))
    return scan(Path(settings.data), val=val, labels=labels, val_fraction=settings.val_fraction, seed=settings.seed)


def balanced_weights(train: Sequence[LabelledImage]) -> dict[str, float]:
    """Return what an image of each class counts in the loss where all classes are to count alike: n / (k * n_class).

    Of n images in k classes; the mean over the images is 1 (as scikit-learn's ``class_weight="balanced"``).
    """
    counts = Counter(image.label for image in train)
    return {label: len(train) / (len(counts) * count) for label, count in sorted(counts.items())}


def calibration_sample(train: Sequence[LabelledImage], n: int = 500, seed: int = 0) -> tuple[LabelledImage, ...]:
    """Draw a stratified random sample of at most ``n`` training images.

    The sample is ordered so that a beginning of any length is stratified too: first one image of each class, then the
    classes in proportion to their sizes.
    """
    by_class: dict[str, list[LabelledImage]] = {}
    for image in train:
        by_class.setdefault(image.label, []).append(image)
    ranked: list[tuple[float, float, LabelledImage]] = []
    for label, images in sorted(by_class.items()):
        random = _random(seed, label)
        tie = float(random.random())
        ranked += [(rank / len(images), tie, images[i]) for rank, i in enumerate(random.permutation(len(images)))]
    ranked.sort(key=lambda item: item[:2])
    return tuple(image for _, _, image in ranked[: max(n, 0)])


def write_list(path: Path, images: Iterable[LabelledImage]) -> None:
    r"""Write a list of images, which ``read_list`` gives back; the file is replaced as a whole.

    One image a line, ``label<TAB>absolute path``, UTF-8. Paths are made absolute; links in them are kept. Tab,
    line breaks and backslash in a name are written ``\t``, ``\n``, ``\r``, ``\\``; a name that is not UTF-8 keeps
    its bytes.
    """
    lines = (f"{i.label.translate(ESCAPES)}\t{os.path.abspath(i.path).translate(ESCAPES)}\n" for i in images)  # noqa: PTH100  links stay
    write_bytes(path, "".join(lines).encode(errors="surrogateescape"))


def read_list(path: Path) -> list[LabelledImage]:
    """Read a list that ``write_list`` wrote, without looking whether the images are still there.

    Raises:
        DataError: there is no such file, or a line is not a label, a tab and an absolute path.
    """
    try:
        text = path.read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}; expected a list of images") from None
    labels: dict[str, str] = {}  # one string for each label, however many images
    images = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        label, tab, image = line.partition("\t")
        if not tab or not label or not image.startswith("/") or "\t" in image:
            raise DataError(f"{path}, line {number}: expected label, tab, absolute path; found {line[:80]!r}")
        label = _unescape(label)
        images.append(LabelledImage(Path(_unescape(image)), labels.setdefault(label, label)))
    if not text.endswith("\n") and text:
        raise DataError(f"{path}: the last line is cut off: found {text.rpartition(chr(10))[2][:80]!r}")
    return images


def _readable_classes(classes: Classes, skipped: dict[Path, str], root: Path) -> Classes:
    kept: Classes = {}
    for label, paths in classes.items():
        kept[label] = [path for path in paths if path not in skipped]
        if not kept[label]:
            raise DataError(
                f"class {label!r}: none of its {len(paths)} images in {root} can be read "
                f"(the first, {paths[0].name}: {skipped[paths[0]]}); replace them or remove the folder"
            )
    return kept


def _split(classes: Classes, val_fraction: float, seed: int) -> tuple[Classes, Classes]:
    train: Classes = {}
    val: Classes = {}
    for label, paths in classes.items():
        held_out = min(max(round(len(paths) * val_fraction), 1), len(paths) - 1)
        chosen = set(_random(seed, label).permutation(len(paths))[:held_out].tolist())
        train[label] = [path for i, path in enumerate(paths) if i not in chosen]
        if chosen:
            val[label] = [path for i, path in enumerate(paths) if i in chosen]
    return train, val


def _random(seed: int, label: str) -> np.random.Generator:
    """Make a generator for one class that does not depend on the other classes."""
    return np.random.default_rng([seed, zlib.crc32(label.encode(errors="surrogateescape"))])


def _flatten(classes: Classes) -> tuple[LabelledImage, ...]:
    return tuple(LabelledImage(path, label) for label, paths in classes.items() for path in paths)


def _unescape(text: str) -> str:
    return re.sub(r"\\[\\tnr]", lambda match: UNESCAPES[match.group()], text)
