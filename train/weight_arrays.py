"""Lists the arrays of an HDF5 file of weights, and refuses whatever else HDF5 can hold, point to or claim."""

from __future__ import annotations

import contextlib
import math
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from ..runtime.errors import ModelFileError

MAX_DEPTH = 64  # folders in folders: a model inside a model adds two
MAX_OBJECTS = 100_000  # an EfficientNetV2L with its optimizer has 9,000
SPARSE = 2**20  # bytes: below it, an array may be larger than what is stored of it
SPARSE_IN_ALL = 2**24  # the same of all arrays together
MAX_EXPANSION = 20  # times: trained weights hardly compress
SPARE_MEMORY = 2**28  # bytes that a look at all arrays and names may take; an EfficientNetV2L's takes 30 MB
SMALL = 2**12  # elements of arrays that no model's own need be: the state of random numbers, counts of steps
# gzip, shuffle, Fletcher32, szip and h5py's lzf; any other is a library that HDF5 would look for on the disk
FILTERS = (1, 2, 3, 4, 32000)


@contextmanager
def _memory_bounded() -> Iterator[None]:
    """Let this process take at most ``SPARE_MEMORY`` more while nothing but HDF5 runs.

    HDF5 believes a file in many places: an attribute of 4,000 names, each the same megabyte, has 60 KB.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(OSError, StopIteration, ValueError):  # where the system does not tell, it stays as it is
        lines = Path("/proc/self/status").read_text().splitlines()
        used = 1024 * int(next(line for line in lines if line.startswith("VmData:")).split()[1])
        if before[0] == resource.RLIM_INFINITY or used + SPARE_MEMORY < before[0]:
            resource.setrlimit(resource.RLIMIT_DATA, (used + SPARE_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@_memory_bounded()
def arrays_of(file: h5py.File, path: Path) -> list[Any]:
    """Return the datasets of an open file, whose name in errors is ``path``; none of them is read.

    Raises:
        ModelFileError: something links elsewhere (softly, to another file, or twice to one object), is stored outside,
            is no array of numbers, claims more than is stored of it, or more than the whole file ``path`` can hold; or
            the file is a maze.
    """
    found: list[Any] = []
    seen = {_address(file)}
    _check_attributes(file, path)
    folders = [(file, 0)]
    while folders:
        group, depth = folders.pop()
        if depth > MAX_DEPTH:
            raise ModelFileError(f"{path}: {group.name[:200]} lies more than {MAX_DEPTH} groups deep; refused")
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ModelFileError(f"{path}: {group.name}/{name} links elsewhere; a model file holds only arrays")
            item = group[name]
            address = _address(item)
            if address in seen:
                raise ModelFileError(f"{path}: {group.name}/{name} links elsewhere in the file; refused")
            seen.add(address)
            if len(seen) > MAX_OBJECTS:
                raise ModelFileError(f"{path}: holds more than {MAX_OBJECTS} arrays and groups; refused")
            _check_attributes(item, path)
            if isinstance(item, h5py.Group):
                folders.append((item, depth + 1))
            else:
                _check_array(item, path)
                found.append(item)
    _check_sum(found, path)
    return found


def check_fit(arrays: Iterable[Any], shapes: Iterable[tuple[int, ...]], path: Path) -> None:
    """Hold the arrays of a file against the shapes of the variables that they are to fill, before one is read.

    Raises:
        ModelFileError: an array has a shape that no variable has, or all have more elements than the variables.
    """
    wanted = [tuple(shape) for shape in shapes]
    large = [array for array in arrays if array.size > SMALL]
    for array in large:
        if tuple(array.shape) not in wanted:
            raise ModelFileError(
                f"{path}: {array.name[:200]} has the shape {array.shape}, {array.nbytes} bytes; expected one that a "
                "layer of the model has; damaged, or the weights of another model"
            )
    found, most = sum(array.size for array in large), sum(map(math.prod, wanted))
    if found > most:
        raise ModelFileError(
            f"{path}: its arrays have {found} elements; expected at most {most}, as many as the model has; damaged, or "
            "the weights of another model"
        )


def _check_attributes(item: Any, path: Path) -> None:
    """Read the attributes of a group or array once, as Keras will: what they claim must fit into little memory."""
    try:
        for name in item.attrs:
            item.attrs[name]
    except (MemoryError, OSError, RuntimeError, TypeError, ValueError):
        raise ModelFileError(
            f"{path}: an attribute of {item.name[:200]} is damaged, or far larger than a list of names; refused"
        ) from None


def _address(item: Any) -> int:
    return int(h5py.h5o.get_info(item.id).addr)


def _check_array(item: Any, path: Path) -> None:
    if not isinstance(item, h5py.Dataset):
        raise ModelFileError(f"{path}: {item.name} is neither an array nor a group; refused")
    if item.external or item.is_virtual:
        raise ModelFileError(f"{path}: {item.name} is stored outside the file; refused")
    if item.shape is None or item.dtype.kind not in "fiub" or item.dtype.itemsize > 8:
        raise ModelFileError(f"{path}: {item.name} is no array of numbers but of {item.dtype}; refused")
    settings = item.id.get_create_plist()
    if any(settings.get_filter(n)[0] not in FILTERS for n in range(settings.get_nfilters())):
        raise ModelFileError(f"{path}: {item.name} is packed by a library that is not part of HDF5; refused")
    stored = item.id.get_storage_size()
    if item.nbytes > SPARSE + MAX_EXPANSION * stored:
        raise ModelFileError(
            f"{path}: {item.name} claims the shape {item.shape}, {item.nbytes} bytes, of which {stored} are stored; "
            "refused"
        )


def _check_sum(arrays: list[Any], path: Path) -> None:
    """Refuse arrays that claim more in all than the file can hold: parts of it may be stored of several at once."""
    stored = min(sum(array.id.get_storage_size() for array in arrays), path.stat().st_size)
    claimed = sum(array.nbytes for array in arrays)
    if claimed > SPARSE_IN_ALL + MAX_EXPANSION * stored:
        raise ModelFileError(
            f"{path}: its arrays claim {claimed} bytes in all, of which {stored} are stored at most; refused"
        )
