"""Gets the engine of a graph on this machine from the cache, or builds it and keeps it there.

This is the one environment that drives TensorRT's builder, which turns an ONNX graph into an engine's bytes.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EngineError, EngineMissingError, Int8EngineError
from ..frame import OUTPUT_NAMES
from ..spec import ModelSpec
from .cache import CachedEngine, EngineCache, EngineKey, OnRefusal
from .engine_options import EngineOptions
from .gpu import Gpu, check_memory, disk_shortage
from .library import Library, Messages, make_interface
from .progress import Listener, Reporter, make_monitor, run_interruptibly

# "BuilderFlag::kREQUIRE_USER_ALLOCATION is not compatible with networks that contain data-dependent dynamic shapes"
USER_ALLOCATION_REFUSED = re.compile("user.?allocation", re.IGNORECASE)
QUANTIZED_OPERATOR = b"DequantizeLinear"  # an operator's type stands in a protobuf as plain text


@dataclass(frozen=True)
class BuiltEngine:
    """An engine that was built; ``seconds`` is how long parsing and building took.

    ``engine`` is serialized with nothing before or after it, so trtexec loads it. ``timing_cache`` holds the times of
    the kernels that were tried, for the next build; TensorRT-RTX gives None.
    """

    engine: bytes
    timing_cache: bytes | None
    seconds: float


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
    """Build an engine from a serialized ONNX model, or its file; Ctrl-C stops the builder at its next step.

    A file is not kept in memory meanwhile. ``gpu`` is this machine's GPU, on which ``backends.tensorrt`` is to run the
    engine; it sets the default workspace. ``architecture`` is another one to build for, such as ``sm89``, which only
    TensorRT-RTX can; with neither, TensorRT-RTX builds for all desktop cards from Ampere on. ``timing_cache`` is that
    of an earlier build with this TensorRT on this GPU; one that doesn't fit is ignored.

    Raises:
        UsageError: the library can't build for the architecture.
        BackendUnavailableError: TensorRT does not start here.
        EngineError: TensorRT refused the graph or could not build it; or its inputs are not the spec's.
        Int8EngineError: TensorRT refused a quantized graph or could not build it.
    """
    start = time.perf_counter()
    job = EngineBuild(library, onnx, spec, architecture or (gpu.architecture if gpu else "this GPU"))
    config = job.configure(options, gpu, architecture)
    job.attach_timing_cache(config, timing_cache)
    cancel = threading.Event()
    if listener is not None:
        config.progress_monitor = make_monitor(library, listener, cancel)
    engine = run_interruptibly(lambda: job.build(config), cancel)
    times = job.timing_cache(config)
    return BuiltEngine(engine, times, time.perf_counter() - start)


class EngineBuild:
    """One graph, parsed as ``network``; it keeps alive what the builder needs until the engine is built.

    ``gpu_name`` is how errors name the GPU that the engine is for; what is raised is documented at ``build_engine``.
    """

    def __init__(self, library: Library, onnx: bytes | Path, spec: ModelSpec, gpu_name: str = "this GPU") -> None:
        self._library = library
        self._spec = spec
        self._gpu_name = gpu_name
        self.messages = Messages()
        trt = library.module
        builder, logger = make_interface(library, trt.Builder, self.messages)
        network = builder.create_network(library.network_flags)
        parser = trt.OnnxParser(network, logger)
        graph = onnx if isinstance(onnx, bytes) else onnx.read_bytes()  # dropped after parsing, as the parser copies it
        self._quantized = QUANTIZED_OPERATOR in graph
        if not parser.parse(graph):
            raise self._refused("refused the graph", _parser_errors(parser), "export the bundle again")
        self._builder, self.network, self._parser = builder, network, parser  # the parser owns the weights
        self._check_tensors()

    def configure(self, options: EngineOptions, gpu: Gpu | None, architecture: str | None) -> Any:
        """Make an IBuilderConfig for this machine's GPU or another architecture."""
        trt = self._library.module
        config = self._builder.create_builder_config()
        # TF32 keeps 10 bits of FP32's mantissa and is on by default: FP32 is to mean FP32
        config.clear_flag(trt.BuilderFlag.TF32)
        # names and precisions of the fused layers stay in the engine, for its inspector
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        workspace = options.workspace_on(gpu)
        if workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        if architecture is None and gpu is not None and self._library.kind == "rtx":
            architecture = "current"  # TensorRT-RTX is told that the engine may be for this GPU alone, which is faster
        if architecture is not None:
            capability = self._library.compute_capability(architecture)
            config.num_compute_capabilities = 1
            config.set_compute_capability(capability, 0)
        if gpu is not None and self._library.user_allocation is not None:
            config.set_flag(self._library.user_allocation)
        self._add_profile(config, options)
        return config

    def attach_timing_cache(self, config: Any, data: bytes | None) -> None:
        """Give the builder the times of earlier builds, to which it adds those of this one."""
        if not self._library.has_timing_cache:
            return
        for content in (data or b"", b""):  # none is made of one that is damaged, or of another version or GPU
            times = config.create_timing_cache(content)
            if times is not None and config.set_timing_cache(times, False):
                return

    def timing_cache(self, config: Any) -> bytes | None:
        """Return the timing cache after the build, serialized; None where there is none."""
        if not self._library.has_timing_cache:
            return None
        times = config.get_timing_cache()
        return None if times is None else bytes(times.serialize())

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
        return any(USER_ALLOCATION_REFUSED.search(line) for line in (*self.messages.errors, *self.messages.warnings))

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
                f"{self._library.label} {what} in INT8 for {self._gpu_name}: {reasons}; take FP16 here: "
                "--precision fp16 (hybrid-export --fp16 adds it to a bundle without)"
            )
        return EngineError(
            f"{self._library.label} {what} for {self._gpu_name}: {reasons}; {remedy}, or run the bundle without "
            "TensorRT: --backend cuda or cpu"
        )


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(_parser_error(error) for error in errors) or "it gave no reason"


