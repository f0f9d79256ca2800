"""Finds TensorRT and the GPU, loads an engine, compares it with its spec, and makes the contexts in which it runs."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

from ...engines.build import PreparedEngine
from ...engines.gpu import Gpu
from ...engines.library import Library, Messages, find_library, installed, make_interface
from ...engines.progress import Reporter
from ...errors import BackendUnavailableError, EngineError
from ...frame import OUTPUT_NAMES
from ...spec import ModelSpec
from ..cuda import DeviceMemory, find_gpu

LayerTimes = defaultdict[str, float]  # milliseconds by the layer's name, added up over all executions

OUT_OF_MEMORY = re.compile("out ?of ?memory", re.IGNORECASE)  # "OutOfMemory" of TensorRT's codes, and CUDA's own text


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


class StaleEngineError(EngineError):
    """An engine is whole and was made here, and TensorRT refuses it all the same: the driver or the system changed."""


def tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input and output of the spec's engine, without the batch axis."""
    return {**spec.inputs, **dict.fromkeys(OUTPUT_NAMES, (spec.num_classes,))}


class LoadedEngine:
    """An engine on the GPU; its contexts share the memory of their activations, so only one may run at a time.

    ``device`` names engine, version and device for messages; ``integrated`` says that the GPU shares the CPU's memory;
    ``messages`` are what TensorRT said of this engine so far. Opening raises StaleEngineError where TensorRT refuses
    the engine, which a new build may mend, and EngineError where its tensors are not the spec's or there is too little
    memory.
    """

    def __init__(self, prepared: PreparedEngine, spec: ModelSpec, library: Library, gpu: Gpu) -> None:
        self.device = f"{library.label} on {gpu.name}"
        self.integrated = gpu.integrated
        self._library = library
        self.messages = Messages()
        trt = library.module
        runtime, _ = make_interface(library, trt.Runtime, self.messages)
        engine = runtime.deserialize_cuda_engine(prepared.engine.data)
        if engine is None:
            raise self._not_loaded(prepared)
        self._check(engine, spec)
        self._runtime, self._engine = runtime, engine
        self._profilers: list[Any] = []
        self._prepared = prepared
        kernels = prepared.kernels
        self._kept_digest = _digest(kernels or b"")
        with ExitStack() as stack:
            self._activations = stack.enter_context(DeviceMemory(max(1, int(engine.device_memory_size_v2))))
            self._eager_contexts = library.eager_contexts(engine, kernels)
            stack.pop_all()

    @property
    def compiles(self) -> bool:
        """Whether kernels are compiled for a batch size when it first runs."""
        return self._eager_contexts is not None

    def context(self) -> Any:
        """Make an execution context, to be dropped before the engine is closed; EngineError if TensorRT gives none."""
        trt = self._library.module
        if self._eager_contexts is not None:
            context = self._eager_contexts.context()
        else:
            context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise self.failure("create_execution_context", "a smaller --profile or --workspace needs less memory")
        context.set_device_memory(self._activations.address, self._activations.size)
        return context

    def note_layers(self, context: Any) -> LayerTimes:
        """Have a context report each layer's time; TensorRT then waits for each of its executions."""
        times: LayerTimes = defaultdict(float)
        profiler = make_profiler(self._library, times)
        context.profiler = profiler
        self._profilers.append(profiler)  # the context holds only the profiler's address
        return times

    def describe_layers(self, context: Any) -> dict[str, str]:
        """Return the ONNX nodes that each layer was made of, by the layer's name, where TensorRT says so.

        Kernels that TensorRT compiles itself have names such as ``__myl_FcCastMul_myl3_7``.
        """
        trt = self._library.module
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = context
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        try:
            layers = json.loads(text)["Layers"]
            return {layer["Name"]: layer["Metadata"].replace("\x1f", " ") for layer in layers if layer.get("Metadata")}
        except (ValueError, TypeError, LookupError, AttributeError):  # other versions may write other JSON
            return {}

    def keep_kernels(self, reporter: Reporter) -> None:
        """Keep what TensorRT-RTX compiled beside the engine, if that became more; do nothing with TensorRT."""
        kernels = b"" if self._eager_contexts is None else self._eager_contexts.kernels()
        digest = _digest(kernels)
        if kernels and digest != self._kept_digest:
            self._kept_digest = digest
            self._prepared.keep_kernels(
                kernels, lambda reason: reporter.say(f"{reason}; the next start compiles its kernels again")
            )

    def can_capture(self, context: Any, stream: int) -> bool:
        """Return whether a CUDA graph may capture the context's next execution, as far as TensorRT says so."""
        # without eager contexts TensorRT-RTX exchanges kernels later, and a graph would keep the old ones
        lazy = self._library.kind == "rtx" and self._eager_contexts is None
        return not lazy and self._library.can_capture(context, stream)

    def failure(self, call: str, remedy: str) -> EngineError:
        """Make the error for a call that TensorRT answered with False or None, from its messages, and clear those."""
        text = self.messages.summary
        self.messages.clear()
        return EngineError(f"{self.device}: {call} failed: {text}; {remedy}")

    def close(self) -> None:
        """Drop the engine before its runtime, then the activations; calling it again does nothing."""
        if self._eager_contexts is not None:
            self._eager_contexts.close()
        self._engine = None
        self._runtime = None
        self._activations.close()

    def _not_loaded(self, prepared: PreparedEngine) -> EngineError:
        """Make the error for an engine that was refused: too little memory, which no build would change, or stale."""
        text = f"{self.device} does not load {prepared.path} (deserialize_cuda_engine: {self.messages.summary})"
        if OUT_OF_MEMORY.search(text):
            return EngineError(f"{text}; end other programs, or take a narrower --precision")
        return StaleEngineError(text)

    def _check(self, engine: Any, spec: ModelSpec) -> None:
        trt = self._library.module
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {name: (tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)) for name in names}
        expected = {name: ((-1, *shape), trt.DataType.FLOAT) for name, shape in tensor_shapes(spec).items()}
        if found != expected:
            raise EngineError(
                f"expected an engine with the tensors {_shapes(expected)}, float32, found {_shapes(found)}; the graph "
                "is not the one its spec describes: export it again"
            )


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _shapes(tensors: dict[str, tuple[tuple[int, ...], Any]]) -> str:
    return ", ".join(f"{name} {shape}" for name, (shape, _) in sorted(tensors.items()))


def make_profiler(library: Library, times: LayerTimes) -> Any:
    """Make an IProfiler that adds to ``times``; its class is made here, as its base has to be imported first."""
    trt = library.module

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # pybind11 wants this call, not super()'s

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times[layer_name] += ms

    return Profiler()
