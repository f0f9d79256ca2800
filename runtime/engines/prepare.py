"""The engine of a graph on this machine: from the cache, else built and kept there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..errors import EngineMissingError
from ..spec import ModelSpec
from .build import build_engine
from .cache import CachedEngine, EngineCache, EngineKey
from .gpu import Gpu
from .headroom import check_headroom
from .library import Library
from .options import EngineOptions
from .progress import Reporter

__all__ = ["Place", "Prepared", "prepare_engine"]


@dataclass(frozen=True)
class Place:
    """Where engines are built and kept.

    Attributes:
        library: which TensorRT.
        gpu: this machine's.
        cache: where engines are kept.
        reporter: whom to tell meanwhile.
    """

    library: Library
    gpu: Gpu
    cache: EngineCache
    reporter: Reporter = field(default_factory=Reporter)


@dataclass(frozen=True)
class Prepared:
    """An engine, and whether it was built just now."""

    engine: CachedEngine
    built: bool
    path: Path

    def forget(self) -> None:
        """Leave the engine without its record, so that it is built again when it is next needed."""
        self.path.with_suffix(".json").unlink(missing_ok=True)


def prepare_engine(onnx: Path, sha256: str, spec: ModelSpec, options: EngineOptions, place: Place) -> Prepared:
    """The engine of a graph, built if the cache has none that is whole and was made for exactly this.

    Safe with several processes at once: one builds, the others wait for it.

    Args:
        onnx: the graph, already verified; read only if it must be built.
        sha256: its hash.
        spec: whose inputs it has.
        options: batch profile and workspace, and whether it may be built.
        place: library, GPU and cache.

    Raises:
        EngineError: TensorRT could not build it, there is too little disk or memory, or the cache can't be written.
        EngineMissingError: it is not in the cache, and the options say not to build it.
        Int8EngineError: TensorRT does not build this quantized graph here.
    """
    key = EngineKey.of(sha256, place.library, place.gpu, options)
    path = place.cache.path(key)
    engine = place.cache.lookup(key)
    if engine is not None:
        return Prepared(engine, built=False, path=path)
    if not options.build:
        raise EngineMissingError(
            f"expected an engine for {place.library.label} on {place.gpu.name} and these options in "
            f"{place.cache.folder}, found none that is whole"
        )
    with place.cache.locked(lambda: place.reporter.say("another process builds an engine: waiting for it")):
        engine = place.cache.lookup(key, place.reporter.say)  # the other may have built this one
        if engine is not None:
            return Prepared(engine, built=False, path=path)
        return Prepared(_build(onnx.read_bytes(), key, spec, options, place), built=True, path=path)


def _build(onnx: bytes, key: EngineKey, spec: ModelSpec, options: EngineOptions, place: Place) -> CachedEngine:
    library, gpu, cache = place.library, place.gpu, place.cache
    check_headroom(len(onnx), cache.folder, gpu)
    place.reporter.say(f"building an engine with {library.label} for {gpu.name}: minutes, once on this machine")
    times = f"{key.timing_name}.timing"
    with place.reporter.show() as listener:
        built = build_engine(
            onnx, spec, options, library, gpu=gpu, timing_cache=cache.read_note(times), listener=listener
        )
    if built.timing_cache is not None:
        cache.keep_note(times, built.timing_cache)
    return cache.store(key, built.engine, seconds=built.seconds, label=f"{library.label} on {gpu.name}")
