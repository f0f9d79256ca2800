"""A table of images and their classes, as Kaggle, Roboflow and spreadsheets write it, is read as class folders are.

A row names an image and its class, and may say in which split it is. The delimiter is a comma, semicolon or tab, and a
first row of the usual column names says which column is which; in place of one class column there may be a column of 0
and 1 for each class.
"""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from ..runtime.errors import DataError
from ..runtime.preprocess import IMAGE_SUFFIXES
from ..runtime.sources.media_files import find_media
from .class_folders import Classes
from .splits import Role, split_role

Row = tuple[int, list[str]]  # a line's number and its cells

VAGUE_COLUMNS = ("name", "id")  # what the cells say counts for more
# usual names of columns, those that say the most first
FILE_COLUMNS = (
    *("path", "paths", "filepath", "filepaths", "file_path", "image_path", "img_path", "filename", "filenames"),
    *("file_name", "file", "files", "image_name", "img_name", "image", "images", "img", "image_id", "img_id"),
    *VAGUE_COLUMNS,
)
CLASS_COLUMNS = (
    *("label", "labels", "class", "class_name", "classname", "category", "category_name", "target", "species"),
    *("label_name", "class_id", "label_id", "category_id"),
)
SPLIT_COLUMNS = ("split", "set", "subset", "data_set", "dataset", "partition", "usage", "is_valid", "is_val")
IS_VALIDATION: dict[str, Role] = {"true": "validation", "1": "validation", "false": "train", "0": "train"}
DELIMITERS = ",;\t"
SAMPLE = 50  # rows by which columns without a usual name are told apart


@dataclass(frozen=True)
class _Columns:
    """The places of the columns; ``one_hot`` has the names of those with 0 and 1, where there is no class column."""

    file: int
    label: int | None
    split: int | None
    one_hot: dict[int, str] = field(default_factory=dict)


def read_label_file(
    path: Path, data: Path, left_out: Counter[str], *, alone: bool = True
) -> tuple[dict[Role, Classes], str]:
    """Read the classes of images, by split, from a table; the second is a line on what was left out, or empty.

    An image's path is relative to ``data`` or to the table; its name, or its name without the suffix, is enough where
    ``data`` holds one such image. Where the table is ``alone``, the line counts the images in no row too. ``left_out``
    counts by suffix the files in ``data`` that are no images.

    Raises:
        DataError: there is no such file, it is no such table, none of its images is there, an image has two classes, or
            a name means several images; the message has the line.
    """
    rows = _read_rows(path)
    images = _Images(data, path, left_out)
    if path.absolute().is_relative_to(data.absolute()):  # the table is not left out
        left_out.subtract([path.suffix.lower()])
    columns, rows = _find_columns(path, rows, images)
    reading = _Reading(path, columns, images)
    splits = reading.read(rows)
    return splits, reading.note(alone=alone)


def _read_rows(path: Path) -> list[Row]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: can't be read: {error.strerror or error}; expected a CSV of images and classes"
        ) from None
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected UTF-8 text; save the table as CSV in UTF-8") from None
    text = re.sub(r"\Asep=.[\r\n]", "\n", text)  # which Excel writes and reads
    wide = {one: sum(len(cells) > 1 for _, cells in islice(_parse(path, text, one), SAMPLE)) for one in DELIMITERS}
    rows = list(_parse(path, text, max(wide, key=wide.__getitem__)))
    narrow = next((number for number, cells in rows if len(cells) < 2), 0)
    if not rows or narrow:
        where = f"one column in line {narrow}" if narrow else "none"
        raise DataError(f"{path}: expected rows of an image and its class, as in a/1.jpg,cat; found {where}")
    return rows


