"""Allocates memory on the GPU, and memory of the CPU that the GPU copies from at full speed or reads in place."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

from . import driver

__all__ = ["DeviceMemory", "HostMemory"]

ITEM_SIZE = 4  # bytes of a float32


class DeviceMemory(driver.Owned):
    """Memory on the GPU, whose first content is unknown.

    Args:
        size: the number of bytes, at least 1.

    Raises:
        BackendError: not that much memory is free.
    """

    def __init__(self, size: int) -> None:
        rt = driver.runtime()
        super().__init__(int(driver.call(rt.cudaMalloc, size)))
        self.size = size

    @property
    def address(self) -> int:
        """The memory's address on the GPU, a multiple of 256."""
        return int(self.item)

    def _give_back(self, item: int) -> None:
        rt = driver.runtime()
        driver.call(rt.cudaFree, item)


class HostMemory(driver.Owned):
    """A float32 array in page-locked memory of the CPU, zeroed; it must not be touched once it was given back.

    The memory is cached, not write-combined: preprocessing reads the image again for its mean.

    Args:
        shape: the array's shape.
        mapped: whether the GPU is to read and write the array in place.

    Raises:
        BackendError: not that much memory is free, or may be locked.
    """

    def __init__(self, shape: tuple[int, ...], *, mapped: bool = False) -> None:
        rt = driver.runtime()
        size = ITEM_SIZE * int(np.prod(shape))
        flags = rt.cudaHostAllocMapped if mapped else rt.cudaHostAllocDefault
        start = int(driver.call(rt.cudaHostAlloc, size, flags))
        super().__init__(start)
        values = np.ctypeslib.as_array((ctypes.c_float * (size // ITEM_SIZE)).from_address(start))
        self.array: npt.NDArray[np.float32] = values.reshape(shape)
        self.array.fill(0)

    @property
    def address(self) -> int:
        """The address at which the GPU finds mapped memory, a multiple of 256."""
        rt = driver.runtime()
        return int(driver.call(rt.cudaHostGetDevicePointer, self.item, 0))

    def _give_back(self, item: int) -> None:
        rt = driver.runtime()
        driver.call(rt.cudaFreeHost, item)
