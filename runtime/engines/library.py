"""This module alone imports TensorRT and TensorRT-RTX; the same code serves TensorRT 10.3 to 11 and RTX.

It also gathers what they say while they work, so that a failure is shown in their own words. The two have the same
Python API. What one version has and another lacks is looked up by name here and nowhere else:

    NetworkDefinitionCreationFlag.EXPLICIT_BATCH    not in 11 and RTX; 10.x ignores it
    ComputeCapability, IBuilderConfig.num_compute_capabilities, .set_compute_capability    RTX alone
    IExecutionContext.is_stream_capturable, BuilderFlag.REQUIRE_USER_ALLOCATION    RTX from 1.2 on
    IRuntimeConfig's kernel specialization, IRuntimeCache    RTX alone; TensorRT compiles no kernels where it runs
    timing caches                                   do nothing in RTX

Sources: the Python API reference of TensorRT 10.3 (docs.nvidia.com/deeplearning/tensorrt/archives/tensorrt-1030), the
guide "Migrating Python code from TensorRT 10.x to 11.x", and the deprecation messages of TensorRT-RTX 1.7.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from ..errors import BackendUnavailableError, UsageError

LibraryKind = Literal["tensorrt", "rtx"]

MODULE_NAMES: dict[LibraryKind, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
PRODUCT_NAMES: dict[LibraryKind, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}
REMEDIES: dict[LibraryKind, str] = {
    "tensorrt": "pip install 'hybrid-edge[tensorrt]'; on a Jetson it comes with JetPack (sudo apt install "
    "python3-libnvinfer), and a virtual environment sees it if made with --system-site-packages",
    "rtx": "pip install 'hybrid-edge[rtx]'",
}
# TensorRT 10.3 is JetPack 6.1's, whose strongly typed networks are meant to take every exported graph: its parser's
# source was read against those graphs (onnx-tensorrt 10.1 and 10.6), and none was built there yet
OLDEST_VERSIONS: dict[LibraryKind, tuple[int, int]] = {"tensorrt": (10, 3), "rtx": (1, 0)}
MAX_SHOWN_MESSAGES = 12  # in an error: the first is the cause, the rest follow from it
MAX_KEPT_MESSAGES = 200  # different ones; an engine that runs for a year says the same again and again
ERROR_SEVERITIES = ("ERROR", "INTERNAL_ERROR")
# a warning about each builder and runtime after a process's first, although each of them has its own logger
FOREIGN_LOGGER = "The logger passed into create"

_first_loggers: dict[LibraryKind, Any] = {}


@dataclass(frozen=True)
class Library:
    """TensorRT or TensorRT-RTX, imported, and what differs between their versions.

    ``version`` is such as ``10.3.0``; engines of another version are not loaded.
    """

    module: Any
    kind: LibraryKind
    version: str

    @property
    def label(self) -> str:
        """Name and version for messages, such as ``TensorRT-RTX 1.7.1.116``."""
        return f"{PRODUCT_NAMES[self.kind]} {self.version}"

    @property
    def network_flags(self) -> int:
        """The flags for ``create_network``: always strongly typed, so that the precision is the graph's own.

        TensorRT 11 knows nothing else, and numbers its flags anew.
        """
        trt = self.module
        names = ("STRONGLY_TYPED", "EXPLICIT_BATCH")
        flags = [getattr(trt.NetworkDefinitionCreationFlag, name, None) for name in names]
        return sum(1 << int(flag) for flag in flags if flag is not None)

    @property
    def has_timing_cache(self) -> bool:
        """Whether the times of kernels can be kept between builds; TensorRT-RTX takes none at build time."""
        return self.kind == "tensorrt"

    @property
    def user_allocation(self) -> Any:
        """The builder's flag for engines that allocate nothing while they run; None where there is none.

        TensorRT-RTX leaves only such engines to CUDA graphs; TensorRT needs no flag for it.
        """
        return getattr(self.module.BuilderFlag, "REQUIRE_USER_ALLOCATION", None) if self.kind == "rtx" else None

    def compute_capability(self, architecture: str) -> Any:
        """Return TensorRT's constant for an architecture such as ``sm89``, or raise UsageError if it has none."""
        known = getattr(self.module, "ComputeCapability", None)
        value = getattr(known, architecture.upper(), None)
        if value is None:
            names = ", ".join(name.lower() for name in dir(known) if name.startswith("SM"))
            names = names or "this machine's GPU alone"
            raise UsageError(f"expected an architecture that {self.label} builds for ({names}), found {architecture!r}")
        return value

    def can_capture(self, context: Any, stream: int) -> bool:
        """Return whether a CUDA graph may capture a context's work, as far as this version says so beforehand.

        Where the version does not say, the answer is True, and capturing shows it.
        """
        ask = getattr(context, "is_stream_capturable", None)
        return ask is None or bool(ask(stream))

    def eager_contexts(self, engine: Any, kernels: bytes | None) -> EagerContexts | None:
        """Return the maker of contexts for an ICudaEngine whose kernels are compiled where it runs, else None.

        ``kernels`` are the bytes that ``EagerContexts.kernels`` gave for this engine at an earlier start.
        """
        if self.kind != "rtx" or getattr(engine, "create_runtime_config", None) is None:
            return None
        return EagerContexts(self.module, engine, kernels)


