"""An engine, loaded: compared with its spec, and given contexts to run in."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import ExitStack
from typing import Any

from ...engines.gpu import Gpu
from ...engines.library import Library
from ...engines.messages import Messages, connect
from ...engines.prepare import Prepared
from ...engines.progress import Reporter
from ...errors import EngineError
from ...outputs import OUTPUT_NAMES
from ...spec import ModelSpec
from ..cuda import DeviceMemory
from .layers import LayerTimes, make_profiler

__all__ = ["LoadedEngine", "StaleEngineError", "tensor_shapes"]

OUT_OF_MEMORY = re.compile("out ?of ?memory", re.IGNORECASE)  # "OutOfMemory" of TensorRT's codes, and CUDA's own text


class StaleEngineError(EngineError):
    """An engine that is whole and was made here, and that TensorRT does not take: the driver or the system changed."""


def tensor_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every input and output of the spec's engine, without its batch."""
    return {**spec.inputs, **dict.fromkeys(OUTPUT_NAMES, (spec.num_classes,))}


class LoadedEngine:
    """An engine on the GPU. Its contexts share the memory of their activations: only one may run at a time.

    Args:
        prepared: the engine's bytes: those that the cache's record names.
        spec: whose inputs and outputs it has.
        library: which TensorRT.
        gpu: this machine's.

    Attributes:
        device: for people: ``TensorRT 10.3.0 on Orin``.
        integrated: its GPU shares the CPU's memory.

    Raises:
        BackendUnavailableError: TensorRT does not start here.
        StaleEngineError: TensorRT does not take it.
        EngineError: its tensors are not the spec's, or TensorRT found too little memory.
        BackendError: there is too little memory.
    """

    def __init__(self, prepared: Prepared, spec: ModelSpec, library: Library, gpu: Gpu) -> None:
        self.device = f"{library.label} on {gpu.name}"
        self.integrated = gpu.integrated
        self._library = library
        self._messages = Messages()
        trt = library.module
        runtime, _ = connect(library, trt.Runtime, self._messages)
        engine = runtime.deserialize_cuda_engine(prepared.engine.data)
        if engine is None:
            raise self._not_loaded(prepared)
        self._check(engine, spec)
        self._runtime, self._engine = runtime, engine
        self._profilers: list[Any] = []
        self._prepared = prepared
        kernels = prepared.kernels
        self._kept = _digest(kernels or b"")
        with ExitStack() as stack:
            self._activations = stack.enter_context(DeviceMemory(max(1, int(engine.device_memory_size_v2))))
            self._eager = library.eager_contexts(engine, kernels)
            stack.pop_all()

    @property
    def compiles(self) -> bool:
        """Whether kernels are compiled for a batch size when it first runs."""
        return self._eager is not None

    def context(self) -> Any:
        """A new execution context; to be dropped before the engine is closed.

        Raises:
            EngineError: TensorRT gave none.
        """
        trt = self._library.module
        if self._eager is not None:
            context = self._eager.context()
        else:
            context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise self.failure("create_execution_context", "a smaller --profile or --workspace needs less memory")
        context.set_device_memory(self._activations.address, self._activations.size)
        return context

    def note_layers(self, context: Any) -> LayerTimes:
        """Have a context report each layer's time; each of its executions is then waited for."""
        times = LayerTimes()
        profiler = make_profiler(self._library, times)
        context.profiler = profiler
        self._profilers.append(profiler)  # the context has no more than its address
        return times

    def describe_layers(self, context: Any) -> dict[str, str]:
        """The ONNX nodes that each layer was made of, by the layer's name, for those of which TensorRT says it.

        Kernels that it compiles itself have names of its own: ``__myl_FcCastMul_myl3_7``.
        """
        trt = self._library.module
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = context
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        try:
            layers = json.loads(text)["Layers"]
            return {layer["Name"]: layer["Metadata"].replace("\x1f", " ") for layer in layers if layer.get("Metadata")}
        except (ValueError, TypeError, LookupError, AttributeError):  # JSON of other versions: what is not told
            return {}

    def keep_kernels(self, reporter: Reporter) -> None:
        """Keep what TensorRT-RTX compiled beside the engine, if that became more; nothing with TensorRT."""
        kernels = b"" if self._eager is None else self._eager.kernels()
        digest = _digest(kernels)
        if kernels and digest != self._kept:
            self._kept = digest
            self._prepared.keep_kernels(
                kernels, lambda reason: reporter.say(f"{reason}; the next start compiles its kernels again")
            )

    def can_capture(self, context: Any, stream: int) -> bool:
        """Whether TensorRT leaves its next execution to a CUDA graph, as far as it says so."""
        # a graph would keep kernels that are to be exchanged
        lazy = self._library.kind == "rtx" and self._eager is None
        return not lazy and self._library.can_capture(context, stream)

    def failure(self, call: str, remedy: str) -> EngineError:
        """The error for a call that TensorRT answered with False or None: in its own words, which it then forgets."""
        text = self._messages.summary
        self._messages.clear()
        return EngineError(f"{self.device}: {call} failed: {text}; {remedy}")

    def forget(self) -> None:
        """Forget what TensorRT said so far: what comes next has other reasons."""
        self._messages.clear()

    def close(self) -> None:
        """Let go of the engine before its runtime, then of the activations; calling it again does nothing."""
        if self._eager is not None:
            self._eager.close()
        self._engine = None
        self._runtime = None
        self._activations.close()

    def _not_loaded(self, prepared: Prepared) -> EngineError:
        """For want of memory, which another build would not change; else the engine is stale."""
        text = f"{self.device} does not load {prepared.path} (deserialize_cuda_engine: {self._messages.summary})"
        if OUT_OF_MEMORY.search(text):
            return EngineError(f"{text}; end other programs, or take a narrower --precision")
        return StaleEngineError(text)

    def _check(self, engine: Any, spec: ModelSpec) -> None:
        """Compare the engine's declared inputs and outputs with the spec's."""
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
