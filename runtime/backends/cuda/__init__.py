"""This room owns CUDA, through cuda-python: the GPU, its memory, streams, events and graphs.

It hands out objects that give CUDA's resources back when they are closed, and turns error codes into BackendError. No
other room imports cuda-python, and this one must not know TensorRT, ONNX Runtime or bundles.

driver     calls whose error codes are checked; what the GPU is
memory     memory on the GPU, and memory of the CPU that the GPU reads
streams    work in order, on a stream; events between streams; graphs of work that is launched again and again
"""

from __future__ import annotations

from .driver import find_gpu, free_memory
from .memory import DeviceMemory, HostMemory
from .streams import Event, Graph, Stream, capture

__all__ = ["DeviceMemory", "Event", "Graph", "HostMemory", "Stream", "capture", "find_gpu", "free_memory"]
