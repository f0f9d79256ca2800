"""Makes class folders of tiny-imagenet, whose published layout is as follows.

wnids.txt                          one WordNet id (wnid) a line, the classes
words.txt                          wnid<TAB>name, synonym, ...
train/WNID/images/*.JPEG           beside WNID_boxes.txt
val/images/*.JPEG                  the images of all classes
val/val_annotations.txt            file<TAB>wnid<TAB>box, four numbers
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path, PurePosixPath

from ..runtime.console import progress
from ..runtime.errors import DataError, UsageError
from ..runtime.preprocess import IMAGE_SUFFIXES
from .class_folders import ClassFolders, Prepared
from .published import Published, open_published

__all__ = ["prepare_tiny_imagenet"]

WNIDS, WORDS, ANNOTATIONS = "wnids.txt", "words.txt", "val/val_annotations.txt"
KEPT = (WNIDS, WORDS, PurePosixPath(ANNOTATIONS).name)
WNID = re.compile(r"[A-Za-z0-9_-]+")  # it becomes part of a folder's name


def prepare_tiny_imagenet(
    src: Path, dst: Path, *, classes: int | None = None, wnids: Path | None = None, link: bool = False
) -> Prepared:
    """Make class folders of tiny-imagenet's published layout: ``DST/train/NAME/*.JPEG`` and ``DST/val/NAME/*.JPEG``.

    Images are copied byte for byte, never decoded; the source is only read. An interrupted call is completed by the
    next one. NAME is the first synonym in words.txt with ``_`` for blanks; where two classes of wnids.txt share it,
    each has its wnid appended.

    Args:
        src: a folder, or a tar or zip of it, which is not unpacked.
        dst: a new or empty folder, or one that an earlier call began.
        classes: take only the first so many classes of wnids.txt.
        wnids: take only the classes that are listed in this file, one wnid a line.
        link: whether to make hard links in place of copies, symbolic ones across file systems; only from a folder.

    Raises:
        UsageError: both ``classes`` and ``wnids``, ``classes`` out of range, ``link`` with an archive, or ``dst``
            inside ``src``.
        DataError: a file of the layout is missing or malformed, a wnid is unknown, an image is missing, or ``dst``
            holds other things.
    """
    _check_arguments(src, dst, classes, wnids, link)
    with progress(unit="files", transient=True) as bar:  # how many files there are is known only at the end
        bar.add_task(f"reading {src.name}", total=None)
        published = open_published(src, WNIDS, KEPT)
    known = _read_wnids(published.text(WNIDS), f"{src}: {WNIDS}")
    plan = _plan(published, _choose(known, classes, wnids), _class_names(published, known), set(known))
    folders = ClassFolders(dst, plan.values())
    with progress(unit="images") as bar:
        task = bar.add_task("linking" if link else "copying", total=len(plan))
        if link:
            for source, name in plan.items():
                folders.link(name, src / source)
                bar.advance(task)
        else:
            for source, data in published.read(plan):
                folders.write(plan[source], data)
                bar.advance(task)
    return folders.summary()


def _check_arguments(src: Path, dst: Path, classes: int | None, wnids: Path | None, link: bool) -> None:
    if classes is not None and wnids is not None:
        raise UsageError("expected --classes or --wnids, found both: choose the classes by one of them")
    if link and src.is_file():
        raise UsageError(f"--link needs an unpacked folder to link to, found the archive {src}: leave --link out")
    if src.is_dir() and dst.resolve().is_relative_to(src.resolve()):
        raise UsageError(f"{dst} lies inside the source {src}, which is only read: choose a folder outside of it")


def _read_wnids(text: str, where: str) -> list[str]:
    wnids = list(dict.fromkeys(text.split()))
    for wnid in wnids:
        if not WNID.fullmatch(wnid):
            raise DataError(f"{where}: expected one wnid a line, such as n01443537; found {wnid[:40]!r}")
    if not wnids:
        raise DataError(f"{where}: expected one wnid a line, found none")
    return wnids


def _choose(known: list[str], classes: int | None, wnids: Path | None) -> list[str]:
    """Return the wnids of the classes asked for, in the order of wnids.txt or of the file that names them."""
    if classes is not None:
        if not 1 <= classes <= len(known):
            raise UsageError(f"--classes must lie between 1 and the {len(known)} of {WNIDS}, found {classes}")
        return known[:classes]
    if wnids is None:
        return known
    try:
        chosen = _read_wnids(wnids.read_text(encoding="utf-8"), str(wnids))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{wnids}: expected a text file of wnids, one a line: {error}") from None
    unknown = [wnid for wnid in chosen if wnid not in set(known)]
    if unknown:
        raise DataError(f"{wnids}: not among the {len(known)} classes of {WNIDS}: {', '.join(unknown[:5])}")
    return chosen


def _class_names(published: Published, known: list[str]) -> dict[str, str]:
    """Name each wnid's folder; the names depend on all of wnids.txt, so a larger choice of classes renames nothing."""
    words = dict(line.split("\t", 1) for line in published.text(WORDS).splitlines() if "\t" in line)
    nameless = [wnid for wnid in known if wnid not in words]
    if nameless:
        raise DataError(f"{published.src}: {WORDS} has no name for {', '.join(nameless[:5])} of {WNIDS}")
    names = {wnid: _folder_name(words[wnid]) or wnid for wnid in known}
    shared = Counter(name.casefold() for name in names.values())  # some file systems don't tell upper from lower case
    return {wnid: f"{name}_{wnid}" if shared[name.casefold()] > 1 else name for wnid, name in names.items()}


def _folder_name(words: str) -> str:
    first = words.split(",", 1)[0]
    return re.sub(r"[^\w.'-]+", "_", first).strip("._")


def _plan(published: Published, chosen: list[str], names: dict[str, str], known: set[str]) -> dict[str, str]:
    """Map the source path of every image that is to be written to its ``SPLIT/CLASS/NAME``."""
    plan: dict[str, str] = {}
    counts = Counter[str]()
    for source in published.names:
        path = PurePosixPath(source)
        if len(path.parts) != 4 or path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        split, wnid, folder, _ = path.parts
        if split == "train" and folder == "images" and wnid in set(chosen):
            plan[source] = f"train/{names[wnid]}/{path.name}"
            counts[wnid] += 1
    empty = [wnid for wnid in chosen if not counts[wnid]]
    if empty:
        raise DataError(f"{published.src}: no images in train/WNID/images/ of {', '.join(empty[:5])}")
    return plan | _plan_validation(published, chosen, names, known)


def _plan_validation(published: Published, chosen: list[str], names: dict[str, str], known: set[str]) -> dict[str, str]:
    present = set(published.names)
    plan: dict[str, str] = {}
    for number, line in enumerate(published.text(ANNOTATIONS).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{published.src}: {ANNOTATIONS}, line {number}"
        file, tab, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if not tab or wnid not in known:
            raise DataError(f"{where}: expected file, tab, a wnid of {WNIDS}; found {line[:60]!r}")
        source = f"val/images/{file}"
        if source not in present or PurePosixPath(file).name != file:
            raise DataError(f"{where}: {file[:60]!r} is not in val/images/: download the data set again")
        if wnid in chosen:
            plan[source] = f"val/{names[wnid]}/{file}"
    return plan