def _parser_error(error: Any) -> str:
    node = " ".join(part for part in (error.node_operator(), error.node_name()) if part)
    text = " ".join(error.desc().split()).rstrip(".")
    return f"{node}: {text}" if node else text


@dataclass(frozen=True)
class BuildEnvironment:
    """Where engines are built and kept: the TensorRT that builds, this machine's GPU, and the cache.

    With ``must_keep`` an engine that can't be kept is an error, as for someone who builds now and runs another day;
    otherwise it is used from memory, and a line says so.
    """

    library: Library
    gpu: Gpu
    cache: EngineCache
    reporter: Reporter = field(default_factory=Reporter)
    must_keep: bool = False

    def not_kept(self, reason: str) -> None:
        """Report that an engine can't be kept, or raise EngineError if it must be."""
        if self.must_keep:
            raise EngineError(reason)
        self.reporter.say(f"{reason}; this run has its engine in memory, the next one builds it again")


@dataclass(frozen=True)
class PreparedEngine:
    """An engine, and whether it was built just now."""

    engine: CachedEngine
    built: bool
    path: Path
    cache: EngineCache

    @property
    def kernels(self) -> bytes | None:
        """The kernels that TensorRT-RTX compiled for the engine at an earlier start, or None if none were kept."""
        return self.cache.read_note(self.path.with_suffix(".kernels").name)

    def keep_kernels(self, kernels: bytes, on_refusal: OnRefusal) -> None:
        """Keep compiled kernels beside the engine; ``on_refusal`` is told why that is not possible."""
        self.cache.keep_note(self.path.with_suffix(".kernels").name, kernels, on_refusal)


def prepare_engine(
    onnx: Path, sha256: str, spec: ModelSpec, options: EngineOptions, environment: BuildEnvironment, *, stale: str = ""
) -> PreparedEngine:
    """Return the engine of a graph; build it if the cache has none that is whole and was made for exactly this.

    Several processes may call it at once: one builds, the others wait for it. ``onnx`` is a verified file with the hash
    ``sha256``, read only if the engine must be built; ``stale`` is the hash of an engine in the cache that TensorRT
    does not take any more.

    Raises:
        BackendUnavailableError: TensorRT does not start here.
        EngineError: TensorRT could not build it, there is too little memory, or it can't be kept where it must be.
        EngineMissingError: the engine is not in the cache, and the options say not to build it.
        Int8EngineError: TensorRT does not build this quantized graph here.
    """
    cache, say = environment.cache, environment.reporter.say
    key = EngineKey.of(sha256, environment.library, environment.gpu, options)
    path = cache.path(key)

    def kept(on_refusal: OnRefusal = lambda _: None) -> PreparedEngine | None:
        found = cache.lookup(key, on_refusal)
        if found is None or found.record.sha256 == stale:
            return None
        return PreparedEngine(found, built=False, path=path, cache=cache)

    if engine := kept():
        return engine
    if not options.build:
        raise EngineMissingError(
            f"expected an engine for {environment.library.label} on {environment.gpu.name} and these options in "
            f"{cache.folder}, found none that is whole"
        )
    with cache.locked(lambda: say("another process builds an engine: waiting for it"), say):
        if engine := kept(say):  # the other process may have built this very engine
            return engine
        built = _build(onnx, key, spec, options, environment)
        return PreparedEngine(built, built=True, path=path, cache=cache)


def _build(
    onnx: Path, key: EngineKey, spec: ModelSpec, options: EngineOptions, environment: BuildEnvironment
) -> CachedEngine:
    library, gpu, cache = environment.library, environment.gpu, environment.cache
    size = onnx.stat().st_size
    shortage = disk_shortage(size, cache.folder)
    if shortage is not None:
        environment.not_kept(shortage)
    check_memory(size, gpu)
    environment.reporter.say(f"building an engine with {library.label} for {gpu.name}: minutes, once on this machine")
    times = f"{key.timing_name}.timing"
    with environment.reporter.show() as listener:
        built = build_engine(
            onnx, spec, options, library, gpu=gpu, timing_cache=cache.read_note(times), listener=listener
        )
    if built.timing_cache is not None:
        cache.keep_note(times, built.timing_cache)
    return cache.store(
        key,
        built.engine,
        seconds=built.seconds,
        label=f"{library.label} on {gpu.name}",
        on_refusal=environment.not_kept if shortage is None else lambda _: None,
    )
