"""TensorRT as the backend calls it, on ``fake_gpu``'s CUDA: an engine is the ONNX graph, run by ONNX Runtime.

What TensorRT's guides demand is demanded: addresses that are multiples of 256, memory of the GPU; one execution before
a context is captured; nothing set in a context whose graph is launched; activations that no two executions use at once
(each leaves its results there halfway, and takes them from there).

As TensorRT-RTX (a ``Library`` of that kind) it compiles kernels where it runs: a context without EAGER specialization
computes with others at first, and what was compiled is in the runtime cache of its context.
"""

# ruff: noqa: ARG002  # the signatures are TensorRT's

from __future__ import annotations

import ctypes
import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

from hybrid_edge.runtime.engines.build import BuiltEngine
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from support.gpu.fake_gpu import ALIGNMENT, DEVICE, FakeCuda, Op

OUTPUTS = ("logits", "probabilities")


class Severity(enum.Enum):
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class FakeTensorRt:
    """The names of ``tensorrt`` that the backend uses, over a ``FakeCuda``.

    Attributes:
        refuses: what fails: ``runtime``, ``engine``, ``context``, ``shape``, ``address``, ``execution`` or ``capture``.
        executions: how often ``execute_async_v3`` put work on a stream, captures left out.
        last_error: in the CUDA runtime that TensorRT brings along: a capture or a context that fails leaves it,
            and the next execution fails of it.
        context_memory: of the GPU's, that each context takes, bytes.
        compiled: batch sizes for which kernels were compiled, each time.
        layers: how long each layer takes, by its name, milliseconds, as a profiler hears of it.
        inspector: what the engine's inspector says.
    """

    DataType = SimpleNamespace(FLOAT="float32")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager")
    BuilderFlag = SimpleNamespace(REQUIRE_USER_ALLOCATION="user allocation")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    class ILogger:
        """What the gathering logger is made from."""

        ERROR, WARNING, INFO, VERBOSE = Severity

    class IProfiler:
        """What the noting profiler is made from."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.refuses = ""
        self.executions = 0
        self.contexts = 0
        self.last_error = False
        self.context_memory = 0
        self.compiled: list[int] = []
        self.layers: dict[str, float] = {}
        self.inspector = "{}"
        self.logger: Any = None

    def Runtime(self, logger: Any) -> Any:
        self.logger = logger
        if self.refuses == "runtime":  # as TensorRT 10 does where the driver is too old for its CUDA
            logger.log(Severity.WARNING, "CUDA initialization failure with error: 35.")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(deserialize_cuda_engine=self._engine)

    def refused(self, what: str, message: str) -> bool:
        if self.refuses == what:
            self.logger.log(Severity.ERROR, message)
        return self.refuses == what

    def _engine(self, data: bytes) -> Any:
        return None if self.refused("engine", "the engine plan file is not compatible") else _Engine(self, data)


class _Engine:
    def __init__(self, trt: FakeTensorRt, data: bytes) -> None:
        header, _, graph = data.partition(b"\n")
        self.trt = trt
        self.profile = json.loads(header)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.inputs = [item.name for item in self.session.get_inputs()]
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.shapes = {item.name: tuple(item.shape[1:]) for item in tensors}
        self.num_io_tensors = len(tensors)
        self.device_memory_size_v2 = 4 * self.profile[2] * sum(int(np.prod(self.shapes[name])) for name in OUTPUTS)

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.shapes[name])

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def create_runtime_config(self) -> _RuntimeConfig:
        return _RuntimeConfig()

    def create_execution_context(self, config: Any) -> Any:
        made = config if isinstance(config, _RuntimeConfig) else _RuntimeConfig(strategy=config, eager="eager")
        assert made.strategy == "user managed"
        self.trt.contexts += 1
        self.trt.cuda.free -= self.trt.context_memory
        if self.trt.refuses == "context":
            self.trt.last_error = True
            return None
        return _Context(self, made)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: self.trt.inspector)


class _RuntimeCache:
    """The batch sizes for which there are kernels."""

    def __init__(self) -> None:
        self.sizes: set[int] = set()

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.sizes)).encode()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"["):
            return False
        self.sizes = set(json.loads(blob))
        return True


class _RuntimeConfig:
    def __init__(self, *, strategy: str = "static", eager: str = "lazy") -> None:
        self.strategy = strategy
        self.dynamic_shapes_kernel_specialization_strategy = eager
        self.cache = _RuntimeCache()

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> _RuntimeCache:
        return _RuntimeCache()

    def set_runtime_cache(self, cache: _RuntimeCache) -> bool:
        self.cache = cache
        return True


class _Context:
    def __init__(self, engine: _Engine, config: _RuntimeConfig) -> None:
        self.profiler: Any = None
        self._config = config
        self._executions = 0
        self._engine, self._trt, self._cuda = engine, engine.trt, engine.trt.cuda
        self._addresses: dict[str, int] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._settled: dict[str, tuple[int, ...]] = {}  # the shapes of the last execution
        self._memory = 0
        self._changes = 0

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self._engine.device_memory_size_v2
        self._memory = address

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self._trt.refused("address", "null address"):
            return False
        assert address % ALIGNMENT == 0, "TensorRT takes multiples of 256"
        assert address >= DEVICE, "an address of the CPU's"
        self._changes += 1
        self._addresses[name] = address
        return name in self._engine.shapes

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._trt.refused("shape", "outside of the profile"):
            return False
        smallest, _, largest = self._engine.profile
        self._changes += 1
        self._shapes[name] = shape
        return smallest <= shape[0] <= largest and shape[1:] == self._engine.shapes[name]

    def execute_async_v3(self, handle: int) -> bool:
        if self._trt.refused("execution", "Error Code 1: Cuda Runtime (an illegal memory access)"):
            return False
        stream = self._cuda.streams[handle]
        capturing = stream.captured is not None
        settled = self._settled == self._shapes
        if capturing and (self._trt.refused("capture", "a loop is controlled by the CPU") or not settled):
            stream.spoilt = self._trt.last_error = True
            return False
        if self._trt.last_error:
            self._trt.last_error = False
            self._trt.logger.log(Severity.ERROR, "Error Code 1: Cuda Runtime (of the capture before)")
            return False
        self._trt.executions += not capturing
        self._settled = dict(self._shapes)
        self._compile()
        begin, end = self._steps(self._changes if capturing else None)
        stream.add(Op(begin))
        stream.add(Op(end))
        self._cuda.answer("execute_async_v3")
        for layer, milliseconds in self._trt.layers.items() if self.profiler is not None else ():
            self.profiler.report_layer_time(layer, milliseconds)
        return True

    def _compile(self) -> None:
        """Kernels for this batch size, unless there are some."""
        batch = next(iter(self._shapes.values()))[0]
        self._executions += 1
        if batch not in self._config.cache.sizes:
            self._config.cache.sizes.add(batch)
            self._trt.compiled.append(batch)

    def _steps(self, changes: int | None) -> tuple[Any, Any]:
        """What this execution does first, and then, as the context is set now."""
        addresses = dict(self._addresses)
        batch = next(iter(self._shapes.values()))[0]
        assert all(shape[0] == batch for shape in self._shapes.values())
        sizes = [4 * batch * int(np.prod(self._engine.shapes[name])) for name in OUTPUTS]
        lazy = self._config.dynamic_shapes_kernel_specialization_strategy == "lazy"
        rounding = np.float32(1.001 if lazy and self._executions < 4 else 1)  # of kernels that fit any size

        def begin() -> None:
            assert changes in (None, self._changes), "a graph whose context was changed after it was captured"
            inputs = {name: self._array(addresses[name], name, batch).copy() for name in self._engine.inputs}
            results = [item * rounding for item in self._engine.session.run(list(OUTPUTS), inputs)]
            data = b"".join(np.ascontiguousarray(item).tobytes() for item in results)
            ctypes.memmove(self._cuda.resolve(self._memory, len(data)), data, len(data))

        def end() -> None:
            start = self._memory
            for name, size in zip(OUTPUTS, sizes, strict=True):
                ctypes.memmove(self._cuda.resolve(addresses[name], size), self._cuda.resolve(start, size), size)
                start += size

        return begin, end

    def _array(self, address: int, name: str, batch: int) -> Any:
        shape = (batch, *self._engine.shapes[name])
        size = 4 * int(np.prod(shape))
        there = self._cuda.resolve(address, size)
        return np.frombuffer((ctypes.c_char * size).from_address(there), np.float32).reshape(shape)


def fake_build(onnx: Path, spec: Any, options: EngineOptions, *_: Any, **__: Any) -> BuiltEngine:
    """In place of ``build_engine``: the graph itself, with its profile in front."""
    engine = json.dumps(options.profile).encode() + b"\n" + onnx.read_bytes()
    return BuiltEngine(engine, b"times", 0.1)
