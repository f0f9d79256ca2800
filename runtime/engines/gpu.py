"""A Gpu is what building and caching must know of a GPU; ``backends/cuda`` asks the driver for it."""

from __future__ import annotations

import platform
from dataclasses import dataclass

__all__ = ["Gpu"]


@dataclass(frozen=True)
class Gpu:
    """What building and caching must know of one NVIDIA GPU.

    Attributes:
        name: the driver's name, such as ``NVIDIA GeForce RTX 4070``, with the board's if it shares the CPU's memory.
        compute_capability: major and minor number, such as (8, 9).
        integrated: whether it shares the CPU's memory, as a Jetson's does, and reads it in place.
        total_memory: the GPU's memory, bytes.
        free_memory: the part that was free at the moment of asking, bytes.
        multiprocessors: their number; the driver gives all Jetson Orins one name and one compute capability.
    """

    name: str
    compute_capability: tuple[int, int]
    integrated: bool
    total_memory: int
    free_memory: int
    multiprocessors: int = 0

    @property
    def architecture(self) -> str:
        """The architecture's name, such as ``sm89``."""
        major, minor = self.compute_capability
        return f"sm{major}{minor}"

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson or like one, on which TensorRT-RTX, made for desktop cards, must not be used."""
        return self.integrated or self.architecture == "sm87" or platform.machine() == "aarch64"
