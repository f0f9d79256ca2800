"""CUDA through cuda-python: the GPU, its memory, streams, events and graphs. The only package that knows it.

driver     calls whose error codes are checked; what the GPU is
memory     memory on the GPU, and memory of the CPU that the GPU reads
streams    work in order, on a stream; events between streams; graphs of work that is launched again and again
"""

from __future__ import annotations

from .driver import find_gpu, free_memory
from .memory import DeviceMemory, HostMemory
from .streams import Event, Graph, Stream, capture

__all__ = ["DeviceMemory", "Event", "Graph", "HostMemory", "Stream", "capture", "find_gpu", "free_memory"]
