"""Finds the real images that an export is proven on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime.errors import DataError, ImageError, UsageError
from ..runtime.preprocess import IMAGE_SUFFIXES, read_image
from ..train.class_folders import find_classes, find_roots
from ..train.data import LabelledImage, read_list
from ..train.run_folder import RunFolder

__all__ = ["MINIMUM", "ChosenImages", "choose_images", "folder_images", "run_images"]

MINIMUM = 8  # a bundle has so many golden examples, and a gate's largest batch so many images
SUBSTITUTE = 32  # images in all, if a run validated on fewer than MINIMUM: thousands of training images prove no more


@dataclass(frozen=True)
class ChosenImages:
    """The images to prove an export on, and the reasons for those passed over.

    Attributes:
        images: the images, the classes taking turns. The first 8 could be read; as there may be thousands, the others
            are read only when they are run, and passed over then.
        skipped: the reason for each image that was passed over.
    """

    images: tuple[LabelledImage, ...]
    skipped: tuple[str, ...] = ()


def run_images(run: RunFolder) -> list[LabelledImage]:
    """List a run's validation images, and where these are fewer than 8, some of its training images after them.

    Raises:
        DataError: the run has no list of validation images, or it is damaged.
    """
    validation = read_list(run.images("validation"))
    if len(validation) >= MINIMUM:
        return validation
    train = read_list(run.images("train")) if run.images("train").exists() else []
    return validation + _round_robin(train)[: SUBSTITUTE - len(validation)]


def folder_images(folder: Path, option: str = "--images", *, prefer: str = "val") -> list[LabelledImage]:
    """List the images of a folder: of class folders, of a data set's ``val/`` or ``train/``, or directly in it.

    Images outside class folders have an empty label.

    Args:
        folder: the folder of the images.
        option: the command's option that named the folder, for messages.
        prefer: which part of a data set to take: ``val`` (``train`` where there is none), or ``train``.

    Raises:
        UsageError: there is no such folder.
        DataError: the folder has no images.
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
        DataError: fewer than 8 images can be read.
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
