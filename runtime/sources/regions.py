"""Regions are the parts of a source's pictures that are classified each by itself: read from flags, cut out of frames.

A flag is ``NAME=X,Y,W,H``, in pixels or, with a ``%`` behind each number, in per cent of the picture; it holds for
every source, ``NAME@SOURCE=…`` for one. Nothing here needs OpenCV or NumPy: a supervisor reads the flags too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ..errors import ImageError, UsageError
from .names import display_name, short_names

if TYPE_CHECKING:
    from ..frame import Frame, Pixels
    from .capture import Capture
    from .events import Events

FILES: Final = "files"  # the name in a flag of all files, which are one source together
WHOLE = 10**6  # 100 %, in the units in which per cent are kept: whole numbers, so that every machine rounds alike
PIXELS = re.compile(r"[0-9]{1,6}")
PER_CENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,4}))?%")
RESERVED = re.compile(r"[/\\@=\[\]]")  # in paths, flags and the names of frames they have a meaning
MAX_NAME_BYTES = 60  # a name is part of a file's name, which has room for 255
FORMS = "NAME=X,Y,WIDTH,HEIGHT in pixels (gate=40,20,64,48) or in per cent (gate=10%,20%,30%,40%)"


@dataclass(frozen=True)
class Region:
    """This class is one rectangle of a picture, as a flag gives it.

    Attributes:
        name: what results call it, unique among the regions of a source.
        left, top: where it begins, from the picture's upper left corner: pixels or, with ``relative``, millionths of
            the picture's width and height.
        width, height: its size in the same units.
        relative: whether it was given in per cent, and so follows the picture's size.
        source: the short name of the one source it is of, or ``files``; empty for every source.
    """

    name: str
    left: int
    top: int
    width: int
    height: int
    relative: bool = False
    source: str = ""

    def __str__(self) -> str:
        values = (self.left, self.top, self.width, self.height)
        shown = [f"{value * 100 / WHOLE:g}%" if self.relative else str(value) for value in values]
        return f"{self.name}={','.join(shown)}"

    def place(self, width: int, height: int) -> tuple[slice, slice]:
        """Return the rows and columns that the region has in a picture of a width and height, pixels.

        Edges in per cent are rounded to the nearest pixel, so that regions that share an edge never overlap.

        Raises:
            ImageError: the region reaches beyond the picture, or has no pixel of it.
        """
        rows = self._span(self.top, self.height, height)
        columns = self._span(self.left, self.width, width)
        for span, side in ((columns, width), (rows, height)):
            if span.stop > side or span.start >= span.stop:
                what = "reaches beyond" if span.stop > side else "has no pixel of"
                raise ImageError(f"the region {self} {what} the picture, which is {width}x{height}")
        return rows, columns

    def _span(self, start: int, length: int, side: int) -> slice:
        if not self.relative:
            return slice(start, start + length)
        first, end = ((2 * edge * side + WHOLE) // (2 * WHOLE) for edge in (start, start + length))
        return slice(first, end)


def parse_regions(flags: Sequence[str]) -> tuple[Region, ...]:
    """Read regions, each ``NAME=X,Y,W,H`` or ``NAME@SOURCE=X,Y,W,H``.

    Raises:
        UsageError: a flag has another form, an empty size, more than 100 %, a name that can't be shown or be part of a
            file's name, or a name that another region of the source has.
    """
    regions = tuple(map(_parse, flags))
    for number, region in enumerate(regions):
        for other in regions[:number]:
            same_source = not (region.source and other.source) or region.source == other.source
            if same_source and region.name.casefold() == other.name.casefold():
                raise UsageError(
                    f"--region {region}: expected a name of its own for each region of a source, found it on {other} "
                    "too; rename one of them"
                )
    return regions


def _parse(flag: str) -> Region:
    shown = repr(display_name(flag))
    named, _, numbers = flag.rpartition("=")
    name, _, source = named.partition("@")
    name = unicodedata.normalize("NFC", name)
    _check_name(name, shown)
    if not source and "@" in named:
        raise UsageError(f"--region {shown}: expected the name of a source after the @, found none")
    texts = numbers.split(",")
    relative = numbers.endswith("%")
    values = [value for text in texts if (value := _number(text.strip(), relative=relative)) is not None]
    if len(values) != 4 or len(texts) != 4:
        raise UsageError(f"--region {shown}: expected {FORMS}, four whole numbers or four per cent")
    left, top, width, height = values
    if not width or not height:
        raise UsageError(f"--region {shown}: expected a width and height above 0, found none")
    if relative and max(left + width, top + height) > WHOLE:
        raise UsageError(f"--region {shown}: expected a region inside the picture, found that it ends beyond 100 %")
    return Region(name, left, top, width, height, relative, source)


def _number(text: str, *, relative: bool) -> int | None:
    if not relative:
        return int(text) if PIXELS.fullmatch(text) else None
    match = PER_CENT.fullmatch(text)
    return None if match is None else int(match[1] + (match[2] or "").ljust(4, "0"))


def _check_name(name: str, shown: str) -> None:
    if not name or name != name.strip() or name.startswith("."):
        raise UsageError(f"--region {shown}: expected {FORMS}, with a name that begins with neither blank nor dot")
    if not name.isprintable() or RESERVED.search(name):
        raise UsageError(
            f"--region {shown}: expected a name of printable characters without / \\ @ = [ ], as it becomes part of "
            "files' names"
        )
    if len(name.encode()) > MAX_NAME_BYTES:
        raise UsageError(f"--region {shown}: expected a name of at most {MAX_NAME_BYTES} bytes")


def regions_of(captures: Sequence[Capture], regions: Sequence[Region]) -> Mapping[str, tuple[Region, ...]]:
    """Return each capture's regions by the capture's name, none where its pictures are classified whole.

    Raises:
        UsageError: a region is of a source that is not among the captures.
    """
    short = short_names(capture.name for capture in captures)
    known = {capture.name: short[capture.name] if capture.live else FILES for capture in captures}
    for region in regions:
        if region.source not in ("", *known.values()):
            offer = ", ".join(known.values())
            raise UsageError(f"--region {region.name}@{region.source}: expected one of this run's sources, {offer}")
    return {
        name: tuple(region for region in regions if region.source in ("", source)) for name, source in known.items()
    }


class RegionCutter:
    """Cuts one capture's frames into one for each region, whose image is a view into the picture: nothing is copied.

    Of a file, a region that does not fit is an unreadable frame, whose error says so. Of a live source it is an error
    in its first picture, and later, after a change of resolution, a ``region-outside`` event: the region is left out
    until it fits.
    """

    def __init__(self, regions: Sequence[Region], events: Events, *, live: bool, must_fit: bool = True) -> None:
        """Cut by these regions; ``must_fit`` says whether a live source's first picture must have them all."""
        self._regions = tuple(regions)
        self._events = events
        self._live = live
        self._must_fit = must_fit
        self._size: tuple[int, int] | None = None  # of the picture before, (width, height)
        self._places: list[tuple[slice, slice] | ImageError] = []  # of the regions in it

    def cut(self, frame: Frame) -> list[Frame | None]:
        """Return a frame for each region, None for one that is left out; the frame itself where there are no regions.

        Raises:
            UsageError: a region is not in a live source's first picture.
        """
        if not self._regions:
            return [frame]
        picture = frame.image
        if picture is None:
            return [replace(frame, region=region.name) for region in self._regions]
        height, width = picture.shape[:2]
        if self._size != (width, height):
            self._places = [_place(region, width, height) for region in self._regions]
            if self._live:
                self._report(frame.source)
            self._size = width, height
        return [
            self._part(frame, picture, region, place) for region, place in zip(self._regions, self._places, strict=True)
        ]

    def _part(
        self, frame: Frame, picture: Pixels, region: Region, place: tuple[slice, slice] | ImageError
    ) -> Frame | None:
        if not isinstance(place, ImageError):
            rows, columns = place
            box = columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start
            return replace(frame, image=picture[place], region=region.name, whole=picture, box=box)
        return None if self._live else replace(frame, image=None, error=str(place), region=region.name, whole=picture)

    def _report(self, source: str) -> None:
        outside = "; ".join(str(place) for place in self._places if isinstance(place, ImageError))
        if outside and self._size is None and self._must_fit:
            raise UsageError(f"{source}: {outside}; give --region inside of it, or per cent, which always fit")
        if outside:
            self._events.report("region-outside", source, f"{outside}; left out until it fits")


def _place(region: Region, width: int, height: int) -> tuple[slice, slice] | ImageError:
    try:
        return region.place(width, height)
    except ImageError as error:
        return error
