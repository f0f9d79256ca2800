"""Reads a bundle's arrays, a NumPy file (.npz) whose arrays' names and shapes are known, some rows at a time.

NumPy's own reader believes a header, and unpacks an array as a whole; here every size is known before that.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np
import numpy.typing as npt

MAGIC = b"\x93NUMPY\x01\x00"  # of format 1.0, which NumPy writes wherever it can
OVERHEAD = 2**14  # bytes of an npz beside its arrays' values: names, headers, directory
PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
FAULTS = (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, EOFError, OSError, MemoryError)

Rows = dict[str, npt.NDArray[np.float32]]


def read_rows(data: bytes, shapes: Mapping[str, tuple[int, ...]], count: int, size: int) -> Iterator[Rows]:
    """Yield ``size`` rows of each array at a time, float32, of ``count`` rows; ``shapes`` are those of a row by name.

    Raises:
        ValueError: the file is damaged, or has other arrays, or values that are not finite; the message says which.
    """
    limit = OVERHEAD + 5 * count * sum(map(math.prod, shapes.values()))  # packing may add a little
    if len(data) > limit:
        raise ValueError(f"{len(data)} bytes, of which so many arrays need {limit} at most")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: _open(archive, name, (count, *shape)) for name, shape in shapes.items()}
            for start in range(0, count, size):
                rows = min(size, count - start)
                yield {name: _read(member, name, (rows, *shapes[name])) for name, member in members.items()}
    except FAULTS as error:
        raise ValueError(str(error)[:200] or type(error).__name__) from None


def _open(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> IO[bytes]:
    """Open an array behind its header, which must be the one that NumPy writes for that shape, but for its spaces."""
    if archive.getinfo(f"{name}.npy").compress_type not in PACKINGS:
        raise ValueError(f"{name} in an unknown packing")
    member = archive.open(f"{name}.npy")
    start = member.read(len(MAGIC) + 2)
    header = member.read(int.from_bytes(start[-2:], "little"))
    expected = f"{{'descr':'<f4','fortran_order':False,'shape':({','.join(map(str, shape))}),}}"
    if not start.startswith(MAGIC) or b"".join(header.split()) != expected.encode():
        raise ValueError(f"{name} with the header {header[:100]!r}")
    return member


def _read(member: IO[bytes], name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    rows = np.frombuffer(member.read(4 * math.prod(shape)), "<f4")
    if len(rows) != math.prod(shape) or not np.isfinite(rows).all():
        raise ValueError(f"{name} cut off, or not finite")
    return rows.reshape(shape).astype(np.float32)
