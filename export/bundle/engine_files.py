"""Builds an exported bundle's TensorRT engines, for this machine or ahead for desktop RTX cards, without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtime.backends.tensorrt import find_tensorrt
from ...runtime.bundle import Bundle
from ...runtime.engines.ahead import RtxEngine, build_rtx
from ...runtime.engines.build import BuildEnvironment, prepare_engine
from ...runtime.engines.cache import EngineCache
from ...runtime.engines.engine_options import EngineOptions, Profile
from ...runtime.engines.progress import Reporter
from ...runtime.errors import BackendUnavailableError, BundleError, EngineError, HybridEdgeError, Int8EngineError
from ...runtime.spec import ModelSpec
from ...runtime.storage import sweep
from .bundle_writer import bundle_lock


@dataclass(frozen=True)
class LocalEngine:
    """An engine for this machine, in the cache; ``size`` is in bytes.

    ``seconds`` is how long parsing and building took, now or when it came into the cache.
    """

    variant: str
    path: Path
    size: int
    seconds: float


@dataclass(frozen=True)
class Engines:
    """The engines that ``build_engines`` built or found: ``local`` in the cache, ``ahead`` beside the bundle.

    ``advice`` is one line where no engine is for this machine: why, and what to run on the device.
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

    ``path`` is as ``Bundle.open`` takes it. ``architectures``, from ``parse_architectures``, are desktop RTX cards that
    TensorRT-RTX builds for; their engines are written to ``engines`` beside the bundle.

    Raises:
        BundleError: there is no bundle, a damaged one, or one without a TensorRT variant.
        BackendUnavailableError: architectures were asked for, and TensorRT-RTX is not installed.
        EngineError: an engine does not build; the others are built first.
        Int8EngineError: an INT8 engine does not build; the others are built first.
    """
    bundle = Bundle.open(path)
    options, reporter = options or EngineOptions(), reporter or Reporter()
    if not any(item.target == "tensorrt" for item in bundle.manifest.variants):
        raise BundleError(f"{bundle.root}: expected a variant for tensorrt, found none; hybrid-export adds one")
    ahead = _build_ahead(bundle, path, architectures, options, reporter) if architectures else []
    try:
        environment = BuildEnvironment(*find_tensorrt(), EngineCache(), reporter, must_keep=True)
        local = _build_local(bundle, options, environment)
    except BackendUnavailableError as error:
        return Engines(ahead=tuple(ahead), advice=_advice(bundle, path, options, error))
    return Engines(local=tuple(local), ahead=tuple(ahead))


def _build_ahead(
    bundle: Bundle, path: Path | None, architectures: Sequence[str], options: EngineOptions, reporter: Reporter
) -> list[RtxEngine]:
    """Build engines for desktop cards under the bundle's lock: two exports would sweep each other's partial files."""
    home = _home(bundle, path)
    folder = home.parent / "engines"
    with bundle_lock(home, lambda: reporter.say("another export writes beside this bundle: waiting for it")):
        for name in ("*-rtx-sm*.engine", "*-rtx-sm*.json"):
            sweep(folder, name)
        return build_rtx(bundle, architectures, folder, options, reporter)


def _build_local(bundle: Bundle, options: EngineOptions, environment: BuildEnvironment) -> list[LocalEngine]:
    engines, errors = [], []
    for variant in bundle.manifest.variants:
        if variant.target != "tensorrt":
            continue
        try:
            made = prepare_engine(bundle.verified(variant.file), variant.file.sha256, bundle.spec, options, environment)
        except (EngineError, Int8EngineError) as error:
            errors.append(error)
            environment.reporter.say(f"{variant.name} does not build here: {error}")
            continue
        record = made.engine.record
        engines.append(LocalEngine(variant.name, made.path, record.size, record.seconds))
    if errors:
        raise _worst(errors)
    return engines


def _worst(errors: Sequence[HybridEdgeError]) -> HybridEdgeError:
    """Choose the error to raise: the first that is no INT8 refusal, since that one leaves other precisions to use."""
    return next((error for error in errors if not isinstance(error, Int8EngineError)), errors[0])


def _home(bundle: Bundle, path: Path | None) -> Path:
    """Return the bundle's folder or its tar: ``engines`` lies beside it."""
    return path.resolve() if path is not None and path.is_file() and path.suffix == ".tar" else bundle.root


def _advice(bundle: Bundle, path: Path | None, options: EngineOptions, reason: BackendUnavailableError) -> str:
    name = (path or bundle.root).name
    file = next(item.file.path for item in bundle.manifest.variants if item.target == "tensorrt")
    return (
        f"no engine was built for this machine ({str(reason).split(';')[0]}); on the device the first "
        f"hybrid-infer --bundle {name} builds it, or hybrid-export --engine-only {name}, or in the bundle's folder "
        f"trtexec --onnx={file} {trtexec_options(bundle.spec, options.profile)} --saveEngine=model.engine"
    )


def trtexec_options(spec: ModelSpec, profile: Profile) -> str:
    """Return the options with which TensorRT's trtexec builds what ``build_engines`` does: types, and batch sizes."""
    shapes = [
        f"--{kind}Shapes=" + ",".join(f"{item}:{'x'.join(map(str, (batch, *shape)))}" for item, shape in inputs)
        for kind, batch in zip(("min", "opt", "max"), profile, strict=True)
        for inputs in [spec.inputs.items()]
    ]
    return f"--stronglyTyped --noTF32 {' '.join(shapes)}"
