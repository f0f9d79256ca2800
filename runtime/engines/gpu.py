"""Gpu: what building and caching must know of a GPU; ``backends/cuda`` asks the driver for it."""

from __future__ import annotations

import platform
from dataclasses import dataclass

__all__ = ["Gpu"]


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: as the driver gives it: ``NVIDIA GeForce RTX 4070``; where it shares the CPU's memory, with the board's.
        compute_capability: major and minor: (8, 9).
        integrated: it shares the CPU's memory, as a Jetson's does, and reads it in place.
        total_memory: bytes.
        free_memory: bytes, at the moment of asking.
        multiprocessors: how many it has; the driver gives all Jetson Orins one name and one compute capability.
    """

    name: str
    compute_capability: tuple[int, int]
    integrated: bool
    total_memory: int
    free_memory: int
    multiprocessors: int = 0

    @property
    def architecture(self) -> str:
        """``sm89``."""
        major, minor = self.compute_capability
        return f"sm{major}{minor}"

    @property
    def is_jetson(self) -> bool:
        """Whether TensorRT-RTX, which is for desktop cards, must be kept away from it."""
        return self.integrated or self.architecture == "sm87" or platform.machine() == "aarch64"
