"""Chooses the images to calibrate on by their contents, and reads them in batches through the one preprocessing."""

from __future__ import annotations

import contextlib
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..runtime.errors import CalibrationError, ImageError
from ..runtime.preprocess import Preprocessor, read_image
from ..runtime.spec import ModelSpec
from ..runtime.storage import file_sha256

MAX_IMAGES = 500
BATCH = 8

Tensor = npt.NDArray[np.float32]


class LabelledFile(Protocol):
    """An image file and its class, as training lists them."""

    @property
    def path(self) -> Path:
        """The path of the image file."""

    @property
    def label(self) -> str:
        """The name of the image's class; empty where there are no classes."""


@dataclass(frozen=True)
class CalibrationImages:
    """The images to calibrate on, no two alike, ordered so that a beginning of any length is stratified by class.

    ``sha256s`` are those of the files' contents, in the order of ``paths``. ``duplicates`` counts the candidates that
    were copies of another, ``excluded`` those that validate the model too; ``skipped`` says which file could not be
    read and why, a line each.
    """

    paths: tuple[Path, ...]
    sha256s: tuple[str, ...]
    duplicates: int = 0
    excluded: int = 0
    skipped: tuple[str, ...] = ()


def choose_images(
    candidates: Sequence[LabelledFile], *, validation: Iterable[Path] = (), count: int = MAX_IMAGES
) -> CalibrationImages:
    """Choose at most ``count`` distinct images: first one of each class, then the classes in proportion to their sizes.

    What has the contents of a ``validation`` file, under whatever name, is left out. The choice is the same each time.
    A file that is no image may be chosen: ``read_batches`` passes it over later.

    Raises:
        CalibrationError: no image is left to choose.
    """
    held_out = _HeldOutFiles(validation)
    chosen: dict[str, Path] = {}
    skipped: list[str] = []
    duplicates = excluded = 0
    for path, size, digest in _readable(_stratified(candidates), skipped):
        if held_out.contain(size, digest):
            excluded += 1
        elif digest in chosen:
            duplicates += 1
        else:
            chosen[digest] = path
            if len(chosen) == count:
                break
    if not chosen:
        reason = f"; the first that can't be read: {skipped[0]}" if skipped else ""
        raise CalibrationError(
            f"expected images to calibrate on, found none: of {len(candidates)} candidates {excluded} validate the "
            f"model too and {len(skipped)} can't be read{reason}. Name a folder of other images with --calib DIR"
        )
    return CalibrationImages(tuple(chosen.values()), tuple(chosen), duplicates, excluded, tuple(skipped))


def read_batches(
    paths: Iterable[Path], spec: ModelSpec, *, batch: int = BATCH, on_skip: Callable[[str], None] = lambda _: None
) -> Iterator[dict[str, Tensor]]:
    """Yield images, read one at a time and preprocessed, in batches of ``batch`` rows; the last may have fewer.

    A batch is ``image`` (N, S, S, 3) and ``sequence`` (N, T, S*S/T), both float32, of which those that the spec's
    branches use. An image that can't be read is passed over, and ``on_skip`` called with the reason.
    """
    preprocessor = Preprocessor(spec)
    tensors, row = preprocessor.allocate(batch), 0
    for path in paths:
        try:
            preprocessor.fill(read_image(path), tensors, row)
        except ImageError as error:
            on_skip(str(error))
            continue
        row += 1
        if row == batch:
            yield tensors
            tensors, row = preprocessor.allocate(batch), 0
    if row:
        yield {name: tensor[:row] for name, tensor in tensors.items()}


class _HeldOutFiles:
    """A set of files to compare others with by content; only a file of the same size is ever read."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._unread: dict[int, list[Path]] = {}
        self._digests: set[str] = set()
        for path in paths:
            with contextlib.suppress(OSError):  # the file is gone: nothing could be a copy of it
                self._unread.setdefault(path.stat().st_size, []).append(path)

    def contain(self, size: int, digest: str) -> bool:
        """Tell whether a file of the set has this content, be it the same file, a link to it or a copy."""
        self._digests.update(other for *_, other in _readable(self._unread.pop(size, []), []))
        return digest in self._digests


def _readable(paths: Iterable[Path], skipped: list[str]) -> Iterator[tuple[Path, int, str]]:
    """Yield path, size and SHA-256 of each file; one that can't be read is passed over and named in ``skipped``."""
    for path in paths:
        try:
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):  # a pipe or a device might never end
                raise OSError("not a regular file")
            digest = file_sha256(path)
        except OSError as error:  # noqa: PERF203  beside reading the file it costs nothing
            skipped.append(f"{path}: {error.strerror or error}")
        else:
            yield path, facts.st_size, digest


def _stratified(candidates: Iterable[LabelledFile]) -> list[Path]:
    """Order all candidates so that a beginning of any length is stratified by class, randomly within a class."""
    classes: dict[str, list[Path]] = {}
    for candidate in candidates:
        classes.setdefault(candidate.label, []).append(candidate.path)
    ranked: list[tuple[float, float, Path]] = []
    for label, paths in sorted(classes.items()):
        random = np.random.default_rng(zlib.crc32(label.encode(errors="surrogateescape")))
        tie = float(random.random())
        order = random.permutation(len(paths))
        ranked += [(rank / len(paths), tie, paths[index]) for rank, index in enumerate(order)]
    return [path for *_, path in sorted(ranked)]
