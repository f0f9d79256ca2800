"""Which images calibrate, and how they reach the graph: chosen by content, read in batches by the one preprocessing."""

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

from ..runtime.digest import file_sha256
from ..runtime.errors import CalibrationError, ImageError
from ..runtime.preprocess import Preprocessor, read_image
from ..runtime.spec import ModelSpec

__all__ = ["BATCH", "COUNT", "CalibrationImages", "Candidate", "choose_images", "read_batches"]

COUNT = 500
BATCH = 8

Tensor = npt.NDArray[np.float32]


class Candidate(Protocol):
    """An image file and its class, as training lists them; an empty label where there are no classes."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def label(self) -> str:
        """Its class."""


@dataclass(frozen=True)
class CalibrationImages:
    """The images to calibrate on, no two alike.

    Attributes:
        paths: the files, stratified.
        sha256s: of their contents, in the same order.
        duplicates: how many candidates were dropped as copies of another.
        excluded: how many were dropped because they validate the model too.
        skipped: files that are not there, and why.
    """

    paths: tuple[Path, ...]
    sha256s: tuple[str, ...]
    duplicates: int = 0
    excluded: int = 0
    skipped: tuple[str, ...] = ()


def choose_images(
    candidates: Sequence[Candidate], *, validation: Iterable[Path] = (), count: int = COUNT
) -> CalibrationImages:
    """Choose images with distinct contents: first one of each class, then the classes in proportion to their sizes.

    The choice is the same each time. Whether the files are images is found out when they are read.

    Args:
        candidates: in any order.
        validation: files whose contents the choice must not hold, under whatever name.
        count: how many to choose at most.

    Raises:
        CalibrationError: none is left.
    """
    held_out = _Files(validation)
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
    paths: Iterable[Path], spec: ModelSpec, *, batch: int = BATCH, on_skip: Callable[[str], None] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Read and preprocess images, one at a time, into batches.

    Args:
        paths: image files.
        spec: whose preprocessing.
        batch: rows of each batch; the last may have fewer.
        on_skip: told of each image that can't be read, which is passed over.

    Yields:
        ``image`` (N, S, S, 3) and ``sequence`` (N, T, S*S/T), float32, those that the spec's branches use.
    """
    preprocessor = Preprocessor(spec)
    tensors, row = preprocessor.allocate(batch), 0
    for path in paths:
        try:
            preprocessor.fill(read_image(path), tensors, row)
        except ImageError as error:
            if on_skip is not None:
                on_skip(str(error))
            continue
        row += 1
        if row == batch:
            yield tensors
            tensors, row = preprocessor.allocate(batch), 0
    if row:
        yield {name: tensor[:row] for name, tensor in tensors.items()}


class _Files:
    """Files to compare others with by content; only those of the same size are ever read."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._unread: dict[int, list[Path]] = {}
        self._digests: set[str] = set()
        for path in paths:
            with contextlib.suppress(OSError):  # gone: there is nothing that could be a copy of it
                self._unread.setdefault(path.stat().st_size, []).append(path)

    def contain(self, size: int, digest: str) -> bool:
        """Whether one of these has this content, be it the same file, a link to it or a copy."""
        self._digests.update(other for *_, other in _readable(self._unread.pop(size, []), []))
        return digest in self._digests


def _readable(paths: Iterable[Path], skipped: list[str]) -> Iterator[tuple[Path, int, str]]:
    """Path, size and SHA-256 of each file; those that can't be read are passed over and named."""
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


def _stratified(candidates: Iterable[Candidate]) -> list[Path]:
    """All of them, ordered so that a beginning of any length is stratified; random within a class."""
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
