"""This module alone knows cuda-python: what the GPU is, its memory, and the work that is put on it.

Whatever CUDA gives is an object that gives it back when it is closed. Each call may raise BackendUnavailableError
where there is no cuda-python, no driver or no GPU, and BackendError with CUDA's own words for anything else.

    HostMemory     memory of the CPU ──► copied, or read in place ──► DeviceMemory     memory of the GPU
    CudaStream     copies and an engine's work, done one after the other, beside what other streams do
    CudaEvent      a point in a stream's work, for which another stream or the CPU waits
    CudaGraph      work that was captured from a stream, launched again by one call
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from ..engines.gpu import Gpu
from ..errors import BackendError, BackendUnavailableError

Array = npt.NDArray[Any]
Self = TypeVar("Self", bound="CudaResource")

# where cuda-python has its functions: from 12.6 on, then before
CUDA_PYTHON_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
# errors that say that the driver is absent, too old for this cuda-python, or sees no GPU
UNAVAILABLE_ERRORS = (
    "cudaErrorInsufficientDriver",
    "cudaErrorNoDevice",
    "cudaErrorStubLibrary",
    "cudaErrorSystemDriverMismatch",
)
# holds "NVIDIA Jetson Orin Nano Developer Kit", say: the GPUs of Orin NX and Orin Nano share name, compute capability
# and number of multiprocessors, but have other clocks, for which other kernels are the fastest
BOARD_MODEL_FILE = Path("/proc/device-tree/model")
FLOAT32_SIZE = 4  # bytes


def find_gpu() -> Gpu:
    """Find the first NVIDIA GPU, on which everything here runs (CUDA_VISIBLE_DEVICES says which one is first)."""
    if call("cudaGetDeviceCount") < 1:
        raise BackendUnavailableError("no NVIDIA GPU is visible here; nvidia-smi and CUDA_VISIBLE_DEVICES say why")
    properties = call("cudaGetDeviceProperties", 0)
    free, total = call("cudaMemGetInfo")
    name = properties.name.decode(errors="replace").rstrip("\0")
    return Gpu(
        name=_on_board(name) if properties.integrated else name,
        compute_capability=(int(properties.major), int(properties.minor)),
        # only where the driver maps the CPU's memory can a GPU that shares it do without copies
        integrated=bool(properties.integrated) and bool(properties.canMapHostMemory),
        total_memory=int(total),
        free_memory=int(free),
        multiprocessors=int(properties.multiProcessorCount),
    )


def free_memory() -> int:
    """Return how many bytes of the GPU's memory are free now."""
    return int(call("cudaMemGetInfo")[0])


@cache
def runtime() -> Any:
    """Import the module with CUDA's runtime functions, once."""
    for name in CUDA_PYTHON_MODULES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise BackendUnavailableError(
        "cuda-python can't be imported here; pip install 'hybrid-edge[tensorrt]' ('hybrid-edge[tensorrt-cu12]' below "
        "driver 580, 'hybrid-edge[jetson]' on a Jetson)"
    )


def call(function: str, *arguments: Any) -> Any:
    """Call a function of CUDA's runtime, check the error code that comes first, and return what comes after it.

    BackendUnavailableError says that there is no driver or GPU, BackendError that CUDA gave any other error; its
    message has the call and the error's name, number and text.
    """
    rt = runtime()
    try:
        error, *values = getattr(rt, function)(*arguments)
    except RuntimeError as fault:  # cuda-python 12.6, which loads the driver itself: "Failed to dlopen libcuda.so.1"
        raise BackendUnavailableError(f"no NVIDIA GPU can be used here ({fault}, from {function})") from fault
    if error != rt.cudaError_t.cudaSuccess:
        raise _failure(function, error)
    return values[0] if len(values) == 1 else tuple(values)


def handle(item: Any) -> int:
    """Return the address behind one of CUDA's objects, as TensorRT wants it."""
    try:
        utils = importlib.import_module("cuda.bindings.utils")  # from cuda-python 12.9.1 on, which is to drop int()
    except ImportError:
        return int(item)
    return int(item) if isinstance(item, int) else int(utils.get_cuda_native_handle(item))


class CudaResource:
    """Something that CUDA gave and wants back once; use it as a context manager, or ``close`` it."""

    release: ClassVar[str]  # the function of CUDA that takes it back

    def __init__(self, item: Any) -> None:
        self._item = item

    @property
    def item(self) -> Any:
        """CUDA's own object, or an address; BackendError if it was given back."""
        if self._item is None:
            raise BackendError(f"this {type(self).__name__} was given back to CUDA; open the backend again")
        return self._item

    def close(self) -> None:
        """Give the object back once nothing uses it any more; calling it again does nothing."""
        if self._item is not None:
            item, self._item = self._item, None
            call(self.release, item)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DeviceMemory(CudaResource):
    """``size`` bytes of the GPU's memory, at least 1, whose first content is unknown."""

    release = "cudaFree"

    def __init__(self, size: int) -> None:
        super().__init__(int(call("cudaMalloc", size)))
        self.size = size

    @property
    def address(self) -> int:
        """The memory's address on the GPU, a multiple of 256."""
        return int(self.item)