class EagerContexts:
    """Makes execution contexts of TensorRT-RTX whose kernels are compiled for a batch size before it first runs.

    By default TensorRT-RTX begins with kernels for any size, and exchanges them once those for this size are compiled,
    beside its work (LAZY): results change while it runs, and a CUDA graph keeps the ones that it was captured with.
    TensorRT-RTX ignores ``kernels`` of an earlier start if it, the driver or the GPU has changed.
    """

    def __init__(self, module: Any, engine: Any, kernels: bytes | None) -> None:
        self._trt = module
        self._engine = engine
        self._configs: list[Any] = []  # each must live as long as its contexts
        self._cache: Any = None
        config = self._config()
        if config is not None:
            self._configs.append(config)  # it makes the runtime cache and must outlive it
            with contextlib.suppress(RuntimeError):  # a cache only spares time: the engine runs without it
                cache = self._cache = config.create_runtime_cache()
                if cache is not None and kernels:
                    cache.deserialize(kernels)

    def context(self) -> Any:
        """Make a context, which needs memory for its activations; None where TensorRT-RTX gave none."""
        config = self._config()
        if config is None:
            return None
        if self._cache is not None:
            config.set_runtime_cache(self._cache)  # if TensorRT-RTX refuses it, this context compiles for itself
        self._configs.append(config)
        return self._engine.create_execution_context(config)

    def kernels(self) -> bytes:
        """Return the kernels that were compiled so far, for the next start; empty where they can't be had."""
        cache = self._cache
        try:
            memory = None if cache is None else cache.serialize()
            return b"" if memory is None else bytes(memory)
        except RuntimeError:  # this is called while something else fails, too
            return b""

    def close(self) -> None:
        """Drop everything, after the contexts and before the engine."""
        self._cache = self._engine = None
        self._configs.clear()

    def _config(self) -> Any:
        trt = self._trt
        config = self._engine.create_runtime_config()
        if config is not None:
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        return config


def installed(kind: LibraryKind) -> bool:
    """Return whether the package is there, in microseconds and without importing it."""
    return importlib.util.find_spec(MODULE_NAMES[kind]) is not None


@cache
def find_library(kind: LibraryKind) -> Library:
    """Import TensorRT or TensorRT-RTX.

    BackendUnavailableError says that the library is not installed, broken, older than 10.3 (RTX: 1.0), or without
    strongly typed networks.
    """
    try:
        module = importlib.import_module(MODULE_NAMES[kind])
    except (ImportError, OSError) as error:  # OSError: one of its shared libraries is missing
        raise BackendUnavailableError(
            f"{PRODUCT_NAMES[kind]} can't be imported here ({error}); {REMEDIES[kind]}"
        ) from error
    version, oldest = str(module.__version__), OLDEST_VERSIONS[kind]
    flags = getattr(module, "NetworkDefinitionCreationFlag", None)
    if _numbers(version) < oldest or not hasattr(flags, "STRONGLY_TYPED"):
        raise BackendUnavailableError(
            f"expected {PRODUCT_NAMES[kind]} {oldest[0]}.{oldest[1]} or later, found {version}; on a Jetson JetPack "
            "6.1 brings it. An older one runs the bundle on ONNX Runtime: --backend cuda or cpu"
        )
    return Library(module, kind, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


class Messages:
    """The messages of one builder or runtime, by severity, each once; verbose and informative ones are dropped."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def add(self, severity: str, text: str) -> None:
        """Keep a message; TensorRT calls this from any thread."""
        kept = self.errors if severity in ERROR_SEVERITIES else self.warnings if severity == "WARNING" else None
        if kept is None or len(kept) >= MAX_KEPT_MESSAGES or FOREIGN_LOGGER in text:
            return
        line = _line(text)
        if line not in kept:
            kept.append(line)

    def clear(self) -> None:
        """Forget the messages so far: those that come next have other reasons."""
        self.errors.clear()
        self.warnings.clear()

    @property
    def summary(self) -> str:
        """The first errors in one line, or the first warnings where there are no errors."""
        found = self.errors or self.warnings
        more = [f"and {len(found) - MAX_SHOWN_MESSAGES} more"] if len(found) > MAX_SHOWN_MESSAGES else []
        return "; ".join([*found[:MAX_SHOWN_MESSAGES], *more]) or "it gave no reason"


def make_interface(library: Library, interface: Any, messages: Messages) -> tuple[Any, Any]:
    """Make a Builder or a Runtime, as ``interface`` says, that writes into ``messages``; return it with its ILogger.

    BackendUnavailableError says that TensorRT made none, most often because the driver is too old for its CUDA.
    """
    logger = _make_logger(library, messages)
    # TensorRT takes the first logger that it is given as its global one, for as long as the process lasts
    _first_loggers.setdefault(library.kind, logger)
    collecting = gc.isenabled()
    # TensorRT logs while it holds a lock, for which another builder's end waits for ever: no garbage may be such a one
    gc.disable()
    try:
        return interface(logger), logger
    except (TypeError, RuntimeError) as error:  # what pybind11 raises for a constructor that gave nothing
        reason = messages.summary if messages.errors or messages.warnings else _line(str(error))
        raise BackendUnavailableError(
            f"{library.label} does not start here: {reason}; where that is CUDA's initialization, the NVIDIA driver is "
            "older than this TensorRT's CUDA (nvidia-smi shows both versions): update it, or install TensorRT for its "
            "CUDA version"
        ) from error
    finally:
        if collecting:
            gc.enable()


def _make_logger(library: Library, messages: Messages) -> Any:
    """Make an ILogger that writes into ``messages``; its class is made here, as its base has to be imported first."""
    trt = library.module
    chatter = {trt.ILogger.INFO, trt.ILogger.VERBOSE}

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants this call, not super()'s

        def log(self, severity: Any, text: str) -> None:
            if severity not in chatter:  # a large build has a million of those, and each holds up every thread
                messages.add(severity.name, text)

    return Logger()


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
