"""Turns ONNX bytes into engine bytes; this is the one place that drives TensorRT's builder."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import EngineError, Int8EngineError
from ..frame import OUTPUT_NAMES
from ..spec import ModelSpec
from .gpu import Gpu
from .library import Library
from .messages import Messages, connect
from .network import NetworkSummary, summarize
from .options import EngineOptions
from .progress import Listener, make_monitor

__all__ = ["BuiltEngine", "build_engine", "inspect_graph"]

T = TypeVar("T")

POLL = 0.1  # seconds between looks for Ctrl-C while TensorRT builds
# "BuilderFlag::kREQUIRE_USER_ALLOCATION is not compatible with networks that contain data-dependent dynamic shapes"
USER_ALLOCATION = re.compile("user.?allocation", re.IGNORECASE)
QUANTIZED = b"DequantizeLinear"  # an operator's type stands in a protobuf as plain text


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built, and how.

    Attributes:
        engine: the serialized engine, with nothing before or after it: trtexec loads it.
        timing_cache: the times of the kernels that were tried, for the next build; None from TensorRT-RTX.
        seconds: how long parsing and building took.
        network: a summary of what was built.
        warnings: TensorRT's warnings, each once.
    """

    engine: bytes
    timing_cache: bytes | None
    seconds: float
    network: NetworkSummary
    warnings: tuple[str, ...]


def build_engine(
    onnx: bytes | Path,
    spec: ModelSpec,
    options: EngineOptions,
    library: Library,
    *,
    gpu: Gpu | None = None,
    architecture: str | None = None,
    timing_cache: bytes | None = None,
    listener: Listener | None = None,
) -> BuiltEngine:
    """Build an engine; Ctrl-C stops the builder at its next step.

    Args:
        onnx: a serialized ONNX model, or its file, which is not kept in memory while the engine is built.
        spec: the spec whose inputs and outputs the graph has.
        options: batch profile and workspace.
        library: the TensorRT to build with.
        gpu: this machine's GPU, where ``backends.tensorrt`` is to run the engine; it sets the default workspace.
            TensorRT-RTX builds for all desktop cards from Ampere on where neither this nor an architecture is given.
        architecture: another architecture to build for, such as ``sm89``; only TensorRT-RTX can.
        timing_cache: that of an earlier build with this TensorRT on this GPU; one that doesn't fit is ignored.
        listener: hears of the progress.

    Raises:
        UsageError: the library can't build for the architecture.
        BackendUnavailableError: TensorRT does not start here.
        EngineError: TensorRT refused the graph or could not build it; or its inputs are not the spec's.
        Int8EngineError: TensorRT refused a quantized graph or could not build it.
    """
    start = time.perf_counter()
    job = _Job(library, onnx, spec, architecture or (gpu.architecture if gpu else "this GPU"))
    # TensorRT-RTX needs to be told that the engine may be for this GPU alone, which is faster
    target = "current" if architecture is None and gpu is not None and library.kind == "rtx" else architecture
    config = job.configure(options, options.workspace_on(gpu), target)
    job.attach_timing_cache(config, timing_cache)
    if gpu is not None:
        job.require_user_allocation(config)
    cancel = threading.Event()
    if listener is not None:
        config.progress_monitor = make_monitor(library, listener, cancel)
    engine = _interruptible(lambda: job.build(config), cancel)
    times = job.timing_cache(config)
    seconds = time.perf_counter() - start
    return BuiltEngine(engine, times, seconds, summarize(job.network), tuple(job.messages.warnings))


def inspect_graph(onnx: bytes, spec: ModelSpec, library: Library) -> NetworkSummary:
    """Parse a graph as ``build_engine`` would, and summarize it without building an engine.

    Raises:
        BackendUnavailableError: TensorRT does not start here.
        EngineError: TensorRT refused the graph, or its inputs are not the spec's.
        Int8EngineError: TensorRT refused a quantized graph.
    """
    return summarize(_Job(library, onnx, spec, "this GPU").network)


