"""Which real images an export is checked on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import DataError, ImageError, UsageError
from ..runtime.preprocess import IMAGE_SUFFIXES, read_image
from ..train.data import LabelledImage, read_list
from ..train.folders import find_classes, find_roots
from ..train.run_folder import RunFolder

__all__ = ["MINIMUM", "ChosenImages", "choose_images", "folder_images", "run_images"]

MINIMUM = 8  # golden examples of a bundle, and the largest batch that parity compares


@dataclass(frozen=True)
class ChosenImages:
    """Readable images, one class after the other in turn, and the files that were passed over with the reasons."""

    images: tuple[LabelledImage, ...]
    skipped: tuple[str, ...] = ()


def run_images(run: RunFolder) -> list[LabelledImage]:
    """The validation images of a run, and after them its training images, for runs that validated on very few.

    Raises:
        DataError: the run has no list of validation images, or it is damaged.
    """
    validation = read_list(run.images("validation"))
    if len(validation) >= MINIMUM:
        return validation
    return validation + (read_list(run.images("train")) if run.images("train").exists() else [])


def folder_images(folder: Path) -> list[LabelledImage]:
    """The images of a folder: class folders, ``val/`` (else ``train/``) with class folders, or images as they lie.

    Images outside class folders have an empty label.

    Raises:
        UsageError: no such folder.
        DataError: no images in it.
    """
    if not folder.is_dir():
        raise UsageError(f"--images {folder}: expected a folder of class folders or of images, found no folder there")
    loose = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if loose:
        return [LabelledImage(path, "") for path in loose]
    train, validation = find_roots(folder)
    classes = find_classes(validation or train)
    return [LabelledImage(path, label) for label, paths in classes.items() for path in paths]


def choose_images(candidates: Sequence[LabelledImage], count: int) -> ChosenImages:
    """Take ``count`` readable images, or all where there are fewer, going round the classes in turn.

    Raises:
        DataError: fewer than 8 can be read.
    """
    images: list[LabelledImage] = []
    skipped: list[str] = []
    for candidate in _round_robin(candidates):
        if len(images) == count:
            break
        try:
            read_image(candidate.path)
        except ImageError as error:
            skipped.append(str(error))
        else:
            images.append(candidate)
    if len(images) < min(count, MINIMUM):
        reason = f"; the first that can't be read: {skipped[0]}" if skipped else ""
        raise DataError(
            f"expected at least {MINIMUM} readable images to check the export on, found {len(images)} of "
            f"{len(candidates)}{reason}. Name a folder of images with --images DIR"
        )
    return ChosenImages(tuple(images), tuple(skipped))


def _round_robin(images: Iterable[LabelledImage]) -> list[LabelledImage]:
    """First one image of each class, then another of each, and so on; classes in a fixed random order.

    Sorted by name, 32 images of 100 classes would be all of the alphabet's beginning.
    """
    classes: dict[str, list[LabelledImage]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    order = sorted(classes)
    order = [order[index] for index in np.random.default_rng(0).permutation(len(order))]
    turns = max((len(members) for members in classes.values()), default=0)
    return [classes[label][turn] for turn in range(turns) for label in order if turn < len(classes[label])]
