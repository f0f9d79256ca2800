"""Gets the engine of a graph on this machine from the cache, or builds it and keeps it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import EngineError, EngineMissingError
from ..spec import ModelSpec
from .build import build_engine
from .cache import CachedEngine, EngineCache, EngineKey, Told
from .gpu import Gpu
from .headroom import check_memory, disk_shortage
from .library import Library
from .options import EngineOptions
from .progress import Reporter

__all__ = ["Place", "Prepared", "prepare_engine"]


@dataclass(frozen=True)
class Place:
    """Where engines are built and kept.

    Attributes:
        library: the TensorRT that builds.
        gpu: this machine's GPU.
        cache: the cache in which engines are kept.
        reporter: is told meanwhile.
        keep: whether an engine that can't be kept is an error, as for someone who builds now and runs another day;
            otherwise it is used from memory, and a line says so.
    """

    library: Library
    gpu: Gpu
    cache: EngineCache
    reporter: Reporter = field(default_factory=Reporter)
    keep: bool = False

    def not_kept(self, reason: str) -> None:
        """Report that an engine can't be kept.

        Raises:
            EngineError: it must be kept.
        """
        if self.keep:
            raise EngineError(reason)
        self.reporter.say(f"{reason}; this run has its engine in memory, the next one builds it again")


@dataclass(frozen=True)
class Prepared:
    """An engine, and whether it was built just now."""

    engine: CachedEngine
    built: bool
    path: Path
    cache: EngineCache

    @property
    def kernels(self) -> bytes | None:
        """The kernels that TensorRT-RTX compiled for the engine at an earlier start, or None if none were kept."""
        return self.cache.read_note(self.path.with_suffix(".kernels").name)

    def keep_kernels(self, kernels: bytes, on_refusal: Told) -> None:
        """Keep compiled kernels beside the engine; ``on_refusal`` is told why that is not possible."""
        self.cache.keep_note(self.path.with_suffix(".kernels").name, kernels, on_refusal)


def prepare_engine(
    onnx: Path, sha256: str, spec: ModelSpec, options: EngineOptions, place: Place, *, stale: str = ""
) -> Prepared:
    """Return the engine of a graph; build it if the cache has none that is whole and was made for exactly this.

    Several processes may call it at once: one builds, the others wait for it.

    Args:
        onnx: the graph's file, already verified; it is read only if the engine must be built.
        sha256: the SHA-256 of that file.
        spec: the spec whose inputs the graph has.
        options: batch profile and workspace, and whether an engine may be built.
        place: library, GPU and cache.
        stale: the hash of an engine in the cache that TensorRT does not take any more.

    Raises:
        BackendUnavailableError: TensorRT does not start here.
        EngineError: TensorRT could not build it, there is too little memory, or it can't be kept where it must be.
        EngineMissingError: the engine is not in the cache, and the options say not to build it.
        Int8EngineError: TensorRT does not build this quantized graph here.
    """
    key = EngineKey.of(sha256, place.library, place.gpu, options)
    path = place.cache.path(key)

    def kept(on_refusal: Told = lambda _: None) -> CachedEngine | None:
        found = place.cache.lookup(key, on_refusal)
        return None if found is None or found.record.sha256 == stale else found

    engine = kept()
    if engine is not None:
        return Prepared(engine, built=False, path=path, cache=place.cache)
    if not options.build:
        raise EngineMissingError(
            f"expected an engine for {place.library.label} on {place.gpu.name} and these options in "
            f"{place.cache.folder}, found none that is whole"
        )
    say = place.reporter.say
    with place.cache.locked(lambda: say("another process builds an engine: waiting for it"), say):
        engine = kept(say)  # the other process may have built this very engine
        if engine is not None:
            return Prepared(engine, built=False, path=path, cache=place.cache)
        return Prepared(_build(onnx, key, spec, options, place), built=True, path=path, cache=place.cache)


def _build(onnx: Path, key: EngineKey, spec: ModelSpec, options: EngineOptions, place: Place) -> CachedEngine:
    library, gpu, cache = place.library, place.gpu, place.cache
    size = onnx.stat().st_size
    shortage = disk_shortage(size, cache.folder)
    if shortage is not None:
        place.not_kept(shortage)
    check_memory(size, gpu)
    place.reporter.say(f"building an engine with {library.label} for {gpu.name}: minutes, once on this machine")
    times = f"{key.timing_name}.timing"
    with place.reporter.show() as listener:
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
        on_refusal=place.not_kept if shortage is None else lambda _: None,
    )
