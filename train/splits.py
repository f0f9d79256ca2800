"""The splits of a data set are found by the usual names of their folders; what could mean two things is refused.

    DATA/train/CLASS/*  DATA/val/CLASS/*  DATA/test/CLASS/*     in any usual spelling; test/ is never trained on
    DATA/train/CLASS/*                                          validation is split off later
    DATA/CLASS/*                                                so here

A folder called ``train`` that holds images directly, among other class folders, is a class. ``DATA/data/train`` and the
like are entered, where DATA holds nothing else with images.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..runtime.errors import DataError
from ..runtime.sources.media_files import find_media, media_kind
from .class_folders import list_folder

Role = Literal["train", "validation", "test"]

SPELLINGS: dict[Role, str] = {
    "train": "train(?:ing)?",
    "validation": "val(?:id(?:ation|ate)?)?|dev(?:elopment)?|eval(?:uation)?",
    "test": "test(?:ing)?",
}
SHORT_NAMES: dict[str, Role] = {"tr": "train", "trn": "train", "vld": "validation", "te": "test", "tst": "test"}
NOUNS = "(?:data)?set|split|data|dir|images?|imgs?|folder"
CONTAINER = re.compile(f"(?:{NOUNS})s?")
PART = re.compile(r"(?:fold|split|part|batch|chunk|shard)[ _.-]*\d+")  # of a data set that was cut into pieces
MAX_ENTERED = 3  # folders around a data set: an archive's, the one in it of the same name, and one called images


@dataclass(frozen=True)
class SplitFolders:
    """The folders of the training, validation and test classes; None where there is no such folder.

    ``notes`` are whole sentences for the user about how the data set was understood.
    """

    train: Path
    validation: Path | None = None
    test: Path | None = None
    notes: tuple[str, ...] = ()


def split_role(name: str) -> Role | None:
    """Return what the usual name of a split means, in any case, with or without a noun: ``Training Set``, ``val``."""
    return _role(name, f"(?:{{}})(?:[ _.-]*(?:{NOUNS}))?")


def refuse_splits_inside(classes: Path) -> None:
    """Refuse classes that hold two splits (``CLASS/train``, ``CLASS/test``), or a split beside them."""
    folders = list_folder(classes)[0]
    if among := [folder for folder in folders if split_role(folder.name) and _holds_classes(folder)]:
        raise DataError(f"{_names(among)}: expected classes in {classes}, found the folder of a split beside them")
    for folder in folders:
        inside = [inner for inner in list_folder(folder)[0] if split_role(inner.name)]
        if len({split_role(inner.name) for inner in inside}) > 1:
            raise DataError(
                f"{_names(inside)}: expected classes inside the splits, train/CLASS and val/CLASS, found the reverse"
            )


def explain_parts(classes: Path) -> tuple[str, ...]:
    """Tell of folders that may be parts of a data set and no classes, as all of them have folders of the same names.

    ``fold1/CLASS`` and ``fold2/CLASS`` are refused by their names; of ``camera1/CLASS`` and ``camera2/CLASS`` the one
    whole sentence that is returned says how they were taken, as ``dog/day`` and ``cat/day`` are classes.
    """
    folders = [folder for folder in list_folder(classes)[0] if _holds_images(folder)]
    inside = [{inner.name for inner in list_folder(folder)[0]} for folder in folders]
    common = set.intersection(*inside) if len(folders) > 1 else set()
    shared = sorted(name for name in common if not PART.fullmatch(name.casefold()))
    if len(shared) < 2 or any(map(_holds_images_directly, folders)):
        return ()
    named, same = _names(folders[:5]), ", ".join(shared[:5])
    if all(PART.fullmatch(folder.name.casefold()) for folder in folders):
        parts = shlex.join(["hybrid-train", str(folders[0]), "--val", str(folders[1])])
        raise DataError(
            f"{named}: expected class folders, found each with {same} in it; merge them, or name two: {parts}"
        )
    return (f"{named} are taken as the classes; if {same}, which are in each, are the classes, merge the folders",)


def find_splits(data: Path) -> SplitFolders:
    """Find the folders in ``data`` whose sub-folders are classes.

    Raises:
        DataError: there is no such folder, or its folders could mean two things; the message names them.
    """
    if not data.is_dir():
        found = "found a file" if data.exists() else "no such folder"
        raise DataError(f"{data}: {found}; expected a folder of class folders with images")
    root = _enter(data)
    notes = [] if root == data else [f"{data}: the data set is in {root}"]
    folders = list_folder(root)[0]
    named = [folder for folder in folders if split_role(folder.name)]
    paired = {"train", "validation"} <= {
        split_role(folder.name) for folder in named
    }  # then a few loose images are strays
    flat = [folder for folder in named if _holds_images_directly(folder) and not (paired and _holds_classes(folder))]
    others = [folder for folder in folders if folder not in named and _holds_images(folder)] if named else []
    if not named:
        _refuse_likely_splits(folders)
    elif len(named) == len(flat) == 1 and others and split_role(flat[0].name) != "test":
        notes.append(f"{flat[0]} holds images directly, beside class folders: it is taken as a class")
    else:
        return _named_splits(root, named, flat, others, notes)
    return SplitFolders(root, notes=tuple(notes))


def _named_splits(
    root: Path, named: Sequence[Path], flat: Sequence[Path], others: Sequence[Path], notes: Sequence[str]
) -> SplitFolders:
    train = _only([folder for folder in named if split_role(folder.name) == "train"])
    validation = _only([folder for folder in named if split_role(folder.name) == "validation"])
    tests = [folder for folder in named if split_role(folder.name) == "test"]
    if flat and (train is None or train in flat or validation in flat):
        raise DataError(
            f"{_names(flat)}: expected class folders in the folder of a split, found images directly in it; put each "
            "class in its own folder (rename the folder where it is a class itself), or name the classes in a CSV: "
            + shlex.join(
                ["hybrid-train", str(train or root), "--labels", _table([train or root, root])]
                + (["--val", _table([validation])] if validation in flat and validation else [])
            )
        )
    if train is None:
        raise DataError(f"{_names(named)}: there is no train/ beside it; expected train/CLASS/* and val/CLASS/*")
    if others and validation is None:
        raise DataError(
            f"{root}: {train.name}/ is the folder of a split, and beside it are images in {_names(others)}: are they "
            "classes? Put all classes in one folder, or name the folder to train on: "
            + shlex.join(["hybrid-train", str(train)])
        )
    notes = [*notes, *(f"{folder} is left out: it is no split by its name" for folder in others)]
    notes += [
        f"{test} is left out of training: {shlex.join(['hybrid-export', '--images', str(test)])} proves an export on it"
        for test in tests
    ]
    inner = [None if folder is None else _enter(folder) for folder in (train, validation)]
    return SplitFolders(inner[0] or train, inner[1], tests[0] if tests else None, tuple(notes))


def _table(folders: Sequence[Path]) -> str:
    """Return the table beside images, which Roboflow and Kaggle leave there, or what stands for one in a message."""
    files = (file for folder in folders for file in list_folder(folder)[1])
    return next((str(file) for file in files if file.suffix.lower() == ".csv"), "FILE.csv")


def _only(folders: Sequence[Path]) -> Path | None:
    if len(folders) > 1:
        raise DataError(
            f"{_names(folders)}: expected one folder for each split, found {len(folders)} that mean the same; "
            "merge or rename them, or name both splits: hybrid-train TRAIN --val VAL"
        )
    return folders[0] if folders else None


def _refuse_likely_splits(folders: Sequence[Path]) -> None:
    """Refuse folders such as ``seg_train`` and ``seg_test``, or ``train2017`` and ``val2017``, as classes."""
    if len({_likely_role(folder.name) for folder in folders} - {None}) < 2:
        return
    filled = [folder for folder in folders if _holds_images(folder)]
    likely = [folder for folder in filled if _likely_role(folder.name)]
    if likely and (likely == filled or all(map(_holds_classes, likely))):  # seg_pred beside them has no class
        raise DataError(
            f"{_names(likely)}: are they splits or classes? Name splits train/ and val/, or name them apart: "
            "hybrid-train TRAIN --val VAL"
        )


def _likely_role(name: str) -> Role | None:
    return _role(name, ".*(?<![a-z])(?:{})(?![a-z]).*") or SHORT_NAMES.get(name.casefold())


def _role(name: str, pattern: str) -> Role | None:
    name = name.strip().casefold()
    return next((role for role, spelling in SPELLINGS.items() if re.fullmatch(pattern.format(spelling), name)), None)


def _enter(data: Path) -> Path:
    """Return the folder in which a data set begins: below folders that hold one folder and no image themselves."""
    root = data
    for _ in range(MAX_ENTERED):
        folders = list_folder(root)[0]
        inner = _container(folders)
        if (
            inner is None
            or split_role(inner.name) not in (None, split_role(root.name))
            or _holds_images_directly(inner)
        ):
            break
        root = inner
    folders = list_folder(root)[0]
    return root if len(folders) > 1 or any(split_role(folder.name) for folder in folders) else data


def _container(folders: Sequence[Path]) -> Path | None:
    """Return the folder that can only be around a data set: the single one, or ``images/`` beside none with images."""
    if len(folders) > 1:
        likely = [folder for folder in folders if CONTAINER.fullmatch(folder.name.casefold())]
        folders = [] if any(_holds_images(folder) for folder in folders if folder not in likely) else likely
    return folders[0] if len(folders) == 1 else None


def _holds_images(folder: Path) -> bool:
    return any(isinstance(found, Path) for found in find_media(folder, videos=False))


def _holds_images_directly(folder: Path) -> bool:
    return any(media_kind(file) == "image" for file in list_folder(folder)[1])


def _holds_classes(folder: Path) -> bool:
    return any(_holds_images(inner) for inner in list_folder(folder)[0])


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(f"{folder}/" for folder in folders)