class _Job:
    """One graph, parsed; it keeps alive what the builder needs until the engine is built."""

    def __init__(self, library: Library, onnx: bytes | Path, spec: ModelSpec, place: str) -> None:
        self._library = library
        self._spec = spec
        self._place = place
        self.messages = Messages()
        trt = library.module
        builder, logger = connect(library, trt.Builder, self.messages)
        network = builder.create_network(library.network_flags)
        parser = trt.OnnxParser(network, logger)
        graph = onnx if isinstance(onnx, bytes) else onnx.read_bytes()  # dropped after parsing, as the parser copies it
        self._quantized = QUANTIZED in graph
        if not parser.parse(graph):
            raise self._refused("refused the graph", _parser_errors(parser), "export the bundle again")
        self._builder, self.network, self._parser = builder, network, parser  # the parser owns the weights
        self._check_tensors()

    def configure(self, options: EngineOptions, workspace: int | None, architecture: str | None) -> Any:
        """Make an IBuilderConfig with the profile, the workspace and the architecture."""
        trt = self._library.module
        config = self._builder.create_builder_config()
        # TF32 keeps 10 bits of FP32's mantissa and is on by default: FP32 is to mean FP32
        config.clear_flag(trt.BuilderFlag.TF32)
        # names and precisions of the fused layers stay in the engine, for its inspector
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        if architecture is not None:
            capability = self._library.compute_capability(architecture)
            config.num_compute_capabilities = 1
            config.set_compute_capability(capability, 0)
        self._add_profile(config, options)
        return config

    def attach_timing_cache(self, config: Any, data: bytes | None) -> None:
        """Give the builder a timing cache with the times of earlier builds, to which it adds those of this one."""
        if not self._library.has_timing_cache:
            return
        cache = config.create_timing_cache(data or b"")
        if cache is None or not config.set_timing_cache(cache, False):  # it is damaged, or of another version or GPU
            cache = config.create_timing_cache(b"")
            if cache is not None:
                config.set_timing_cache(cache, False)

    def timing_cache(self, config: Any) -> bytes | None:
        """Return the timing cache after the build, serialized; None where there is none."""
        if not self._library.has_timing_cache:
            return None
        cache = config.get_timing_cache()
        return None if cache is None else bytes(cache.serialize())

    def require_user_allocation(self, config: Any) -> None:
        """Have TensorRT-RTX build an engine that allocates nothing while it runs, if the network allows it."""
        flag = self._library.user_allocation
        if flag is not None:
            config.set_flag(flag)

    def build(self, config: Any) -> bytes:
        """Build the engine and return it serialized, or raise TensorRT's reasons."""
        memory = self._builder.build_serialized_network(self.network, config)
        flag = self._library.user_allocation
        if memory is None and flag is not None and config.get_flag(flag) and self._needs_allocation:
            # that flag refuses layers whose size depends on data, such as loops without a fixed number of steps
            self.messages.errors.clear()
            config.clear_flag(flag)
            memory = self._builder.build_serialized_network(self.network, config)
        if memory is None:
            remedy = "a smaller --workspace or --profile needs less memory"
            raise self._refused("could not build the engine", self.messages.summary, remedy)
        return bytes(memory)

    @property
    def _needs_allocation(self) -> bool:
        """Whether the builder refused the flag for user allocation, and did not run out of memory or get stopped."""
        return any(USER_ALLOCATION.search(line) for line in (*self.messages.errors, *self.messages.warnings))

    def _add_profile(self, config: Any, options: EngineOptions) -> None:
        profile = self._builder.create_optimization_profile()
        try:
            for name, shape in self._spec.inputs.items():
                profile.set_shape(name, *((batch, *shape) for batch in options.profile))
        except RuntimeError as error:
            raise self._refused("refused the batch profile", str(error), "export the bundle again") from error
        if config.add_optimization_profile(profile) < 0:
            raise self._refused("refused the batch profile", self.messages.summary, "take another --profile")

    def _check_tensors(self) -> None:
        network = self.network
        found = {tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))}
        expected = {name: (-1, *shape) for name, shape in self._spec.inputs.items()}
        outputs = {network.get_output(index).name for index in range(network.num_outputs)}
        if found != expected or not set(OUTPUT_NAMES) <= outputs:
            raise EngineError(
                f"expected a graph with the inputs {expected} and the outputs {list(OUTPUT_NAMES)}, found {found} and "
                f"{sorted(outputs)}; export the bundle again"
            )

    def _refused(self, what: str, reasons: str, remedy: str) -> EngineError | Int8EngineError:
        if self._quantized:
            return Int8EngineError(
                f"{self._library.label} {what} in INT8 for {self._place}: {reasons}; take FP16 here: --precision fp16 "
                "(hybrid-export --fp16 adds it to a bundle without)"
            )
        return EngineError(
            f"{self._library.label} {what} for {self._place}: {reasons}; {remedy}, or run the bundle without TensorRT: "
            "--backend cuda or cpu"
        )


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(_parser_error(error) for error in errors) or "it gave no reason"


def _parser_error(error: Any) -> str:
    node = " ".join(part for part in (error.node_operator(), error.node_name()) if part)
    text = " ".join(error.desc().split()).rstrip(".")
    return f"{node}: {text}" if node else text


def _interruptible(call: Callable[[], T], cancel: threading.Event) -> T:
    """Run ``call`` in a thread, so that Ctrl-C reaches us while TensorRT works; ``cancel`` then asks it to stop."""
    results: list[T] = []
    errors: list[BaseException] = []
    done = threading.Event()  # not join, which takes a thread that runs on for finished if Ctrl-C interrupts it

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again below, in the caller's thread
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=work, name="engine build", daemon=True)
    try:
        thread.start()
        while not done.wait(POLL):
            pass
    except BaseException:
        cancel.set()
        if thread in threading.enumerate():  # Ctrl-C may also come before the thread was started
            done.wait()
        raise
    if errors:
        raise errors[0]
    return results[0]
