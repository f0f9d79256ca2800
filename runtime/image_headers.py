"""What an image file's own bytes say before it is decoded: whether it is whole, how it lies, what format it is.

OpenCV's decoders believe a header; what they would allocate for it, fill in or leave out is settled here.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .errors import ImageError, OversizedError
from .frame import Pixels
from .opencv import MAX_PIXELS

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
JPEG_SCAN_MARKER = 0xDA  # start of scan: the compressed pixels follow
JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the markers whose segment has height and width
JPEG_END = b"\xff\xd9"
ANIMATED = 2  # a flag of WebP's chunk VP8X
HEIF_BRANDS = {  # of the box ftyp, in the order in which they are looked for
    b"avif": "AVIF",
    b"avis": "AVIF",
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIF"),
}
FORMATS = {  # what a file begins with -> its format, of those that no OpenCV reads, or not every one
    b"GIF8": "GIF",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL \r\n\x87\n": "JPEG XL",
    b"8BPS": "Photoshop",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "SVG, or other XML",
    b"FUJIFILMCCD-RAW": "a camera's raw format",
}


def check_header(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse what is damaged by its own account, with an ImageError, or claims too many pixels for this device.

    Raises:
        OversizedError: the header claims more than ``max_pixels``; OpenCV refuses the formats that are not known here.
        ImageError: a PNG or JPEG that is cut off, or whose checksums differ.
    """
    if data.startswith(PNG_SIGNATURE):
        _check_png(data, name, max_pixels)
    elif data.startswith(JPEG_START):
        _check_jpeg(data, name, max_pixels)


def unread_format(data: bytes) -> str:
    """Return why OpenCV reads no image in these bytes: the format's name and how to convert it, where it is known."""
    found = _heif_format(data) or next((said for start, said in FORMATS.items() if data.startswith(start)), None)
    if _is_webp(data) and data[12:16] == b"VP8X" and int.from_bytes(data[20:21], "big") & ANIMATED:
        found = "animated WebP"
    if found is None:
        return "not an image that OpenCV reads, or damaged"
    return f"{found}, which this OpenCV does not read, or damaged; convert it, as by ImageMagick: magick FILE FILE.png"


class Turns(NamedTuple):
    """How a picture is to be shown: turned by so many quarters to the left, and then mirrored."""

    quarters: int
    mirrored: int | None  # the axis of the array that is reversed: 0 swaps top and bottom, 1 left and right

    def applied(self, frame: Pixels) -> Pixels:
        """Return an (H, W, 3) frame as it is to be shown."""
        turned = np.rot90(frame, self.quarters)
        return np.ascontiguousarray(turned if self.mirrored is None else np.flip(turned, self.mirrored))


EXIF_TURNS = {  # EXIF's orientation -> what undoes it
    2: Turns(0, 1),
    3: Turns(2, None),
    4: Turns(0, 0),
    5: Turns(1, 0),
    6: Turns(3, None),
    7: Turns(1, 1),
    8: Turns(1, None),
}


def own_turns(data: bytes, name: str) -> Turns | None:
    """Return how a picture is to be turned here; None where OpenCV does what there is to do.

    OpenCV leaves AVIF's ``irot`` and ``imir`` (ISO/IEC 23008-12, 6.5.10 and 6.5.12) out, which by that standard replace
    EXIF's orientation, and an older one (4.8, of JetPack 6) EXIF in WebP as well. ImageError where the picture has a
    clean aperture (``clap``), as it would be shown uncropped.
    """
    if _is_webp(data):
        return EXIF_TURNS.get(_webp_orientation(data), Turns(0, None))
    if _heif_format(data) is None:
        return None
    quarters, mirrored = 0, None
    for kind, content in _primary_properties(data):
        if kind == b"irot" and content:
            quarters = content[0] & 3
        elif kind == b"imir" and content:
            mirrored = content[0] & 1
        elif kind == b"ispe":
            _check_pixels(content[4:8], content[8:12], name)
        elif kind == b"clap":
            raise ImageError(f"{name}: expected a whole picture, found one to be cropped (clap): export it cropped")
    return Turns(quarters, mirrored)


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _webp_orientation(data: bytes) -> int:
    """Return the orientation in a WebP's EXIF (tag 0x0112 of TIFF's first directory), 1 where it says none."""
    position = 12
    while position + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            exif = data[position + 8 : position + 8 + size].removeprefix(b"Exif\0\0")
            order = ">" if exif[:2] == b"MM" else "<"
            with contextlib.suppress(struct.error):
                (start,) = struct.unpack_from(f"{order}I", exif, 4)
                (count,) = struct.unpack_from(f"{order}H", exif, start)
                for entry in range(start + 2, start + 2 + 12 * count, 12):
                    tag, value = struct.unpack_from(f"{order}H6xH", exif, entry)
                    if tag == 0x0112:
                        return int(value)
            return 1
        position += 8 + size + size % 2
    return 1


