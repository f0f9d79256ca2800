"""Runs graphs with ONNX Runtime on the CPU; no other module imports onnxruntime."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from statistics import median
from types import ModuleType, TracebackType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..engines.cache import EngineCache
from ..engines.kept_graph import GraphKey, KeptGraph, find_graph, keep_graph
from ..errors import BackendError, BackendUnavailableError, BundleError
from ..frame import OUTPUT_NAMES
from ..process import cpu_identity, usable_cpus
from ..spec import ModelSpec
from ..versions import onnxruntime_remark
from .base import Backend

Tensor = npt.NDArray[np.float32]

CPU_PROVIDER = "CPUExecutionProvider"
LOG_FATAL = 4  # of ONNX Runtime's severities: 2 warning, 3 error, 4 fatal
# bytes of a graph whose operators are too small to share: the digits networks (0.4 to 1.8 MB) take 0.10 ms an image on
# one thread and 0.12 on two (batch 8, two cores), and threads that wait for work would take the core from decoding
SINGLE_THREAD_GRAPH_SIZE = 4 * 2**20
LEAST_KEPT_SIZE = 4 * 2**20  # bytes of a graph; a smaller one is optimized in some 0.1 s
LEAST_MAPPED_SIZE = "1024"  # bytes of a weight that lies beside a kept graph
TRACE_KERNEL = "_kernel_time"  # the end of the name of a node's event
TRACE_RUN_END = "model_run"  # the event that ends the events of each run


class _UnusableGraphError(BackendError):
    """A graph that was written whole is not read back, or computes something else."""


class OnnxRuntimeCpu(Backend):
    """Runs a graph with ONNX Runtime's CPU provider; ONNX Runtime's other backends derive from it.

    With ``sha256``, the graph's own, the graph as ONNX Runtime optimized it here is kept in the engine cache, and a
    later session reads that. ``on_refusal`` is told why that could not be used or kept; the graph itself runs then.
    """

    providers: ClassVar[list[Any]] = [CPU_PROVIDER]
    device_name: ClassVar[str] = "CPU"
    log_severity: ClassVar[int] = LOG_FATAL  # ONNX Runtime's errors come as exceptions, with the same text
    session_entries: ClassVar[dict[str, str]] = {}
    disabled_optimizers: ClassVar[list[str]] = []

    def __init__(
        self,
        model: Path,
        spec: ModelSpec,
        *,
        threads: int | None = None,
        sha256: str | None = None,
        on_refusal: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._sha256 = sha256
        self._on_refusal = on_refusal
        self._kept: KeptGraph | None = None
        super().__init__(model, spec, threads=threads)

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """Engine, CPU, threads, the kept graph's hash; None for what derives from this class, and an unknown CPU."""
        cpu = cpu_identity()
        if type(self) is not OnnxRuntimeCpu or cpu is None:
            return None
        graph = None if self._kept is None else self._kept.sha256
        threads = self._options.intra_op_num_threads
        return {"engine": onnxruntime_build(), "cpu": cpu, "threads": threads, "graph": graph}

    @property
    def device(self) -> str:
        """Engine, version and device for messages: ``ONNX Runtime VERSION on CPU``, or ``on CUDA``."""
        return f"ONNX Runtime {import_onnxruntime().__version__} on {self.device_name}"

    @property
    def remark(self) -> str | None:
        """What is known against this ONNX Runtime: holes that a later one closed."""
        return onnxruntime_remark(import_onnxruntime().__version__)

    def _load(self, model: Path, threads: int | None) -> None:
        self._require(import_onnxruntime())
        self._model = model
        if threads is None and model.stat().st_size < SINGLE_THREAD_GRAPH_SIZE:
            threads = 1
        self._options = _make_options(type(self), threads)
        self._session: Any = self._open_kept(model) or self._open(model)
        self._check_session(model)

    def _open_kept(self, model: Path) -> Any:
        """Open the kept graph in place of the one it was made from, or make and keep it; None where that fails."""
        size, cpu = model.stat().st_size, cpu_identity()
        if self._sha256 is None or cpu is None or size < LEAST_KEPT_SIZE:
            return None
        settings = json.dumps([self.session_entries, self.disabled_optimizers])
        key = GraphKey(self._sha256, onnxruntime_build(), cpu, settings)
        cache, opened, refused = EngineCache(), [], f"{key.name}.unkept"

        def write(path: Path, weights: str) -> None:
            try:
                opened.append(self._optimize(model, path, weights))
            except _UnusableGraphError as error:
                cache.keep_note(refused, str(error).encode())  # the next start need not try it again
                raise

        try:
            kept = find_graph(cache, key, self._on_refusal)
            if kept is not None:
                opened.append(self._open(kept.path, optimized=True))
            elif cache.read_note(refused) is None:
                kept = keep_graph(cache, key, size, write, self._on_refusal)
        except BackendError as error:
            cache.drop_note(f"{key.name}.graph")
            self._on_refusal(f"the graph as ONNX Runtime optimized it is not used: {error}")
            return None
        if kept is None:
            return None
        self._kept, self._model = kept, kept.path
        return opened[0]

    def _optimize(self, model: Path, path: Path, weights: str) -> Any:
        """Write the graph as ONNX Runtime optimizes it, and return its session, which computes the same to the bit.

        Weights lie beside it, to be mapped, where ONNX Runtime reads that back: 1.23 does not for a graph in a graph.
        """
        entries = {"file_name": weights, "min_size_in_bytes": LEAST_MAPPED_SIZE}
        try:
            return self._write(model, path, entries)
        except _UnusableGraphError:
            path.with_name(weights).unlink(missing_ok=True)
            return self._write(model, path, {})

    def _write(self, model: Path, path: Path, entries: Mapping[str, str]) -> Any:
        options = _make_options(type(self), self._options.intra_op_num_threads or None)
        options.optimized_model_filepath = str(path)
        for entry, value in entries.items():
            options.add_session_config_entry(f"session.optimized_model_external_initializers_{entry}", value)
        expected = self._sample(self._open(model, options))
        try:
            session = self._open(path, optimized=True)
        except BackendError as error:
            raise _UnusableGraphError(str(error)) from error
        if not np.array_equal(self._sample(session), expected):
            raise _UnusableGraphError(f"{self.device}: expected the same logits as before, found others")
        return session

    def _sample(self, session: Any) -> npt.NDArray[np.float32]:
        """Compute the logits of one image of noise."""
        noise = np.random.default_rng(0)
        tensors = {
            name: noise.uniform(-1, 1, (1, *shape)).astype(np.float32) for name, shape in self.spec.inputs.items()
        }
        try:
            logits: npt.NDArray[np.float32] = session.run(list(OUTPUT_NAMES), tensors)[0]
        except _faults() as error:
            raise BackendError(f"{self.device} failed: {_line(error)}") from error
        return logits

    def _open(self, model: Path, options: Any = None, *, optimized: bool = False) -> Any:
        options = options or self._options
        levels = import_onnxruntime().GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if optimized else levels.ORT_ENABLE_ALL
        try:
            return _make_session(type(self), str(model), options)
        except _faults() as error:
            raise BackendError(
                f"{self.device} refused {model}: {_line(error)}; export the bundle again, or upgrade onnxruntime"
            ) from error

    def profile(self, tensors: Mapping[str, Tensor], *, runs: int = 5) -> dict[str, float]:
        """Measure how long the nodes take, in a second session of the same file and options."""
        self._check_open()
        with tempfile.TemporaryDirectory() as folder:
            self._options.enable_profiling = True
            self._options.profile_file_prefix = str(Path(folder) / "trace")
            try:
                session = self._open(self._model, optimized=self._kept is not None)
                for _ in range(1 + runs):  # the first warms up
                    session.run(list(OUTPUT_NAMES), dict(tensors))
                return _read_trace(Path(session.end_profiling()), runs)
            except _faults() as error:
                raise BackendError(f"{self.device} failed: {_line(error)}") from error
            finally:
                self._options.enable_profiling = False

    def _require(self, library: ModuleType) -> None:
        """Refuse an onnxruntime that lacks what this backend needs; the CPU provider needs nothing."""

    def _check_session(self, model: Path) -> None:
        expected = {name: ["N", *shape] for name, shape in self.spec.inputs.items()}
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = {item.name: ["N", *item.shape[1:]] if _is_batch(item.shape) else item.shape for item in inputs}
        types = {item.type for item in (*inputs, *outputs)}
        names = [item.name for item in outputs]
        if found != expected or types != {"tensor(float)"} or not set(OUTPUT_NAMES) <= set(names):
            raise BundleError(
                f"{model}: expected float32 inputs {expected} and outputs {list(OUTPUT_NAMES)}, found {found}, "
                f"{names}, {sorted(types)}; the graph is not the one its spec describes: export it again"
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


class OnnxRuntimeSimulated(OnnxRuntimeCpu):
    """Simulates another target's graph on the CPU: its results are right, its speed is not the target's.

    QuantizeLinear and DequantizeLinear are computed one by one, what is between them in float; FP16 tensors hold FP16
    values, but an operator may compute in FP32 and does not show an overflow inside it.
    """

    device_name: ClassVar[str] = "CPU (simulated)"
    session_entries: ClassVar[dict[str, str]] = {"session.disable_quant_qdq": "1"}
    # ONNX Runtime 1.31 ends with a segmentation fault where its blocked layout meets the casts of an FP16 graph
    disabled_optimizers: ClassVar[list[str]] = ["NchwcTransformer"]


class TensorSession:
    """Runs a graph in FP32 on the CPU for tensors inside it, which must be among the graph's outputs.

    It is not thread-safe. Use it as a context manager, or ``close`` it. ``model`` is the graph's file, or its bytes;
    ``threads`` of None leaves their number to ONNX Runtime; ``simulated`` runs another target's graph as
    ``OnnxRuntimeSimulated`` does.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed.
        BackendError: ONNX Runtime refused the graph, or failed.
    """

    def __init__(self, model: Path | bytes, *, threads: int | None = None, simulated: bool = False) -> None:
        source = str(model) if isinstance(model, Path) else model
        kind = OnnxRuntimeSimulated if simulated else OnnxRuntimeCpu
        options = _make_options(kind, threads)
        try:
            self._session = _make_session(kind, source, options)
        except _faults() as error:
            raise BackendError(f"ONNX Runtime refused the graph to be measured: {_line(error)}") from error
        self.inputs: tuple[str, ...] = tuple(item.name for item in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(item.name for item in self._session.get_outputs())
        self._kept: tuple[dict[str, tuple[int, ...]], dict[str, npt.NDArray[Any]]] = ({}, {})

    def run(self, tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
        """Compute every output of the graph for one batch; ``tensors`` may hold more than the graph's inputs."""
        try:
            values = self._session.run(None, {name: tensors[name] for name in self.inputs})
        except _faults() as error:
            raise BackendError(f"ONNX Runtime failed: {_line(error)}") from error
        return dict(zip(self.outputs, values, strict=True))

    def run_in_place(self, tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
        """Compute as ``run`` does, into the arrays of the call before where its inputs had the same shapes.

        Memory that is mapped anew for each batch takes longer than many a graph: of Xception's activations, 226 MB an
        image of 299x299, a second image costs nothing.
        """
        shapes = {name: tensors[name].shape for name in self.inputs}
        if self._kept[0] != shapes:
            self._kept = ({}, {})  # the old arrays go before there are new ones
            self._kept = (shapes, self.run(tensors))
            return self._kept[1]
        inputs = {name: np.ascontiguousarray(tensors[name]) for name in self.inputs}
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        for name, value in self._kept[1].items():
            binding.bind_output(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except _faults() as error:
            raise BackendError(f"ONNX Runtime failed: {_line(error)}") from error
        return self._kept[1]

    def close(self) -> None:
        """Give the session's memory back."""
        self._session = None
        self._kept = ({}, {})

    def __enter__(self) -> TensorSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _make_options(kind: type[OnnxRuntimeCpu], threads: int | None) -> Any:
    """Make the options of a session; where ``threads`` is None ONNX Runtime takes one for each core.

    It counts and binds itself to all cores of the machine, also where the process was given fewer: there the number is
    set, and nothing is bound.
    """
    cpus = len(usable_cpus())
    if threads is None and cpus < (os.cpu_count() or 1):
        threads = cpus
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = kind.log_severity
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    for entry, value in kind.session_entries.items():
        options.add_session_config_entry(entry, value)
    return options


def _make_session(kind: type[OnnxRuntimeCpu], model: str | bytes, options: Any) -> Any:
    return import_onnxruntime().InferenceSession(
        model, options, providers=kind.providers, disabled_optimizers=kind.disabled_optimizers
    )


@cache
def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime, or raise BackendUnavailableError with the extra to install.

    From 1.29 on ONNX Runtime sends its maker what it runs, and keeps the device's number and a database for it in the
    user's cache, with threads of its own. That is off here, unless ``ORT_DISABLE_TELEMETRY`` has another value already,
    which is read before the first session.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise BackendUnavailableError(
            f"ONNX Runtime can't be imported here ({error}); pip install 'hybrid-edge[cpu]', or 'hybrid-edge[gpu]' "
            "on a machine with an NVIDIA GPU"
        ) from error


def onnxruntime_build() -> str:
    """Return ONNX Runtime's version with its build's commit and flags: wheels of one version may be several builds."""
    library = import_onnxruntime()
    return f"{library.__version__} {library.get_build_info()}"


@cache
def _faults() -> tuple[type[Exception], ...]:
    """Return every exception type that ONNX Runtime raises; they have no common base but Exception."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError)


def _is_batch(shape: list[Any]) -> bool:
    return bool(shape) and not isinstance(shape[0], int)  # a symbolic size has a name, or None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_trace(path: Path, runs: int) -> dict[str, float]:
    """Return each node's milliseconds in one run, the median of the last ``runs``; runs before them were warm-up.

    The trace has Chrome's format, an event for each node of each run, with its duration in microseconds.
    """
    taken: list[dict[str, float]] = [defaultdict(float)]
    for event in json.loads(path.read_bytes()):
        if event["name"] == TRACE_RUN_END:
            taken.append(defaultdict(float))
        elif event.get("cat") == "Node" and event["name"].endswith(TRACE_KERNEL) and _operator(event) != "Scan":
            taken[-1][event["name"].removesuffix(TRACE_KERNEL)] += event["dur"] / 1000
    counted = taken[:-1][-runs:]
    return {name: median(run[name] for run in counted) for name in counted[-1]}


def _operator(event: dict[str, Any]) -> str:
    return str(event.get("args", {}).get("op_name", ""))