class HostMemory(CudaResource):
    """A float32 array in page-locked memory of the CPU, zeroed; it must not be touched once it was given back.

    The memory is cached, not write-combined: preprocessing reads the image again for its mean. If it is ``mapped``, the
    GPU can read and write it in place.
    """

    release = "cudaFreeHost"

    def __init__(self, shape: tuple[int, ...], *, mapped: bool = False) -> None:
        rt = runtime()
        size = FLOAT32_SIZE * int(np.prod(shape))
        flags = rt.cudaHostAllocMapped if mapped else rt.cudaHostAllocDefault
        start = int(call("cudaHostAlloc", size, flags))
        super().__init__(start)
        values = np.ctypeslib.as_array((ctypes.c_float * (size // FLOAT32_SIZE)).from_address(start))
        self.array: npt.NDArray[np.float32] = values.reshape(shape)
        self.array.fill(0)

    @property
    def address(self) -> int:
        """The address at which the GPU finds mapped memory, a multiple of 256."""
        return int(call("cudaHostGetDevicePointer", self.item, 0))


class CudaEvent(CudaResource):
    """A point in a stream's work that another stream or the CPU can wait for."""

    release = "cudaEventDestroy"

    def __init__(self) -> None:
        rt = runtime()
        # blocking, because a CPU that spins while it waits is a core less for preprocessing
        super().__init__(call("cudaEventCreateWithFlags", rt.cudaEventDisableTiming | rt.cudaEventBlockingSync))

    def synchronize(self) -> None:
        """Wait until the work before the event on its stream is done; return at once if it was never recorded."""
        call("cudaEventSynchronize", self.item)


class CudaStream(CudaResource):
    """A queue of copies and an engine's work, done one after the other; ``handle`` is its address, for TensorRT."""

    release = "cudaStreamDestroy"

    def __init__(self) -> None:
        rt = runtime()
        super().__init__(call("cudaStreamCreateWithFlags", rt.cudaStreamNonBlocking))
        self.handle = handle(self.item)

    def zero(self, memory: DeviceMemory) -> None:
        """Fill memory on the GPU with zeros."""
        call("cudaMemsetAsync", memory.address, 0, memory.size, self.item)

    def upload(self, source: Array, target: int) -> None:
        """Begin to copy a C-contiguous ``HostMemory`` array to a GPU address; leave it alone until that is done."""
        rt = runtime()
        self._copy(target, source.ctypes.data, source.nbytes, rt.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, source: int, target: Array) -> None:
        """Begin to copy from a GPU address to a C-contiguous ``HostMemory`` array; read it once that is done."""
        rt = runtime()
        self._copy(target.ctypes.data, source, target.nbytes, rt.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def record(self, event: CudaEvent) -> None:
        """Put an event behind what is on the stream so far."""
        call("cudaEventRecord", event.item, self.item)

    def wait(self, event: CudaEvent) -> None:
        """Let what comes next on this stream wait for an event as it was last recorded on another stream."""
        call("cudaStreamWaitEvent", self.item, event.item, 0)

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        call("cudaStreamSynchronize", self.item)

    def _copy(self, target: int, source: int, size: int, direction: Any) -> None:
        call("cudaMemcpyAsync", target, source, size, direction, self.item)


class CudaGraph(CudaResource):
    """Work that was captured from a stream; launching a graph costs one call, however many kernels it has."""

    release = "cudaGraphExecDestroy"

    def launch(self, stream: CudaStream) -> None:
        """Put the graph's work on a stream."""
        call("cudaGraphLaunch", self.item, stream.item)


def capture(stream: CudaStream, work: Callable[[], object]) -> CudaGraph:
    """Capture what ``work`` puts on the stream as a graph, instead of doing it.

    BackendError says that ``work`` did something that can't be captured: memory, synchronization, control by the CPU;
    the stream is then as it was before. What ``work`` itself raises is passed on.
    """
    try:
        return _capture(stream, work)
    except BaseException:
        # TensorRT asks for CUDA's last error after its kernels, and would take this one for its own
        rt = runtime()
        rt.cudaGetLastError()
        raise


def _capture(stream: CudaStream, work: Callable[[], object]) -> CudaGraph:
    rt = runtime()
    # thread local, so that what other threads do with CUDA meanwhile neither fails nor spoils the capture
    call("cudaStreamBeginCapture", stream.item, rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    try:
        work()
    except BaseException:
        with contextlib.suppress(BackendError):  # the call ends the capture even if it answers that it was spoilt
            call("cudaGraphDestroy", call("cudaStreamEndCapture", stream.item))
        raise
    captured = call("cudaStreamEndCapture", stream.item)
    try:
        return CudaGraph(call("cudaGraphInstantiate", captured, 0))
    finally:
        call("cudaGraphDestroy", captured)


def _failure(function: str, error: Any) -> BackendError:
    rt = runtime()
    reason = f"{error.name}, code {int(error)}"
    with contextlib.suppress(RuntimeError):  # cuda-python 12.6 asks the driver for it, which may be what is missing
        reason += f": {rt.cudaGetErrorString(error)[1].decode(errors='replace')}"
    if error.name in UNAVAILABLE_ERRORS:
        return BackendUnavailableError(
            f"no NVIDIA GPU can be used here ({reason}, from {function}); nvidia-smi shows the driver and its CUDA "
            "version: below driver 580 take the extras for CUDA 12, such as 'hybrid-edge[tensorrt-cu12]', on a Jetson "
            "'hybrid-edge[jetson]'"
        )
    hint = "; a smaller --batch, --profile or --workspace needs less memory" if "Memory" in error.name else ""
    return BackendError(f"CUDA's {function} failed ({reason}){hint}")


def _on_board(name: str) -> str:
    try:
        model = BOARD_MODEL_FILE.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return name
    return f"{name} ({model})" if model else name
