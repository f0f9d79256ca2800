"""Walks the inputs in a fixed order and cuts them into chunks: so many names, or one tar.

A chunk is what a shard or a node of a cluster takes. Its number depends on the inputs and the part size alone, so that
every process that walks the same inputs cuts them alike. No more than one folder's names are in memory.
"""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ..errors import SourceError
from ..frame import Frame
from ..sources.media_files import find_media, natural_order
from .score_request import ScoreRequest

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
STDIN = "-"


@dataclass(frozen=True)
class Chunk:
    """Some images by their names, or the path or address of a tar.

    ``names`` are pairs: a name, and None or the reason why nothing can be read there.
    """

    number: int
    names: tuple[tuple[str, str | None], ...] = ()
    tar: str | None = None


def walk_chunks(request: ScoreRequest, left_out: Counter[str] | None = None) -> Iterator[Chunk]:
    """Yield a request's chunks in their order, whichever shard they are of.

    ``left_out`` counts by suffix what folders hold besides images and tars.

    Raises:
        SourceError: an input does not exist or can't be read.
    """
    number = 0
    names: list[tuple[str, str | None]] = []
    for name, error in _walk_names(request, Counter() if left_out is None else left_out):
        is_tar = error is None and name.lower().endswith(TAR_SUFFIXES)
        if not is_tar:
            names.append((name, error))
        if names and (is_tar or len(names) == request.part_size):
            yield Chunk(number, tuple(names))
            number, names = number + 1, []
        if is_tar:
            yield Chunk(number, tar=name)
            number += 1
    if names:
        yield Chunk(number, tuple(names))


def is_address(name: str) -> bool:
    """Tell whether a name is the address of something that is not a local file, such as ``s3://bucket/cat.jpg``."""
    return "://" in name


def countable(request: ScoreRequest) -> bool:
    """Tell whether the inputs may be walked a second time at little cost, to know how many chunks there will be."""
    return request.listed != STDIN and not any(map(is_address, request.inputs))


def check_inputs(request: ScoreRequest) -> None:
    """Raise SourceError for an input or a list that does not exist, before anything is opened for it."""
    for name in request.inputs:
        if not is_address(name) and not os.path.lexists(name) and not any(glob.iglob(name, recursive=True)):  # noqa: PTH207
            raise SourceError(f"{name}: expected a file, a folder, a glob or an address, found nothing of that name")
    if request.listed not in (None, STDIN) and not os.path.isfile(str(request.listed)):  # noqa: PTH113
        raise SourceError(f"--from-list {request.listed}: expected a file of names, found none")


def _walk_names(request: ScoreRequest, left_out: Counter[str]) -> Iterator[tuple[str, str | None]]:
    for name in request.inputs:
        yield from _walk_input(name, left_out)
    if request.listed is None:
        return
    with _open_list(request.listed) as lines:
        for line in lines:
            if name := line.rstrip("\r\n"):
                yield name, None


def _open_list(listed: str) -> TextIO | nullcontext[TextIO]:
    if listed == STDIN:
        return nullcontext(sys.stdin)
    return Path(listed).open(encoding="utf-8", errors="surrogateescape")


def _walk_input(name: str, left_out: Counter[str]) -> Iterator[tuple[str, str | None]]:
    if is_address(name):
        from .remote import find_addresses  # noqa: PLC0415  # fsspec only where there is an address

        yield from ((found, None) for found in find_addresses(name, left_out, TAR_SUFFIXES))
    elif os.path.isdir(name):  # noqa: PTH112
        for found in find_media(Path(name), left_out, videos=False, also=TAR_SUFFIXES):
            yield (found.source, found.error) if isinstance(found, Frame) else (str(found), None)
    elif os.path.lexists(name) or not glob.has_magic(name):
        yield name, None
    else:
        for match in sorted(glob.iglob(name, recursive=True), key=natural_order):  # noqa: PTH207
            yield from _walk_input(match, left_out)