def _heif_format(data: bytes) -> str | None:
    if data[4:8] != b"ftyp":
        return None
    brands = data[8 : min(int.from_bytes(data[:4], "big"), 256)]
    return next((said for brand, said in HEIF_BRANDS.items() if brand in brands), None)


def _primary_properties(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the properties of an AVIF or HEIF file's primary picture, as the boxes' names and contents."""
    meta = dict(_boxes(dict(_boxes(data)).get(b"meta", b"")[4:]))
    described = dict(_boxes(meta.get(b"iprp", b"")))
    primary = meta.get(b"pitm", b"")
    properties = list(_boxes(described.get(b"ipco", b"")))
    for item, indices in _associations(described.get(b"ipma", b"")):
        if item == int.from_bytes(primary[4:], "big"):
            yield from (properties[index - 1] for index in indices if 0 < index <= len(properties))


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the boxes that stand one after the other, as their names and contents, up to one that is not whole."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        header = 8
        if size == 1 and position + 16 <= len(data):
            (size,), header = struct.unpack_from(">Q", data, position + 8), 16
        size = size or len(data) - position  # 0: it is the last and reaches to the end
        if size < header or position + size > len(data):
            return
        yield kind, data[position + header : position + size]
        position += size


def _associations(ipma: bytes) -> Iterator[tuple[int, list[int]]]:
    """Yield each item's number and those of its properties, from 1 (ISO/IEC 23008-12, 9.3.2)."""
    wide_item, wide_index = ipma[:1] > b"\0", bool(int.from_bytes(ipma[1:4], "big") & 1)
    item_size, index_size = 4 if wide_item else 2, 2 if wide_index else 1
    position = 8
    while position + item_size < len(ipma):
        item = int.from_bytes(ipma[position : position + item_size], "big")
        start = position + item_size + 1
        position = start + ipma[start - 1] * index_size
        indices = ipma[start:position]
        essential = 1 << (8 * index_size - 1)  # the highest bit says that a reader must know the property
        yield (
            item,
            [
                int.from_bytes(indices[place : place + index_size], "big") & ~essential
                for place in range(0, len(indices), index_size)
            ],
        )


def _check_png(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse a PNG whose chunks run past the file's end or whose pixels are damaged.

    libpng would allocate a chunk's claimed length before reading it, and complain about a checksum on stderr.
    """
    _check_pixels(data[16:20], data[20:24], name, max_pixels)
    position = len(PNG_SIGNATURE)
    view = memoryview(data)
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if end + 4 > len(data):
            raise ImageError(f"{name}: damaged PNG: chunk {kind!r} claims {length} bytes, the file ends before that")
        if kind[:1].isupper() and zlib.crc32(view[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ImageError(f"{name}: damaged PNG: the checksum of chunk {kind!r} differs")
        if kind == b"IEND":
            return
        position = end + 4
    raise ImageError(f"{name}: damaged PNG: it ends without an IEND chunk")


def _check_jpeg(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse a JPEG without an end marker after its pixels: OpenCV before 5 fills in gray where they are missing.

    The segments before the pixels are skipped by their lengths, as a thumbnail inside them has an end marker too.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != JPEG_SCAN_MARKER:
        if data[position + 1] in JPEG_SIZE_MARKERS:
            _check_pixels(data[position + 5 : position + 7], data[position + 7 : position + 9], name, max_pixels)
        fill = data[position + 1] == 0xFF  # any number of these may stand before a marker
        position += 1 if fill else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    if data.rfind(JPEG_END, position) < 0:
        raise ImageError(f"{name}: truncated JPEG: it ends without an end marker")


def _check_pixels(first: bytes, second: bytes, name: str, max_pixels: int = MAX_PIXELS) -> None:
    check_size(int.from_bytes(second, "big"), int.from_bytes(first, "big"), name, max_pixels)


def check_size(width: int, height: int, name: str, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse with an OversizedError a picture or frame of more than ``max_pixels``, before it is decoded.

    OpenCV has such a limit too, which fails if it was imported before we set that.
    """
    if height * width > max_pixels:
        raise OversizedError(
            f"{name}: expected at most {max_pixels} pixels, found {height * width} ({width}x{height}), too many for "
            "this device's memory; make it smaller"
        )
