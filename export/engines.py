"""TensorRT engines of an exported bundle: for this machine, or ahead of time for desktop RTX cards. No TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.backends.tensorrt import find_tensorrt
from ..runtime.bundle import Bundle
from ..runtime.engines.ahead import RtxEngine, build_rtx
from ..runtime.engines.cache import EngineCache
from ..runtime.engines.options import EngineOptions
from ..runtime.engines.prepare import Place, prepare_engine
from ..runtime.engines.progress import Reporter
from ..runtime.errors import BackendUnavailableError, BundleError, EngineError, HybridEdgeError, Int8EngineError
from ..train.files import sweep
from .bundle_writer import locked

__all__ = ["Engines", "LocalEngine", "build_engines"]


@dataclass(frozen=True)
class LocalEngine:
    """An engine for this machine.

    Attributes:
        variant: the bundle's variant that it was built from.
        path: its file in the cache.
        size: bytes.
        seconds: parsing and building, whenever that was.
        built: now, or found in the cache.
    """

    variant: str
    path: Path
    size: int
    seconds: float
    built: bool


@dataclass(frozen=True)
class Engines:
    """What ``build_engines`` left.

    Attributes:
        local: engines for this machine, in the cache.
        ahead: engines for desktop RTX cards, beside the bundle.
        advice: one line, where none is for this machine: why, and what to run on the device.
    """

    local: tuple[LocalEngine, ...] = ()
    ahead: tuple[RtxEngine, ...] = ()
    advice: str = ""


def build_engines(
    path: Path | None,
    architectures: Sequence[str] = (),
    options: EngineOptions | None = None,
    reporter: Reporter | None = None,
) -> Engines:
    """Build every TensorRT variant of a bundle: for this machine if it has TensorRT and a GPU, and for architectures.

    Args:
        path: the bundle, as ``Bundle.open`` takes it.
        architectures: desktop RTX cards to build for with TensorRT-RTX, from ``parse_architectures``; their engines are
            written to ``engines`` beside the bundle.
        options: batch profile and workspace.
        reporter: whom to tell meanwhile.

    Raises:
        BundleError: no bundle, a damaged one, or one without a TensorRT variant.
        BackendUnavailableError: architectures were asked for, and TensorRT-RTX is not installed.
        EngineError: one does not build; the others are built first.
        Int8EngineError: a quantized one does not build; the others are built first.
    """
    bundle = Bundle.open(path)
    options, reporter = options or EngineOptions(), reporter or Reporter()
    if not any(item.target == "tensorrt" for item in bundle.manifest.variants):
        raise BundleError(f"{bundle.root}: expected a variant for tensorrt, found none; hybrid-export adds one")
    ahead = _build_ahead(bundle, path, architectures, options, reporter) if architectures else []
    try:
        place = Place(*find_tensorrt(), EngineCache(), reporter, keep=True)
        local = _build_local(bundle, options, place)
    except BackendUnavailableError as error:
        return Engines(ahead=tuple(ahead), advice=_advice(bundle, path, options, error))
    return Engines(local=tuple(local), ahead=tuple(ahead))


def _build_ahead(
    bundle: Bundle, path: Path | None, architectures: Sequence[str], options: EngineOptions, reporter: Reporter
) -> list[RtxEngine]:
    """One at a time beside a bundle: two would sweep each other's unfinished files."""
    home = _home(bundle, path)
    folder = home.parent / "engines"
    with locked(home, lambda: reporter.say("another export writes beside this bundle: waiting for it")):
        for name in ("*-rtx-sm*.engine", "*-rtx-sm*.json"):
            sweep(folder, name)
        return build_rtx(bundle, architectures, folder, options, reporter)


def _build_local(bundle: Bundle, options: EngineOptions, place: Place) -> list[LocalEngine]:
    """All that build; then the first error, if there was one."""
    engines, errors = [], []
    for variant in bundle.manifest.variants:
        if variant.target != "tensorrt":
            continue
        try:
            made = prepare_engine(bundle.verified(variant.file), variant.file.sha256, bundle.spec, options, place)
        except (EngineError, Int8EngineError) as error:
            errors.append(error)
            place.reporter.say(f"{variant.name} does not build here: {error}")
            continue
        record = made.engine.record
        engines.append(LocalEngine(variant.name, made.path, record.size, record.seconds, made.built))
    if errors:
        raise _worst(errors)
    return engines


def _worst(errors: Sequence[HybridEdgeError]) -> HybridEdgeError:
    """A fault before a gate's refusal, for which there is another precision."""
    return next((error for error in errors if not isinstance(error, Int8EngineError)), errors[0])


def _home(bundle: Bundle, path: Path | None) -> Path:
    """The bundle's folder or its tar: ``engines`` lies beside it."""
    return path.resolve() if path is not None and path.is_file() and path.suffix == ".tar" else bundle.root


def _advice(bundle: Bundle, path: Path | None, options: EngineOptions, reason: BackendUnavailableError) -> str:
    name = (path or bundle.root).name
    shapes = [
        f"--{kind}Shapes=" + ",".join(f"{item}:{'x'.join(map(str, (batch, *shape)))}" for item, shape in inputs)
        for kind, batch in zip(("min", "opt", "max"), options.profile, strict=True)
        for inputs in [bundle.spec.inputs.items()]
    ]
    file = next(item.file.path for item in bundle.manifest.variants if item.target == "tensorrt")
    return (
        f"no engine was built for this machine ({str(reason).split(';')[0]}); on the device the first "
        f"hybrid-infer --bundle {name} builds it, or hybrid-export --engine-only {name}, or in the bundle's folder "
        f"trtexec --onnx={file} --stronglyTyped --noTF32 {' '.join(shapes)} --saveEngine=model.engine"
    )
