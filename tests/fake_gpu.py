"""A GPU in the CPU's memory: CUDA and TensorRT as the TensorRT backend calls them, for tests where there is none.

Work on a stream is done when the stream is synchronized and not before, as on a GPU that is busy: a result that is read
too early, or an input that is gone too early, shows. An "engine" is the ONNX graph itself, run by ONNX Runtime at the
addresses that the context was given; its name and its profile stand in front of it.
"""

# ruff: noqa: ARG002, N815  # the names and signatures are those of CUDA and TensorRT

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from hybrid_edge.runtime.engines.build import BuiltEngine
from hybrid_edge.runtime.engines.network import NetworkSummary
from hybrid_edge.runtime.engines.options import EngineOptions


class Error(enum.IntEnum):
    """What CUDA's calls answer first."""

    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class FakeCuda:
    """The names of ``cuda.bindings.runtime`` that the code uses."""

    cudaError_t = Error
    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, memory: int = 2**30) -> None:
        self.free = memory
        self.blocks: dict[int, Any] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if size > self.free:
            return Error.cudaErrorMemoryAllocation, None
        block = ctypes.create_string_buffer(b"\xff" * size, size)  # NaN, until something is written
        self.free -= size
        self.blocks[ctypes.addressof(block)] = block
        return Error.cudaSuccess, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple[Any]:
        self.free += len(self.blocks.pop(address))
        return (Error.cudaSuccess,)

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> tuple[Any]:
        self.streams[stream].append(lambda: ctypes.memset(address, value, size))  # type: ignore[arg-type]
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Any]:
        inside = self._block_of(target if kind == 1 else source)
        assert size <= inside, "a copy over a buffer's end"
        self.streams[stream].append(lambda: ctypes.memmove(target, source, size))  # type: ignore[arg-type]
        return (Error.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, int]:
        assert flags == self.cudaStreamNonBlocking
        stream = 1000 + len(self.streams)
        self.streams[stream] = []
        return Error.cudaSuccess, stream

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()
        return (Error.cudaSuccess,)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        del self.streams[stream]
        return (Error.cudaSuccess,)

    def cudaGetErrorString(self, error: Error) -> tuple[Any, bytes]:
        return Error.cudaSuccess, b"out of memory"

    def _block_of(self, address: int) -> int:
        return len(self.blocks[address])


class FakeTensorRt:
    """The names of ``tensorrt`` that the backend uses, over a ``FakeCuda``."""

    DataType = SimpleNamespace(FLOAT="float32")

    class ILogger:
        """What the gathering logger is made from."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.refuses = ""  # "engine" or "context": what comes out as None

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=lambda data: self._engine(logger, data))

    def _engine(self, logger: Any, data: bytes) -> Any:
        if self.refuses == "engine":
            logger.log(SimpleNamespace(name="ERROR"), "the engine plan file is not compatible")
            return None
        return _Engine(self, self._cuda, data)


class _Engine:
    def __init__(self, trt: FakeTensorRt, cuda: FakeCuda, data: bytes) -> None:
        header, _, graph = data.partition(b"\n")
        self._trt, self._cuda = trt, cuda
        self.profile = json.loads(header)
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.shapes = {item.name: tuple(item.shape[1:]) for item in tensors}
        self.num_io_tensors = len(tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.shapes[name])

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def create_execution_context(self) -> Any:
        return None if self._trt.refuses == "context" else _Context(self, self._cuda)


class _Context:
    def __init__(self, engine: _Engine, cuda: FakeCuda) -> None:
        self._engine, self._cuda = engine, cuda
        self._addresses: dict[str, int] = {}
        self._batch = 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in self._cuda.blocks
        self._addresses[name] = address
        return name in self._engine.shapes

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self._engine.profile
        self._batch = shape[0]
        return smallest <= shape[0] <= largest and shape[1:] == self._engine.shapes[name]

    def execute_async_v3(self, stream: int) -> bool:
        batch = self._batch
        self._cuda.streams[stream].append(lambda: self._run(batch))
        return True

    def _run(self, batch: int) -> None:
        session = self._engine.session
        inputs = {item.name: self._at(item.name, batch).copy() for item in session.get_inputs()}
        names = [item.name for item in session.get_outputs()]
        for name, value in zip(names, session.run(names, inputs), strict=True):
            self._at(name, batch)[...] = value

    def _at(self, name: str, batch: int) -> Any:
        shape = (batch, *self._engine.shapes[name])
        size = 4 * int(np.prod(shape))
        address = self._addresses[name]
        assert size <= len(self._cuda.blocks[address]), "a tensor over its buffer's end"
        return np.frombuffer((ctypes.c_char * size).from_address(address), np.float32).reshape(shape)


def fake_build(onnx: bytes, spec: Any, options: EngineOptions, *_: Any, **__: Any) -> BuiltEngine:
    """In place of ``build_engine``: the graph itself, with its profile in front."""
    engine = json.dumps(options.profile).encode() + b"\n" + onnx
    return BuiltEngine(engine, b"times", 0.1, NetworkSummary((), (), {}, 0, ()), ())
