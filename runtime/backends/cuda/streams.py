"""The GPU works in order on a stream; events let one stream wait for another; a graph is launched by one call."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from ...errors import BackendError
from . import driver
from .memory import DeviceMemory

__all__ = ["Event", "Graph", "Stream", "capture"]

Array = npt.NDArray[Any]


class Event(driver.Owned):
    """A point in a stream's work that another stream or the CPU can wait for.

    Raises:
        BackendError: the driver failed.
    """

    def __init__(self) -> None:
        rt = driver.runtime()
        # blocking, because a CPU that spins while it waits is a core less for preprocessing
        super().__init__(driver.call(rt.cudaEventCreateWithFlags, rt.cudaEventDisableTiming | rt.cudaEventBlockingSync))

    def synchronize(self) -> None:
        """Wait until the work before the event on its stream is done; return at once if it was never recorded.

        Raises:
            BackendError: something on the GPU failed.
        """
        rt = driver.runtime()
        driver.call(rt.cudaEventSynchronize, self.item)

    def _give_back(self, item: Any) -> None:
        rt = driver.runtime()
        driver.call(rt.cudaEventDestroy, item)


class Stream(driver.Owned):
    """A queue of copies and an engine's work, done one after the other, beside what other streams do.

    Attributes:
        handle: the stream's address, by which TensorRT knows it.

    Raises:
        BackendUnavailableError: there is no cuda-python, no driver, or no GPU.
        BackendError: the driver failed.
    """

    def __init__(self) -> None:
        rt = driver.runtime()
        super().__init__(driver.call(rt.cudaStreamCreateWithFlags, rt.cudaStreamNonBlocking))
        self.handle = driver.handle(self.item)

    def zero(self, memory: DeviceMemory) -> None:
        """Fill memory on the GPU with zeros."""
        rt = driver.runtime()
        driver.call(rt.cudaMemsetAsync, memory.address, 0, memory.size, self.item)

    def upload(self, source: Array, target: int) -> None:
        """Begin to copy a C-contiguous ``HostMemory`` array to a GPU address; leave it alone until that is done."""
        rt = driver.runtime()
        self._copy(target, source.ctypes.data, source.nbytes, rt.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, source: int, target: Array) -> None:
        """Begin to copy from a GPU address to a C-contiguous ``HostMemory`` array; read it once that is done."""
        rt = driver.runtime()
        self._copy(target.ctypes.data, source, target.nbytes, rt.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def record(self, event: Event) -> None:
        """Put an event behind what is on the stream so far."""
        rt = driver.runtime()
        driver.call(rt.cudaEventRecord, event.item, self.item)

    def wait(self, event: Event) -> None:
        """Let what comes next on this stream wait for an event as it was last recorded on another stream."""
        rt = driver.runtime()
        driver.call(rt.cudaStreamWaitEvent, self.item, event.item, 0)

    def synchronize(self) -> None:
        """Wait until everything on the stream is done.

        Raises:
            BackendError: something on the stream failed.
        """
        rt = driver.runtime()
        driver.call(rt.cudaStreamSynchronize, self.item)

    def _give_back(self, item: Any) -> None:
        rt = driver.runtime()
        driver.call(rt.cudaStreamDestroy, item)

    def _copy(self, target: int, source: int, size: int, direction: Any) -> None:
        rt = driver.runtime()
        driver.call(rt.cudaMemcpyAsync, target, source, size, direction, self.item)


class Graph(driver.Owned):
    """Work that was captured from a stream; launching a graph costs one call, however many kernels it has."""

    def launch(self, stream: Stream) -> None:
        """Put the graph's work on a stream.

        Raises:
            BackendError: the driver refused the graph.
        """
        rt = driver.runtime()
        driver.call(rt.cudaGraphLaunch, self.item, stream.item)

    def _give_back(self, item: Any) -> None:
        rt = driver.runtime()
        driver.call(rt.cudaGraphExecDestroy, item)


def capture(stream: Stream, work: Callable[[], object]) -> Graph:
    """Capture what ``work`` puts on the stream as a graph, instead of doing it.

    Raises:
        BackendError: ``work`` did something that can't be captured: memory, synchronization, control by the CPU. The
            stream is as it was before. What ``work`` itself raises is passed on.
    """
    try:
        return _capture(stream, work)
    except BaseException:
        # TensorRT asks for CUDA's last error after its kernels, and would take this one for its own
        rt = driver.runtime()
        rt.cudaGetLastError()
        raise


def _capture(stream: Stream, work: Callable[[], object]) -> Graph:
    rt = driver.runtime()
    # thread local, so that what other threads do with CUDA meanwhile neither fails nor spoils the capture
    mode = rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    driver.call(rt.cudaStreamBeginCapture, stream.item, mode)
    try:
        work()
    except BaseException:
        with contextlib.suppress(BackendError):  # the call ends the capture even if it answers that it was spoilt
            _destroy_graph(driver.call(rt.cudaStreamEndCapture, stream.item))
        raise
    return _instantiate(driver.call(rt.cudaStreamEndCapture, stream.item))


def _instantiate(graph: Any) -> Graph:
    rt = driver.runtime()
    try:
        return Graph(driver.call(rt.cudaGraphInstantiate, graph, 0))
    finally:
        _destroy_graph(graph)


def _destroy_graph(graph: Any) -> None:
    rt = driver.runtime()
    driver.call(rt.cudaGraphDestroy, graph)
