"""CUDA's runtime: memory, one stream and what the GPU is. The only module that knows cuda-python."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any, TypeVar

import numpy.typing as npt

from ..engines.gpu import Gpu
from ..errors import BackendError, BackendUnavailableError

__all__ = ["DeviceBuffer", "Stream", "find_gpu"]

Self = TypeVar("Self", bound="Stream")
Array = npt.NDArray[Any]

# cuda-python 12.6 and later, then before
MODULES = ("cuda.bindings.runtime", "cuda.cudart")
# the driver is absent, too old for this cuda-python, or sees no GPU
UNAVAILABLE = (
    "cudaErrorInsufficientDriver",
    "cudaErrorNoDevice",
    "cudaErrorStubLibrary",
    "cudaErrorSystemDriverMismatch",
)


def find_gpu() -> Gpu:
    """The first NVIDIA GPU, which is the one everything here runs on (CUDA_VISIBLE_DEVICES says which is first).

    Raises:
        BackendUnavailableError: no cuda-python, no driver, or no GPU.
        BackendError: the driver failed.
    """
    rt = _runtime()
    if _call(rt.cudaGetDeviceCount) < 1:
        raise BackendUnavailableError("no NVIDIA GPU is visible here; nvidia-smi and CUDA_VISIBLE_DEVICES say why")
    properties = _call(rt.cudaGetDeviceProperties, 0)
    free, total = _call(rt.cudaMemGetInfo)
    name = properties.name.decode(errors="replace").rstrip("\0")
    capability = (int(properties.major), int(properties.minor))
    return Gpu(name, capability, bool(properties.integrated), int(total), int(free))


@dataclass
class DeviceBuffer:
    """Memory on the GPU: its address and its size in bytes."""

    address: int
    size: int


class Stream:
    """A stream on which copies and an engine's work follow each other, and the memory that they use.

    A context manager; or ``close`` it.

    Raises:
        BackendUnavailableError: no cuda-python, no driver, or no GPU.
        BackendError: the driver failed.
    """

    def __init__(self) -> None:
        rt = _runtime()
        self._buffers: list[DeviceBuffer] = []
        self._stream: Any = _call(rt.cudaStreamCreateWithFlags, rt.cudaStreamNonBlocking)

    @property
    def handle(self) -> int:
        """What TensorRT calls the stream: its address."""
        return int(self._stream)

    def allocate(self, size: int) -> DeviceBuffer:
        """Memory on the GPU, zeroed on this stream, that is given back with it.

        Args:
            size: bytes, at least 1.

        Raises:
            BackendError: not that much is free.
        """
        rt = _runtime()
        buffer = DeviceBuffer(int(_call(rt.cudaMalloc, size)), size)
        self._buffers.append(buffer)
        _call(rt.cudaMemsetAsync, buffer.address, 0, size, self._stream)
        return buffer

    def upload(self, source: Array, target: DeviceBuffer) -> None:
        """Copy a C-contiguous array to the GPU; it must live until ``synchronize``."""
        rt = _runtime()
        self._copy(target.address, source.ctypes.data, source.nbytes, rt.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def download(self, source: DeviceBuffer, target: Array) -> None:
        """Copy to a C-contiguous array, which is filled by ``synchronize`` and must live until then."""
        rt = _runtime()
        self._copy(target.ctypes.data, source.address, target.nbytes, rt.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def synchronize(self) -> None:
        """Wait until everything on the stream is done.

        Raises:
            BackendError: something on it failed.
        """
        rt = _runtime()
        _call(rt.cudaStreamSynchronize, self._stream)

    def close(self) -> None:
        """Give the stream and its memory back; calling it again does nothing."""
        rt = _runtime()
        while self._buffers:
            _call(rt.cudaFree, self._buffers.pop().address)  # waits for what still uses it
        if self._stream is not None:
            stream, self._stream = self._stream, None
            _call(rt.cudaStreamDestroy, stream)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _copy(self, target: int, source: int, size: int, direction: Any) -> None:
        rt = _runtime()
        _call(rt.cudaMemcpyAsync, target, source, size, direction, self._stream)


@cache
def _runtime() -> Any:
    for name in MODULES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise BackendUnavailableError(
        "cuda-python can't be imported here; pip install 'hybrid-edge[tensorrt]' ('hybrid-edge[jetson]' on a Jetson); "
        "its major version is that of the driver's CUDA: 12 on JetPack 6, 13 on JetPack 7"
    )


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call one of CUDA's functions, which return an error code first; give back the rest.

    Raises:
        BackendUnavailableError: there is no driver or GPU to call.
        BackendError: any other error, with CUDA's own name and text.
    """
    error, *values = function(*arguments)
    rt = _runtime()
    if error != rt.cudaError_t.cudaSuccess:
        raise _failure(function.__name__, error)
    return values[0] if len(values) == 1 else tuple(values)


def _failure(function: str, error: Any) -> BackendError:
    rt = _runtime()
    text = _text(rt.cudaGetErrorString(error))
    if error.name in UNAVAILABLE:
        return BackendUnavailableError(
            f"no NVIDIA GPU can be used here ({error.name}: {text}); nvidia-smi shows the driver and its CUDA version"
        )
    hint = "; a smaller --profile or --workspace needs less memory" if "Memory" in error.name else ""
    return BackendError(f"CUDA's {function} failed ({error.name}: {text}){hint}")


def _text(answer: tuple[Any, bytes]) -> str:
    return answer[1].decode(errors="replace")
