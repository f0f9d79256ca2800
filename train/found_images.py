"""The images of a data set are found with their classes, by folders or by a table, before any of them is read."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..runtime.errors import DataError
from ..runtime.sources.media_files import describe_left_out
from .class_folders import Classes, find_classes
from .label_file import read_label_file
from .splits import explain_parts, find_splits, refuse_splits_inside


@dataclass(frozen=True)
class FoundImages:
    """The images of a data set by class, as they lie; where there are none to validate on, these are to be split off.

    ``train_place`` and ``validation_place`` are the folders or tables that have them; ``notes`` are whole sentences for
    the user about how the data set was understood, and ``left_out`` counts by suffix the files that are no images.
    """

    train: Classes
    validation: Classes
    train_place: Path
    validation_place: Path
    notes: tuple[str, ...]
    left_out: Counter[str]


def find_images(data: Path, val: Path | None = None, labels: Path | None = None) -> FoundImages:
    """Find the images of a data set; ``splits`` tells how folders may be laid out, and ``label_file`` what a table is.

    ``labels`` is the table of the images in ``data``, where their folders are no classes. ``val`` is where the
    validation images lie, if apart: class folders, or a table.

    Raises:
        DataError: there is no such folder or table, what is there could mean two things, there are no class folders,
            one class, an empty class, or a class to validate on that is not trained on.
    """
    if val is not None and not val.exists():
        raise DataError(f"--val {val}: expected class folders or a CSV of images and classes, found nothing there")
    table = val is not None and val.is_file()
    found = _from_table(data, labels, alone=not table) if labels is not None else _from_folders(data)
    if val is not None:
        if found.validation:
            remedy = "leave out --val, or the table's rows of that split"
            if labels is None:
                alone = shlex.join(["hybrid-train", str(found.train_place), "--val", str(val)])
                remedy = f"name the training images alone: {alone}"
            raise DataError(
                f"{data}: expected training images alone beside --val, found {found.validation_place} too; {remedy}"
            )
        apart = _from_table(data, val, alone=False) if table else _from_folders(val)
        if not (apart.validation or apart.train):
            raise DataError(f"{val}: expected images to validate on, found rows of the test split alone")
        found = replace(
            found,
            validation=apart.validation or apart.train,
            validation_place=apart.validation_place,
            notes=(*found.notes, *apart.notes),
            left_out=found.left_out + (Counter() if table else apart.left_out),
        )
    _refuse_classes(found)
    return found


def _from_folders(data: Path) -> FoundImages:
    folders, left_out = find_splits(data), Counter[str]()
    refuse_splits_inside(folders.train)
    notes = (*folders.notes, *explain_parts(folders.train))
    train = find_classes(folders.train, left_out)
    validation = find_classes(folders.validation, left_out) if folders.validation else {}
    return FoundImages(train, validation, folders.train, folders.validation or folders.train, notes, left_out)


def _from_table(data: Path, table: Path, *, alone: bool) -> FoundImages:
    left_out = Counter[str]()
    splits, note = read_label_file(table, data, left_out, alone=alone)
    train, validation = splits.get("train", {}), splits.get("validation", {})
    return FoundImages(train, validation, table, table, (note,) if note else (), +left_out)


def _refuse_classes(found: FoundImages) -> None:
    if len(found.train) < 2:
        classes = f"one: {next(iter(found.train))!r}" if found.train else "none to train on"
        besides = describe_left_out(found.left_out)
        raise DataError(
            f"{found.train_place}: expected two classes or more, found {classes}{besides and f' ({besides})'}"
        )
    foreign = [label for label in found.validation if label not in found.train]
    if foreign == ["images"]:
        raise DataError(
            f"{found.validation_place}/images is no class of {found.train_place}: this looks like tiny-imagenet as it "
            "is published; make class folders of it first: hybrid-prepare tiny-imagenet SRC DST"
        )
    if foreign:
        alike = {label.strip().casefold(): label for label in found.train}
        near = [alike[folded] for label in foreign if (folded := label.strip().casefold()) in alike]
        spelled = f" (but has {quoted(near)}: spell them alike)" if near else ""
        raise DataError(
            f"{found.validation_place.parent}: {found.validation_place.name}/ has classes that "
            f"{found.train_place.name}/ lacks: {quoted(foreign)}{spelled}; a model can't learn them: add them to the "
            "training images or remove them from the validation images"
        )


def quoted(labels: Sequence[str], most: int = 5) -> str:
    """Return labels in quotes for a message, at most so many."""
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(map(repr, labels[:most])) + more
