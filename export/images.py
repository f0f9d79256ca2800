"""Which real images an export is proven on."""

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

MINIMUM = 8  # golden examples of a bundle, and the largest batch that a gate compares
SUBSTITUTE = 32  # images in all where a run validated on fewer than these: thousands of training images prove no more


@dataclass(frozen=True)
class ChosenImages:
    """Images, one class after the other in turn, the first 8 of them readable; and those passed over, with the reasons.

    The others are read when they are run, and passed over then: there may be thousands.
    """

    images: tuple[LabelledImage, ...]
    skipped: tuple[str, ...] = ()


def run_images(run: RunFolder) -> list[LabelledImage]:
    """The validation images of a run, and after them some of its training images where it validated on fewer than 8.

    Raises:
        DataError: the run has no list of validation images, or it is damaged.
    """
    validation = read_list(run.images("validation"))
    if len(validation) >= MINIMUM:
        return validation
    train = read_list(run.images("train")) if run.images("train").exists() else []
    return validation + _round_robin(train)[: SUBSTITUTE - len(validation)]


def folder_images(folder: Path, option: str = "--images", *, prefer: str = "val") -> list[LabelledImage]:
    """The images of a folder: class folders, a data set's ``val/`` or ``train/``, or images as they lie.

    Images outside class folders have an empty label.

    Args:
        folder: where they are.
        option: that named the folder, for messages.
        prefer: which part of a data set: ``val`` (else ``train``), or ``train``.

    Raises:
        UsageError: no such folder.
        DataError: no images in it.
    """
    if not folder.is_dir():
        raise UsageError(f"{option} {folder}: expected a folder of class folders or of images, found no folder there")
    loose = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if loose:
        return [LabelledImage(path, "") for path in loose]
    train, validation = find_roots(folder)
    classes = find_classes(train if prefer == "train" else validation or train)
    return [LabelledImage(path, label) for label, paths in classes.items() for path in paths]


def choose_images(candidates: Sequence[LabelledImage], count: int | None = None) -> ChosenImages:
    """Take ``count`` images, or all where there are fewer or it is None, going round the classes in turn.

    Raises:
        DataError: fewer than 8 can be read.
    """
    images: list[LabelledImage] = []
    skipped: list[str] = []
    others = iter(_round_robin(candidates))
    for candidate in others:
        fault = _fault(candidate)
        if fault:
            skipped.append(fault)
        else:
            images.append(candidate)
        if len(images) == MINIMUM:
            break
    if len(images) < MINIMUM:
        reason = f"; the first that can't be read: {skipped[0]}" if skipped else ""
        raise DataError(
            f"expected at least {MINIMUM} readable images to check the export on, found {len(images)} of "
            f"{len(candidates)}{reason}. Name a folder of images with --images DIR"
        )
    return ChosenImages((*images, *others)[:count], tuple(skipped))


def _fault(image: LabelledImage) -> str | None:
    try:
        read_image(image.path)
    except ImageError as error:
        return str(error)
    return None


def _round_robin(images: Iterable[LabelledImage]) -> list[LabelledImage]:
    """First one image of each class, then another of each, and so on; classes in a fixed random order.

    Sorted by name, 300 images of 100 classes would be all of the alphabet's beginning.
    """
    classes: dict[str, list[LabelledImage]] = {}
    for image in images:
        classes.setdefault(image.label, []).append(image)
    order = sorted(classes)
    order = [order[index] for index in np.random.default_rng(0).permutation(len(order))]
    turns = max((len(members) for members in classes.values()), default=0)
    return [classes[label][turn] for turn in range(turns) for label in order if turn < len(classes[label])]