def _parse(path: Path, text: str, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: no CSV: {error}") from None


class _Images:
    """The images to which the rows of a table may refer."""

    def __init__(self, data: Path, table: Path, left_out: Counter[str]) -> None:
        if not data.is_dir():
            raise DataError(f"{data}: expected the folder of the images that {table} names, found none")
        self.data = data
        self._bases = [os.path.abspath(folder) for folder in (data, table.parent)]  # noqa: PTH100  links stay
        self.paths: dict[str, Path] = {}
        self._named: dict[str, list[Path]] = {}
        for found in find_media(data, left_out, videos=False):
            if not isinstance(found, Path):
                raise DataError(f"{found.source}: {found.error}")
            self.paths[_normal(os.path.abspath(found))] = found  # noqa: PTH100
            for name in {found.name, found.stem}:
                self._named.setdefault(_normal(name), []).append(found)

    def find(self, name: str) -> list[Path]:
        """Return the images that a cell may mean: one, none, or several of the same name in different folders."""
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):  # Windows's
            for base in self._bases:
                path = os.path.normpath(os.path.join(base, spelling))  # noqa: PTH118
                if _normal(path) in self.paths:
                    return [self.paths[_normal(path)]]
                if os.path.isfile(path):  # noqa: PTH113
                    return [Path(path)]
        moved = PurePosixPath(_normal(name.replace("\\", "/")))
        return [image for image in self._named.get(moved.name, []) if self._same_end(image, moved)]

    def _same_end(self, image: Path, moved: PurePosixPath) -> bool:
        """Tell whether an image's folders in ``data`` are the last of a path in which the same set lay elsewhere.

        ``data`` itself may have another name there, but not that of another split.
        """
        ours = PurePosixPath(_normal(image.relative_to(self.data).as_posix())).parent.parts
        theirs = moved.parent.parts
        above = theirs[: -len(ours) or None][-1:]
        roles = {split_role(name) for name in (*above, self.data.absolute().name)} - {None}
        return len(roles) < 2 and all(a == b for a, b in zip(reversed(ours), reversed(theirs), strict=False))


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _find_columns(path: Path, rows: list[Row], images: _Images) -> tuple[_Columns, list[Row]]:
    """Return which column is which, and the rows below the head, if there is one."""
    head = [cell.casefold().replace(" ", "_").replace("-", "_") for cell in rows[0][1]]
    file, label, split = (_first(head, names) for names in (FILE_COLUMNS, CLASS_COLUMNS, SPLIT_COLUMNS))
    file_like = _column_of_images(rows, images)
    headed = (file, label, file_like) != (None, None, None) and not any(_is_image(cell, images) for cell in rows[0][1])
    body = rows[1:] if headed else rows
    if not headed:
        file = label = split = None
    if file is None or (head[file] in VAGUE_COLUMNS and file_like not in (None, label)):
        file = 0 if file_like is None and not headed else file_like
    if split is not None and not any(_role(cells[split]) for _, cells in body if split < len(cells)):
        split = None  # a column of another meaning, such as the source of the image
    others = [column for column in range(len(head)) if column not in (file, split)]
    one_hot = {}
    if label is None and headed and len(others) > 1 and _are_flags(body, others):
        one_hot = {column: rows[0][1][column] for column in others}
    elif label is None and len(others) == 1:
        label = others[0]
    if file is None or (label is None and not one_hot):
        raise DataError(
            f"{path}: expected a column of images ({', '.join(FILE_COLUMNS[-7:])}) and one of classes "
            f"({', '.join(CLASS_COLUMNS[:7])}), or a column of 0 and 1 for each class; found {', '.join(rows[0][1])}: "
            "name the columns so in the first row"
        )
    return _Columns(file, label, split, one_hot), body


def _is_image(cell: str, images: _Images) -> bool:
    return PurePosixPath(cell).suffix.lower() in IMAGE_SUFFIXES or bool(images.find(cell))


def _first(head: Sequence[str], names: Iterable[str]) -> int | None:
    return next((head.index(name) for name in names if name in head), None)


def _column_of_images(rows: Sequence[Row], images: _Images) -> int | None:
    found = Counter[int]()
    for column, cell in ((column, cell) for _, cells in islice(rows, SAMPLE) for column, cell in enumerate(cells)):
        if cell and images.find(cell):  # 7.jpg is an image rather than 7, which may be the row's number or a class
            found[column] += 2 if PurePosixPath(cell).suffix.lower() in IMAGE_SUFFIXES else 1
    return found.most_common(1)[0][0] if found else None


def _are_flags(rows: Sequence[Row], columns: Sequence[int]) -> bool:
    return all(
        cells[column] in ("0", "1", "0.0", "1.0") for _, cells in rows for column in columns if column < len(cells)
    )


def _role(cell: str) -> Role | None:
    return split_role(cell) or IS_VALIDATION.get(cell.casefold())


