"""Lists the arrays of an HDF5 file of weights, and refuses whatever else HDF5 can hold or point to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py

from ..runtime.errors import ModelFileError

MAX_DEPTH = 64  # folders in folders: a model inside a model adds two
MAX_OBJECTS = 100_000  # an EfficientNetV2L with its optimizer has 9,000
SPARSE = 2**20  # bytes: below it, an array may be larger than what is stored of it
MAX_EXPANSION = 20  # times: trained weights hardly compress
# gzip, shuffle, Fletcher32, szip and h5py's lzf; any other is a library that HDF5 would look for on the disk
FILTERS = (1, 2, 3, 4, 32000)


def arrays_of(file: h5py.File, path: Path) -> list[Any]:
    """Return the datasets of an open file, whose name in errors is ``path``; none of them is read.

    Raises:
        ModelFileError: something links elsewhere (softly, to another file, or twice to one object), is stored outside,
            is no array of numbers, claims more than is stored of it, or the file is a maze.
    """
    found: list[Any] = []
    seen = {_address(file)}
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
            if isinstance(item, h5py.Group):
                folders.append((item, depth + 1))
            else:
                _check_array(item, path)
                found.append(item)
    return found


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
