"""Gathers how long an engine's layers take, as TensorRT's profiler reports it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ...engines.library import Library

__all__ = ["LayerTimes", "make_profiler"]


class LayerTimes:
    """Milliseconds by the layer's name, added up over all executions since ``clear``."""

    def __init__(self) -> None:
        self.ms: defaultdict[str, float] = defaultdict(float)

    def add(self, layer: str, ms: float) -> None:
        """Add a layer's time; TensorRT calls this once for each layer of each execution."""
        self.ms[layer] += ms

    def clear(self) -> None:
        """Forget the times so far."""
        self.ms.clear()


def make_profiler(library: Library, times: LayerTimes) -> Any:
    """Make an IProfiler that adds to ``times``; its class is made here, as its base has to be imported first."""
    trt = library.module

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # pybind11 wants this call, not super()'s

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.add(layer_name, ms)

    return Profiler()
