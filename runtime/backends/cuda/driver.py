"""Calls cuda-python's functions with their error codes checked, and finds out what the GPU is."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ...engines.gpu import Gpu
from ...errors import BackendError, BackendUnavailableError

__all__ = ["Owned", "call", "find_gpu", "free_memory", "handle", "runtime"]

# where cuda-python has its functions: from 12.6 on, then before
MODULES = ("cuda.bindings.runtime", "cuda.cudart")
# errors that say that the driver is absent, too old for this cuda-python, or sees no GPU
UNAVAILABLE = (
    "cudaErrorInsufficientDriver",
    "cudaErrorNoDevice",
    "cudaErrorStubLibrary",
    "cudaErrorSystemDriverMismatch",
)


# holds "NVIDIA Jetson Orin Nano Developer Kit", say: the GPUs of Orin NX and Orin Nano share name, compute capability
# and number of multiprocessors, but have other clocks, for which other kernels are the fastest
BOARD = Path("/proc/device-tree/model")


def find_gpu() -> Gpu:
    """Find the first NVIDIA GPU, on which everything here runs (CUDA_VISIBLE_DEVICES says which one is first).

    Raises:
        BackendUnavailableError: there is no cuda-python, no driver, or no GPU.
        BackendError: the driver failed.
    """
    rt = runtime()
    if call(rt.cudaGetDeviceCount) < 1:
        raise BackendUnavailableError("no NVIDIA GPU is visible here; nvidia-smi and CUDA_VISIBLE_DEVICES say why")
    properties = call(rt.cudaGetDeviceProperties, 0)
    free, total = call(rt.cudaMemGetInfo)
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
    """Return how many bytes of the GPU's memory are free now.

    Raises:
        BackendError: the driver failed.
    """
    rt = runtime()
    return int(call(rt.cudaMemGetInfo)[0])


@cache
def runtime() -> Any:
    """Import the module with CUDA's runtime functions, once.

    Raises:
        BackendUnavailableError: cuda-python is not installed.
    """
    for name in MODULES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise BackendUnavailableError(
        "cuda-python can't be imported here; pip install 'hybrid-edge[tensorrt]' ('hybrid-edge[tensorrt-cu12]' below "
        "driver 580, 'hybrid-edge[jetson]' on a Jetson)"
    )


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call one of CUDA's functions, check the error code that comes first, and return what comes after it.

    Raises:
        BackendUnavailableError: there is no driver or GPU to call.
        BackendError: CUDA gave any other error; the message has the call and the error's name, number and text.
    """
    try:
        error, *values = function(*arguments)
    except RuntimeError as fault:  # cuda-python 12.6, which loads the driver itself: "Failed to dlopen libcuda.so.1"
        raise BackendUnavailableError(f"no NVIDIA GPU can be used here ({fault}, from {function.__name__})") from fault
    rt = runtime()
    if error != rt.cudaError_t.cudaSuccess:
        raise _failure(function.__name__, error)
    return values[0] if len(values) == 1 else tuple(values)


def handle(item: Any) -> int:
    """Return the address behind one of CUDA's objects, as TensorRT wants it."""
    try:
        utils = importlib.import_module("cuda.bindings.utils")  # from cuda-python 12.9.1 on, which is to drop int()
    except ImportError:
        return int(item)
    return int(item) if isinstance(item, int) else int(utils.get_cuda_native_handle(item))


class Owned:
    """Something that CUDA gave and wants back once; use it as a context manager, or ``close`` it."""

    def __init__(self, item: Any) -> None:
        self._item = item

    @property
    def item(self) -> Any:
        """CUDA's own object, or an address.

        Raises:
            BackendError: the object was given back.
        """
        if self._item is None:
            raise BackendError(f"this CUDA {type(self).__name__} was given back; open the backend again")
        return self._item

    def _give_back(self, item: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Give the object back once nothing uses it any more; calling it again does nothing."""
        if self._item is not None:
            item, self._item = self._item, None
            self._give_back(item)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Self = TypeVar("Self", bound=Owned)


def _failure(function: str, error: Any) -> BackendError:
    rt = runtime()
    reason = f"{error.name}, code {int(error)}"
    with contextlib.suppress(RuntimeError):  # cuda-python 12.6 asks the driver for it, which may be what is missing
        reason += f": {_text(rt.cudaGetErrorString(error))}"
    if error.name in UNAVAILABLE:
        return BackendUnavailableError(
            f"no NVIDIA GPU can be used here ({reason}, from {function}); nvidia-smi shows the driver and its CUDA "
            "version: below driver 580 take the extras for CUDA 12, such as 'hybrid-edge[tensorrt-cu12]', on a Jetson "
            "'hybrid-edge[jetson]'"
        )
    hint = "; a smaller --batch, --profile or --workspace needs less memory" if "Memory" in error.name else ""
    return BackendError(f"CUDA's {function} failed ({reason}){hint}")


def _on_board(name: str) -> str:
    try:
        model = BOARD.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return name
    return f"{name} ({model})" if model else name


def _text(answer: tuple[Any, bytes]) -> str:
    return answer[1].decode(errors="replace")
