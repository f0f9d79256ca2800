"""Training images are cut into regions by the code that cuts what a device captures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.console import progress, say
from ..runtime.errors import DataError, ImageError, UsageError
from ..runtime.frame import Frame
from ..runtime.opencv import cv2
from ..runtime.preprocess import read_image
from ..runtime.sources.events import Events
from ..runtime.sources.media_files import describe_left_out, find_media
from ..runtime.sources.regions import FILES, RegionCutter, parse_regions
from .class_folders import ClassFolderWriter


@dataclass(frozen=True)
class CutImages:
    """How many images each region's folder has, and how many of all were written, there already, or failed.

    An image that could not be read has failed for every region.
    """

    counts: Counter[str]
    written: int
    kept: int
    failed: int


def prepare_regions(src: Path, dst: Path, flags: Sequence[str]) -> CutImages:
    """Cut every image below ``src`` into regions, ``DST/NAME/`` with the folders of ``src`` for each: lossless PNGs.

    ``flags`` are those of ``hybrid-infer --region``. Images are found by the rule of every command, and cut after they
    are decoded and turned upright, so that a file here has the very pixels that the model is shown for that region. A
    file is whole or not there, and an interrupted call is completed by the next one. What can't be read or cut is named
    on stderr.

    Raises:
        UsageError: there is no region, one that ``parse_regions`` refuses or of a camera, or ``dst`` inside ``src``.
        DataError: ``src`` is no folder, can't be read or has no image, or ``dst`` holds other things.
    """
    regions = parse_regions(flags)
    if not regions or any(region.source not in ("", FILES) for region in regions):
        found = ", ".join(flags) or "none"
        raise UsageError(f"expected --region NAME=X,Y,W,H at least once, without the name of a camera; found {found}")
    if dst.resolve().is_relative_to(src.resolve()):
        raise UsageError(f"{dst} lies inside the source {src}, which is only read: choose a folder outside of it")
    left_out = Counter[str]()
    images = _name_images(src, left_out)
    if left_out:
        say(describe_left_out(left_out))
    folders = ClassFolderWriter(dst, {f"{region.name}/{name}" for region in regions for name in images.values()})
    cutter = RegionCutter(regions, Events(), live=False)
    counts, failed = Counter({region.name: 0 for region in regions}), 0
    with progress(unit="images") as bar:
        for path, name in bar.track(images.items(), description="cutting"):
            for part in filter(None, cutter.cut(_read(path))):
                if part.image is None:
                    say(f"not cut: {part.name}: {part.error}", style="yellow")
                    failed += 1
                else:
                    folders.write(f"{part.region}/{name}", cv2.imencode(".png", part.image)[1].tobytes())
                    counts[part.region] += 1
    return CutImages(counts, folders.written, folders.kept, failed)


def _name_images(src: Path, left_out: Counter[str]) -> dict[Path, str]:
    """Return each image below a folder with its name in a region's folder: its own, as a PNG, and unlike any other."""
    if not src.is_dir():
        raise DataError(f"{src}: expected a folder of images, found {'a file' if src.exists() else 'nothing there'}")
    names: dict[Path, str] = {}
    taken: set[str] = set()  # some file systems don't tell upper from lower case
    for found in find_media(src, left_out, videos=False):
        if isinstance(found, Frame):
            raise DataError(f"{found.source}: {found.error}")
        name = found.relative_to(src).with_suffix(".png").as_posix()
        if name.casefold() in taken:
            name = found.relative_to(src).as_posix() + ".png"
        while name.casefold() in taken:
            name += ".png"
        taken.add(name.casefold())
        names[found] = name
    if not names:
        besides = describe_left_out(left_out)
        raise DataError(f"{src}: expected images below it, found none that OpenCV reads{besides and f' ({besides})'}")
    return names


def _read(path: Path) -> Frame:
    try:
        return Frame(str(path), 0, read_image(path))
    except ImageError as error:
        return Frame(str(path), 0, None, str(error).removeprefix(f"{path}: "))