class _Reading:
    """One reading of a table's rows, which counts what it leaves out."""

    def __init__(self, path: Path, columns: _Columns, images: _Images) -> None:
        self._path = path
        self._columns = columns
        self._images = images
        self._seen: dict[Path, tuple[int, Role, str]] = {}
        self._missing: list[str] = []
        self._unlabelled = self._repeated = 0

    def read(self, rows: Sequence[Row]) -> dict[Role, Classes]:
        """Return what the rows say; see ``read_label_file`` for the errors."""
        for number, cells in rows:
            self._read_row(number, cells)
        if not self._seen:
            missing = (
                f"none of {len(self._missing)} images is there, the first is {', '.join(self._missing[:1])}; paths "
            )
            missing += f"are looked for in {self._images.data} and beside the table"
            raise DataError(f"{self._path}: {missing if self._missing else 'no row has an image and a class'}")
        if self._columns.split is None:
            self._follow_folders()
        splits: dict[Role, Classes] = {}
        for image, (_, role, label) in sorted(self._seen.items(), key=lambda item: (item[1][2], item[0])):
            splits.setdefault(role, {}).setdefault(label, []).append(image)
        return splits

    def _follow_folders(self) -> None:
        """Take the splits from the folders where all images lie in folders of splits, as ``train/`` and ``test/``."""
        places = [os.path.abspath(image) for image in self._seen]  # noqa: PTH100  links stay
        start = len(os.path.commonpath(places).rstrip(os.sep)) + 1
        roles = [split_role(place[start:].partition(os.sep)[0]) for place in places]
        if len(set(roles)) > 1 and None not in roles:
            pairs = zip(self._seen.items(), roles, strict=True)
            self._seen = {image: (number, role, label) for (image, (number, _, label)), role in pairs if role}

    def _read_row(self, number: int, cells: Sequence[str]) -> None:
        label, image = self._label(number, cells), self._image(number, cells)
        role = self._role(number, cells)
        if not label:
            self._unlabelled += 1
        elif image in self._seen:
            self._repeated += 1
            first, *before = self._seen[image]
            if before != [role, label]:
                found = f"{image} is {label!r} ({role}) here, and {before[1]!r} ({before[0]}) in line {first}"
                raise self._error(number, found, "keep one of the rows")
        elif image is not None:
            self._seen[image] = number, role, label

    def _cell(self, cells: Sequence[str], column: int | None) -> str:
        return cells[column] if column is not None and column < len(cells) else ""

    def _role(self, number: int, cells: Sequence[str]) -> Role:
        if self._columns.split is None:
            return "train"
        cell = self._cell(cells, self._columns.split)
        role = _role(cell)
        if role is None:
            raise self._error(number, f"expected a split such as train, val or test, found {cell!r}", "name it so")
        return role

    def _label(self, number: int, cells: Sequence[str]) -> str:
        flagged = [name for column, name in self._columns.one_hot.items() if self._cell(cells, column).startswith("1")]
        if len(flagged) > 1:
            found = f"expected one class for each image, found {', '.join(flagged)}"
            raise self._error(number, found, "a model answers with one class: keep one, or leave the row out")
        label = unicodedata.normalize("NFC", flagged[0] if flagged else self._cell(cells, self._columns.label))
        if not label.isprintable():
            raise self._error(number, f"{label!r} can't be a class", "rename it to printable text")
        return label

    def _image(self, number: int, cells: Sequence[str]) -> Path | None:
        name = self._cell(cells, self._columns.file)
        found = self._images.find(name) if name else []
        if len(found) > 1:
            several = f"{name!r} could be {found[0]} or {found[1]}"
            raise self._error(number, several, "write the image's path with its folder and suffix")
        if not found:
            self._missing.append(f"{name!r} in line {number}")
        return found[0] if found else None

    def _error(self, number: int, found: str, remedy: str) -> DataError:
        return DataError(f"{self._path}, line {number}: {found}; {remedy}")

    def note(self, *, alone: bool) -> str:
        """Return one line on the rows and images that were left out; an empty string where none were."""
        first = self._missing[0] if self._missing else ""
        counts = {
            f"rows of images that are not there (the first is {first})": len(self._missing),
            "rows without a class": self._unlabelled,
            "repeated rows": self._repeated,
            "rows of the test split": sum(role == "test" for _, role, _ in self._seen.values()),
            "images in no row": len(set(self._images.paths.values()) - self._seen.keys()) if alone else 0,
        }
        parts = [f"{count:,} {what}" for what, count in counts.items() if count]
        return f"{self._path}: left out: {', '.join(parts)}" if parts else ""
