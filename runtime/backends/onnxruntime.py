"""Runs graphs with ONNX Runtime on the CPU and on an NVIDIA GPU; no other module imports onnxruntime."""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import BackendError, BackendUnavailableError, BundleError
from ..frame import OUTPUT_NAMES
from .base import Backend, Buffers
from .bound import BoundSession
from .cuda import HostMemory
from .profile import read_trace

__all__ = ["OnnxRuntimeCpu", "OnnxRuntimeCuda", "OnnxRuntimeSimulated", "TensorSession"]

Tensor = npt.NDArray[np.float32]

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
LOG_ERRORS = 3  # ONNX Runtime's severities: 2 warning, 3 error, 4 fatal
LOG_FATAL = 4
# bytes of a graph whose operators are too small to share: the digits networks (0.4 to 1.8 MB) take 0.10 ms an image on
# one thread and 0.12 on two (batch 8, two cores), and threads that wait for work would take the core from decoding
SMALL = 4 * 2**20


class OnnxRuntimeCpu(Backend):
    """Runs a graph with ONNX Runtime's CPU provider; the other backends of this module derive from it."""

    providers: ClassVar[list[Any]] = [CPU]
    place: ClassVar[str] = "CPU"
    log_severity: ClassVar[int] = LOG_FATAL  # ONNX Runtime's errors come as exceptions, with the same text
    entries: ClassVar[dict[str, str]] = {}
    disabled: ClassVar[list[str]] = []

    @property
    def device(self) -> str:
        """Engine, version and device for messages: ``ONNX Runtime VERSION on CPU``, or ``on CUDA``."""
        return f"ONNX Runtime {_library().__version__} on {self.place}"

    def _load(self, model: Path, threads: int | None) -> None:
        self._require(_library())
        self._model = model
        self._options = _options(threads if threads is not None else self._threads(model), self.log_severity)
        for entry, value in self.entries.items():
            self._options.add_session_config_entry(entry, value)
        self._session: Any = self._open(model)
        self._check_session(model)

    def _open(self, model: Path) -> Any:
        try:
            return _library().InferenceSession(
                str(model), self._options, providers=self.providers, disabled_optimizers=self.disabled
            )
        except _faults() as error:
            raise BackendError(
                f"{self.device} refused {model}: {_line(error)}; export the bundle again, or upgrade onnxruntime"
            ) from error

    def profile(self, tensors: Mapping[str, Tensor], *, runs: int = 5) -> dict[str, float]:
        """Measure how long the nodes take, in a second session of the same file and options.

        Raises:
            BackendError: ONNX Runtime failed, or the backend was closed.
        """
        self._check_open()
        with tempfile.TemporaryDirectory() as folder:
            self._options.enable_profiling = True
            self._options.profile_file_prefix = str(Path(folder) / "trace")
            try:
                session = self._open(self._model)
                for _ in range(1 + runs):  # the first warms up
                    session.run(list(OUTPUT_NAMES), dict(tensors))
                return read_trace(Path(session.end_profiling()), runs=runs)
            except _faults() as error:
                raise BackendError(f"{self.device} failed: {_line(error)}") from error
            finally:
                self._options.enable_profiling = False

    def _threads(self, model: Path) -> int | None:
        """Return the number of threads where nobody says it; None leaves it to ONNX Runtime: one for each core."""
        return 1 if model.stat().st_size < SMALL else None

    def _require(self, library: ModuleType) -> None:
        """Refuse an onnxruntime that lacks what this backend needs; the CPU provider needs nothing."""

    def _check_session(self, model: Path) -> None:
        """Compare the graph's declared inputs and outputs with the spec's."""
        expected = {name: ["N", *shape] for name, shape in self.spec.inputs.items()}
        found = {
            item.name: ["N" if _symbolic(item.shape) else "?", *item.shape[1:]] for item in self._session.get_inputs()
        }
        types = {item.type for item in (*self._session.get_inputs(), *self._session.get_outputs())}
        outputs = [item.name for item in self._session.get_outputs()]
        if found != expected or types != {"tensor(float)"} or not set(OUTPUT_NAMES) <= set(outputs):
            raise BundleError(
                f"{model}: expected float32 inputs {expected} and outputs {list(OUTPUT_NAMES)}, found {found}, "
                f"{outputs}, {sorted(types)}; the graph is not the one its spec describes: export it again"
            )

    def _infer(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        try:
            return self._compute(tensors)
        except _faults() as error:
            raise BackendError(f"{self.device} failed: {_line(error)}; a smaller --batch needs less memory") from error

    def _compute(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        # ONNX Runtime reads contiguous arrays in place; binding them in advance spared 6 to 14 µs of 200 to 1,000
        logits, probabilities = self._session.run(list(OUTPUT_NAMES), tensors)
        return logits, probabilities

    def _release(self) -> None:
        self._session = None


class OnnxRuntimeCuda(OnnxRuntimeCpu):
    """Runs a graph with ONNX Runtime's CUDA provider; refuses where ONNX Runtime would quietly take the CPU instead.

    Inputs and outputs are bound to memory that stays where it is; one batch runs at a time.
    """

    # TF32 would keep 10 bits of FP32's mantissa: FP32 is to mean FP32. EXHAUSTIVE, the default, times the algorithms of
    # every convolution again for each batch size that comes up, in the middle of a video: PaddleX#5057 measured 10.1 s
    # for 16 sizes against HEURISTIC's 0.03 s, and no batch after that was slower
    providers: ClassVar[list[Any]] = [(CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}), CPU]
    place: ClassVar[str] = "CUDA"
    memory: ClassVar[str] = "cuda"  # the device in whose memory the inputs are bound
    log_severity: ClassVar[int] = LOG_ERRORS  # only ONNX Runtime's log says why CUDA could not start

    def _require(self, library: ModuleType) -> None:
        if CUDA not in library.get_available_providers():
            raise BackendUnavailableError(
                "the onnxruntime installed here is built without CUDA; for an NVIDIA GPU: pip uninstall onnxruntime && "
                "pip install 'hybrid-edge[gpu]' ('hybrid-edge[gpu-cu12]' below driver 580, on a Jetson NVIDIA's own "
                "wheel for its JetPack)"
            )
        preload = getattr(library, "preload_dlls", None)  # 1.21 and later: finds the CUDA that pip installed
        if preload is not None:
            with contextlib.redirect_stdout(sys.stderr):  # preloading prints what it doesn't find
                preload()

    def _check_session(self, model: Path) -> None:
        taken = self._session.get_providers()
        if CUDA not in taken:
            raise BackendUnavailableError(
                f"expected ONNX Runtime to run on {CUDA}, found that it took {taken}: the driver, CUDA or cuDNN is "
                "missing or does not fit; nvidia-smi shows the driver, pip install 'hybrid-edge[gpu]' brings the rest"
            )
        super()._check_session(model)
        self._bound: Any = BoundSession(_library(), self._session, self.spec, self.memory)
        self._locked: list[HostMemory] = []

    def _compute(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        logits, probabilities = self._bound.run(tensors)
        return logits, probabilities

    def profile(self, tensors: Mapping[str, Tensor], *, runs: int = 5) -> dict[str, float]:  # noqa: ARG002
        """Return nothing: ONNX Runtime notes when a kernel was put on the GPU's stream, not how long it took there."""
        self._check_open()
        return {}

    def copies(self, buffers: Buffers, rows: int) -> dict[str, Callable[[], None]]:
        """Return the call that copies the inputs; the outputs' copy is part of ONNX Runtime's run."""
        self._check_open()
        tensors = {name: tensor[:rows] for name, tensor in buffers.tensors.items()}
        return {"copy in": lambda: self._bound.upload(tensors)}

    def _allocate_inputs(self, capacity: int, slot: int) -> dict[str, Tensor]:
        """Allocate page-locked memory, which copies at full speed, or plain memory where cuda-python is missing."""
        tensors = {}
        for name, shape in self.spec.inputs.items():
            try:
                memory = HostMemory((capacity, *shape))
            except BackendUnavailableError:
                return super()._allocate_inputs(capacity, slot)
            self._locked.append(memory)
            tensors[name] = memory.array
        return tensors

    def _release(self) -> None:
        self._bound = None
        super()._release()
        for memory in self._locked:
            memory.close()


class OnnxRuntimeSimulated(OnnxRuntimeCpu):
    """Simulates another target's graph on the CPU: its results are right, its speed is not the target's.

    QuantizeLinear and DequantizeLinear are computed one by one, what is between them in float; FP16 tensors hold FP16
    values, but an operator may compute in FP32 and does not show an overflow inside it.
    """

    place: ClassVar[str] = "CPU (simulated)"
    entries: ClassVar[dict[str, str]] = {"session.disable_quant_qdq": "1"}
    # ONNX Runtime 1.31 ends with a segmentation fault where its blocked layout meets the casts of an FP16 graph
    disabled: ClassVar[list[str]] = ["NchwcTransformer"]


class TensorSession:
    """Runs a graph in FP32 on the CPU for tensors inside it, which must be among the graph's outputs.

    It is not thread-safe. Use it as a context manager, or ``close`` it.

    Args:
        model: the graph's file, or its bytes.
        threads: the number of CPU threads; None leaves it to ONNX Runtime.
        simulated: whether the graph is for another target, and is run as ``OnnxRuntimeSimulated`` does.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
        BackendError: ONNX Runtime refused the graph.
    """

    def __init__(self, model: Path | bytes, *, threads: int | None = None, simulated: bool = False) -> None:
        source = str(model) if isinstance(model, Path) else model
        kind = OnnxRuntimeSimulated if simulated else OnnxRuntimeCpu
        options = _options(threads, LOG_FATAL)
        for entry, value in kind.entries.items():
            options.add_session_config_entry(entry, value)
        try:
            self._session: Any = _library().InferenceSession(
                source, options, providers=[CPU], disabled_optimizers=kind.disabled
            )
        except _faults() as error:
            raise BackendError(f"ONNX Runtime refused the graph to be measured: {_line(error)}") from error
        self.inputs: tuple[str, ...] = tuple(item.name for item in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(item.name for item in self._session.get_outputs())

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
        """Compute every output of the graph for one batch; ``tensors`` may hold more than the graph's inputs.

        Raises:
            BackendError: ONNX Runtime failed.
        """
        try:
            values = self._session.run(None, {name: tensors[name] for name in self.inputs})
        except _faults() as error:
            raise BackendError(f"ONNX Runtime failed: {_line(error)}") from error
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None

    def __enter__(self) -> TensorSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _options(threads: int | None, log_severity: int) -> Any:
    options = _library().SessionOptions()
    options.log_severity_level = log_severity
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    return options


@cache
def _library() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise BackendUnavailableError(
            f"ONNX Runtime can't be imported here ({error}); pip install 'hybrid-edge[cpu]', or 'hybrid-edge[gpu]' "
            "on a machine with an NVIDIA GPU"
        ) from error


@cache
def _faults() -> tuple[type[Exception], ...]:
    """Return every exception type that ONNX Runtime raises; they have no common base but Exception."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError)


def _symbolic(shape: list[Any]) -> bool:
    return bool(shape) and not isinstance(shape[0], int)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
