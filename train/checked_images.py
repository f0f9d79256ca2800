"""Every image of a data set is read once before training starts, and what was seen of it is remembered.

``CACHE/checked/`` has a file for each data set, with a line for each readable image: the file's key and its facts.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..runtime.console import progress
from ..runtime.errors import ImageError
from ..runtime.opencv import cv2
from ..runtime.preprocess import decode_image, deep_samples, read_image_file
from ..runtime.process import usable_cpus
from ..runtime.storage import cache_dir, write_text

THREADS = min(len(usable_cpus()), 8)  # decoding leaves the GIL; more threads only hold more decoded images
CHUNK = 16 * THREADS
HASHED_PIXELS = 2**16  # of a larger picture a grid of so many: hashing 2 megapixels takes a third of decoding them
LINE = re.compile(r"([0-9a-f]{64}) (\d+) (\d+) ([01]) (-?\d+) (-?\d+) ([0-9a-f]{32}) ([0-9a-f]{32})")


class ImageFacts(NamedTuple):
    """What was seen of an image when it was read: its size in pixels, as shown, and whether its channels are equal.

    ``low`` and ``high`` are the least and greatest value of 16-bit samples, -1 for other images. ``content`` identifies
    the file's bytes; ``pixels`` identifies the decoded picture, which is the same in a lossless copy of another format.
    """

    width: int
    height: int
    gray: int
    low: int
    high: int
    content: str
    pixels: str


def check_images(paths: Sequence[Path], data: Path) -> tuple[dict[Path, ImageFacts], dict[Path, str]]:
    """Read every image in full; return the facts of those that can be read, and why the others can't be.

    Both are in the order given. Files found readable before, of the same path, size and modification time, are not read
    again. A fault is looked at anew. ``data`` names the data set.
    """
    name = hashlib.sha256(os.fsencode(os.path.abspath(data))).hexdigest()[:32]  # noqa: PTH100  links stay
    record = cache_dir() / "checked" / f"{name}.txt"
    known = _remembered(record)
    keys = {path: _key_if_there(path) for path in paths}
    unknown = [path for path in paths if keys[path] not in known]
    seen = {keys[path]: known[keys[path]] for path in paths if keys[path] in known}
    faults: dict[Path, str] = {}
    try:
        for path, found in _read_all(unknown):
            if isinstance(found, str):
                faults[path] = found
            else:
                seen[keys[path]] = found
    finally:  # an interrupted check keeps what it has seen
        if unknown:
            lines = (" ".join(map(str, (key, *facts))) for key, facts in seen.items())
            # a cache that can't be written costs time at the next start and nothing else
            with contextlib.suppress(OSError):
                write_text(record, "\n".join(lines))
    return {path: seen[keys[path]] for path in paths if path not in faults}, faults


def _remembered(record: Path) -> dict[str, ImageFacts]:
    try:
        lines = record.read_bytes().decode(errors="replace").split("\n")
    except OSError:
        return {}
    found = (match.groups() for match in map(LINE.fullmatch, lines) if match)
    return {key: ImageFacts._make([*map(int, fields[:5]), *fields[5:]]) for key, *fields in found}


def _read_all(paths: Sequence[Path]) -> Iterator[tuple[Path, ImageFacts | str]]:
    """Yield each path with its facts, or the reason why it can't be read."""
    with ThreadPoolExecutor(THREADS) as pool, progress(unit="images", transient=True) as bar:
        task = bar.add_task("checking images", total=len(paths))
        for start in range(0, len(paths), CHUNK):  # in chunks, so that Ctrl-C waits for few
            chunk = paths[start : start + CHUNK]
            yield from zip(chunk, pool.map(_look_at, chunk), strict=True)
            bar.update(task, completed=start + len(chunk))


def _look_at(path: Path) -> ImageFacts | str:
    try:
        data = read_image_file(path)
        frame = decode_image(data, name=str(path))
    except ImageError as error:
        return str(error).removeprefix(f"{path}: ")
    samples = deep_samples(data, frame)
    blue, green, red, _ = cv2.sumElems(frame)
    gray = blue == green == red and bool((frame == frame[..., :1]).all())
    low, high = (-1, -1) if samples is None else (int(samples.min()), int(samples.max()))
    content = hashlib.sha256(data).hexdigest()[:32]
    pixels = _picture_hash(frame if samples is None else samples)
    return ImageFacts(frame.shape[1], frame.shape[0], int(gray), low, high, content, pixels)


def _picture_hash(frame: npt.NDArray[Any]) -> str:
    """Hash a picture by its shape, the sums of its channels and a grid of its pixels: all, where it is small."""
    step = math.ceil(math.sqrt(frame.shape[0] * frame.shape[1] / HASHED_PIXELS))
    digest = hashlib.sha256(f"{frame.shape} {frame.dtype} {cv2.sumElems(frame)}".encode())
    digest.update(np.ascontiguousarray(frame[::step, ::step]).data)
    return digest.hexdigest()[:32]


def file_key(path: Path) -> str:
    """Identify a file without reading it, by the SHA-256 of its absolute path, size and time of change."""
    state = path.stat()
    text = f"{path.absolute()}\0{state.st_size}\0{state.st_mtime_ns}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _key_if_there(path: Path) -> str:
    try:
        return file_key(path)
    except OSError:
        return ""
