"""Finds the TensorRT and the GPU that this machine has."""

from __future__ import annotations

from ...engines.gpu import Gpu
from ...engines.library import Library, find_library, installed
from ...errors import BackendUnavailableError
from ..cuda import find_gpu

__all__ = ["find_tensorrt"]


def find_tensorrt() -> tuple[Library, Gpu]:
    """Find TensorRT and the GPU; take TensorRT-RTX where TensorRT is not installed, but never on a Jetson.

    Raises:
        BackendUnavailableError: TensorRT or the GPU is missing, or TensorRT is too old.
    """
    if not (installed("tensorrt") or installed("rtx")):
        raise BackendUnavailableError(
            "TensorRT is not installed here; pip install 'hybrid-edge[tensorrt]', or 'hybrid-edge[rtx]' for a desktop "
            "RTX card; on a Jetson it comes with JetPack"
        )
    gpu = find_gpu()
    if installed("tensorrt"):
        return find_library("tensorrt"), gpu
    if gpu.is_jetson:
        raise BackendUnavailableError(
            f"TensorRT is not installed here, and TensorRT-RTX, which is, is for desktop RTX cards, not for {gpu.name} "
            "(a Jetson, or a GPU that shares its memory): take JetPack's TensorRT (apt install python3-libnvinfer)"
        )
    return find_library("rtx"), gpu
