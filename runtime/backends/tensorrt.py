"""TensorRT and TensorRT-RTX: an engine built for this GPU, run as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..digest import file_sha256
from ..engines.cache import EngineCache
from ..engines.gpu import Gpu
from ..engines.library import Library, find_library, installed
from ..engines.messages import Messages, make_logger
from ..engines.options import EngineOptions
from ..engines.prepare import Place, Prepared, prepare_engine
from ..engines.progress import Reporter
from ..errors import BackendUnavailableError, EngineError
from ..outputs import OUTPUT_NAMES
from ..spec import ModelSpec
from .base import Backend
from .cuda import DeviceBuffer, Stream, find_gpu

__all__ = ["TensorRtBackend", "find_tensorrt"]

Tensor = npt.NDArray[np.float32]

ITEM_SIZE = 4  # bytes: inputs and outputs are float32 whatever the precision inside


class TensorRtBackend(Backend):
    """A graph as a TensorRT engine, from the cache or built now; batches over the profile's largest are split.

    Args:
        model: the ONNX file, already verified.
        spec: what the graph was made for.
        threads: of the CPU; TensorRT needs none.
        sha256: the ONNX file's, where it is known.
        options: batch profile and workspace.
        reporter: whom to tell while an engine is built.

    Raises:
        BackendUnavailableError: no TensorRT, no cuda-python, no driver or no GPU.
        EngineError: TensorRT could not build, load or hold the engine.
        Int8EngineError: it does not build this quantized graph here.
    """

    def __init__(
        self,
        model: Path,
        spec: ModelSpec,
        *,
        threads: int | None = None,
        sha256: str | None = None,
        options: EngineOptions | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self._sha256 = sha256
        self._options = options or EngineOptions()
        self._reporter = reporter or Reporter()
        self._stack = ExitStack()
        super().__init__(model, spec, threads=threads)

    @classmethod
    def require(cls) -> None:
        """Refuse where there is no TensorRT or no GPU."""
        find_tensorrt()

    @property
    def device(self) -> str:
        """``TensorRT 10.3.0 on Orin``."""
        return f"{self._library.label} on {self._gpu.name}"

    def _load(self, model: Path, threads: int | None) -> None:  # noqa: ARG002  # nothing runs on the CPU
        self._library, self._gpu = find_tensorrt()
        place = Place(self._library, self._gpu, EngineCache(), self._reporter)
        sha256 = self._sha256 or file_sha256(model)
        prepared = prepare_engine(model, sha256, self.spec, self._options, place)
        try:
            self._open(prepared)
        except _StaleEngineError as error:
            if prepared.built:
                raise
            self._reporter.say(f"{error}; building it again")
            prepared.forget()
            self._open(prepare_engine(model, sha256, self.spec, self._options, place))

    def _open(self, prepared: Prepared) -> None:
        with ExitStack() as stack:
            self._stream = stack.enter_context(Stream())
            self._messages = Messages()
            stack.callback(self._drop)
            self._deserialize(prepared)
            self._buffers = self._allocate()
            self._stack = stack.pop_all()

    def _deserialize(self, prepared: Prepared) -> None:
        """Load the engine: its bytes are those that the cache's record names."""
        trt = self._library.module
        runtime = trt.Runtime(make_logger(self._library, self._messages))
        engine = runtime.deserialize_cuda_engine(prepared.engine.data)
        if engine is None:
            raise _StaleEngineError(f"{self.device} does not load {prepared.path}: {self._messages.summary}")
        self._check_engine(engine)
        context = engine.create_execution_context()
        if context is None:
            raise self._failure("could not prepare the engine", "a smaller --profile or --workspace needs less memory")
        self._runtime, self._engine, self._context = runtime, engine, context

    def _check_engine(self, engine: Any) -> None:
        """Compare the engine's declared inputs and outputs with the spec's."""
        trt = self._library.module
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {name: (tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)) for name in names}
        outputs = dict.fromkeys(OUTPUT_NAMES, (self.spec.num_classes,))
        expected = {name: ((-1, *shape), trt.DataType.FLOAT) for name, shape in {**self.spec.inputs, **outputs}.items()}
        if found != expected:
            raise EngineError(
                f"expected an engine with the tensors {_shapes(expected)}, float32, found {_shapes(found)}; the graph "
                "is not the one its spec describes: export it again"
            )

    def _allocate(self) -> dict[str, DeviceBuffer]:
        """A buffer for each tensor, large enough for the profile's largest batch, and known to the context."""
        largest = self._options.profile[2]
        shapes = {**self.spec.inputs, **dict.fromkeys(OUTPUT_NAMES, (self.spec.num_classes,))}
        buffers = {}
        for name, shape in shapes.items():
            buffers[name] = self._stream.allocate(ITEM_SIZE * largest * int(np.prod(shape)))
            if not self._context.set_tensor_address(name, buffers[name].address):
                raise self._failure(f"refused a buffer for {name}", "export the bundle again")
        return buffers

    def _infer(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        batch = len(next(iter(tensors.values())))
        outputs = {name: np.empty((batch, self.spec.num_classes), np.float32) for name in OUTPUT_NAMES}
        for rows in self._slices(batch):
            self._run_rows(
                {name: tensor[rows] for name, tensor in tensors.items()},
                {name: output[rows] for name, output in outputs.items()},
            )
        return outputs["logits"], outputs["probabilities"]

    def _slices(self, batch: int) -> Iterator[slice]:
        largest = self._options.profile[2]
        return (slice(first, min(first + largest, batch)) for first in range(0, batch, largest))

    def _run_rows(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        """Run at most the profile's largest batch. Rows that fill it up to the smallest hold what was there before."""
        context = self._context
        for name, tensor in inputs.items():
            batch = max(len(tensor), self._options.profile[0])
            if not context.set_input_shape(name, (batch, *tensor.shape[1:])):
                raise self._failure(f"refused a batch of {batch}", "a --profile that holds it builds another engine")
            self._stream.upload(tensor, self._buffers[name])
        if not context.execute_async_v3(self._stream.handle):
            raise self._failure("failed", "a smaller --batch needs less memory")
        for name, output in outputs.items():
            self._stream.download(self._buffers[name], output)
        self._stream.synchronize()

    def _failure(self, what: str, remedy: str) -> EngineError:
        return EngineError(f"{self.device} {what}: {self._messages.summary}; {remedy}")

    def _drop(self) -> None:
        """Let go of the context before its engine, and of that before its runtime."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _release(self) -> None:
        self._stack.close()


class _StaleEngineError(EngineError):
    """An engine that is whole and was made here, and that TensorRT does not take: the driver or the system changed."""


def find_tensorrt() -> tuple[Library, Gpu]:
    """The TensorRT and the GPU of this machine; TensorRT-RTX where TensorRT is not installed, never on a Jetson.

    Raises:
        BackendUnavailableError: one of the two is missing, or too old.
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


def _shapes(tensors: dict[str, tuple[tuple[int, ...], Any]]) -> str:
    return ", ".join(f"{name} {shape}" for name, (shape, _) in sorted(tensors.items()))
