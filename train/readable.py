"""Finds the images that can't be read in full: every file is decoded once, and what was readable is remembered."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..runtime.console import progress
from ..runtime.errors import ImageError
from ..runtime.preprocess import read_image
from ..runtime.storage import cache_dir, replacing

__all__ = ["unreadable"]

KEY_BYTES = 16
QUIET_SECONDS = 1.5  # a check that ends sooner shows no progress bar
THREADS = min(os.cpu_count() or 1, 8)  # decoding leaves the GIL; more threads only hold more decoded images
CHUNK = 16 * THREADS


def unreadable(paths: Sequence[Path], data: Path) -> dict[Path, str]:
    """Read every image in full and return those that can't be, with the reason, in the order given.

    Files found readable before, of the same path, size and modification time, are not read again. What is readable is
    remembered in ``CACHE/checked/``, 16 bytes an image, one file for each data set; a fault is looked at anew.

    Args:
        paths: image files.
        data: the data set they belong to, which names the cache's file.
    """
    store = cache_dir() / "checked" / f"{hashlib.sha256(os.fsencode(os.path.abspath(data))).hexdigest()[:32]}.bin"  # noqa: PTH100  links stay
    known = _load(store)
    keys = {path: _key(path) for path in paths}
    unknown = [path for path in paths if keys[path] not in known]
    good = [key for key in keys.values() if key is not None and key in known]
    bad: dict[Path, str] = {}
    try:
        for path, reason in _read_all(unknown):
            key = keys[path]
            if reason:
                bad[path] = reason
            elif key is not None:
                good.append(key)
    finally:  # an interrupted check keeps what it has seen
        if unknown:
            _save(store, good)
    return bad


def _read_all(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each path with the reason why it can't be read, or an empty string; show a bar if that takes long."""
    begin = time.monotonic()
    bar = progress(unit="images")
    task = bar.add_task("checking images", total=len(paths))
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        shown = False
        for start in range(0, len(paths), CHUNK):  # in chunks, so that Ctrl-C waits for few
            chunk = paths[start : start + CHUNK]
            yield from zip(chunk, pool.map(_reason, chunk), strict=True)
            bar.update(task, completed=start + len(chunk))
            if not shown and time.monotonic() - begin > QUIET_SECONDS:
                stack.enter_context(bar)
                shown = True


def _reason(path: Path) -> str:
    try:
        read_image(path)
    except ImageError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def _key(path: Path) -> bytes | None:
    """Identify a file's content without reading it, in ``KEY_BYTES`` bytes; None for a file that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    text = b"\0".join((os.fsencode(os.path.abspath(path)), b"%d" % stat.st_size, b"%d" % stat.st_mtime_ns))  # noqa: PTH100
    return hashlib.blake2b(text, digest_size=KEY_BYTES).digest()


def _load(store: Path) -> set[bytes]:
    try:
        data = store.read_bytes()
    except OSError:
        return set()
    if len(data) % KEY_BYTES:  # a file that is not ours counts as absent
        return set()
    return {data[i : i + KEY_BYTES] for i in range(0, len(data), KEY_BYTES)}


def _save(store: Path, keys: Sequence[bytes]) -> None:
    # a cache that can't be written costs time at the next start and nothing else
    with contextlib.suppress(OSError), replacing(store) as partial:
        partial.write_bytes(b"".join(keys))
