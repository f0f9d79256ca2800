"""TensorRT-RTX builds engines for desktop RTX cards ahead of time, on a machine that needs no GPU.

These engines lie in ``engines/`` beside the bundle, not in it: a bundle is portable, an engine fits one version of
TensorRT-RTX and one architecture. They never run on a Jetson.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..bundle import Bundle
from ..errors import EngineError, UsageError
from ..manifest import Variant
from ..storage import write_bytes, write_json
from .build import BuiltEngine, build_engine
from .engine_options import EngineOptions
from .library import Library, find_library
from .progress import Reporter

# desktop cards: Ampere (A100 with sm80), Ada, Blackwell
ARCHITECTURES = ("sm80", "sm86", "sm89", "sm120")
REFUSED_ARCHITECTURES = {
    "sm75": "TensorRT-RTX has no FP32 matrix product for it (Turing), and every variant has one",
    "sm87": "that is a Jetson Orin, on which TensorRT-RTX does not run: build there, with hybrid-export --engine-only",
}


@dataclass(frozen=True)
class RtxEngine:
    """An engine that was built ahead of time, of ``size`` bytes, for an ``architecture`` such as ``sm89``.

    Its record lies beside it and ends in ``.json``; parsing and building took ``seconds``.
    """

    variant: str
    architecture: str
    path: Path
    size: int
    seconds: float


def parse_architectures(text: str) -> tuple[str, ...]:
    """Read ``sm80,sm89`` as names of architectures, each once.

    UsageError gives the reason why engines can't be built for one of them ahead of time.
    """
    names = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    for name in names:
        if name not in ARCHITECTURES:
            reason = f": {REFUSED_ARCHITECTURES[name]}" if name in REFUSED_ARCHITECTURES else ""
            raise UsageError(f"expected RTX architectures among {', '.join(ARCHITECTURES)}, found {name!r}{reason}")
    return names


def build_rtx(
    bundle: Bundle,
    architectures: Sequence[str],
    out: Path,
    options: EngineOptions | None = None,
    reporter: Reporter | None = None,
) -> list[RtxEngine]:
    """Build every TensorRT variant of a bundle for every architecture; engines of graphs that are gone are removed.

    The architectures are names from ``parse_architectures``; ``out`` is by custom ``engines`` beside the bundle.

    Raises:
        BackendUnavailableError: TensorRT-RTX is not installed.
        BundleError: a variant's file is missing or damaged.
        EngineError: an engine does not build, or can't be written; those before it are kept.
        Int8EngineError: an engine of a quantized graph does not build.
    """
    library = find_library("rtx")
    options, reporter = options or EngineOptions(), reporter or Reporter()
    variants = [item for item in bundle.manifest.variants if item.target == "tensorrt"]
    built = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove_stale(out, {item.file.sha256 for item in variants})
        for variant in variants:
            onnx = bundle.verified(variant.file).read_bytes()
            for architecture in architectures:
                reporter.say(f"building {variant.name} for {architecture} with {library.label}")
                with reporter.show() as listener:
                    engine = build_engine(
                        onnx, bundle.spec, options, library, architecture=architecture, listener=listener
                    )
                built.append(_keep(engine, variant, architecture, out, options, library))
    except OSError as error:
        raise EngineError(f"{out}: engines can't be written here: {error.strerror or error}") from error
    return built


def _keep(
    built: BuiltEngine, variant: Variant, architecture: str, out: Path, options: EngineOptions, library: Library
) -> RtxEngine:
    path = out / f"{variant.name}-rtx-{architecture}.engine"
    record = {
        "kind": library.kind,
        "label": f"{library.label} for {architecture}: desktop RTX cards, not for Jetson",
        "version": library.version,
        "architecture": architecture,
        "variant": variant.name,
        "onnx_sha256": variant.file.sha256,
        "profile": options.profile,
        "workspace": options.workspace,
        "sha256": hashlib.sha256(built.engine).hexdigest(),
        "size": len(built.engine),
        "seconds": round(built.seconds, 3),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    path.with_suffix(".json").unlink(missing_ok=True)  # no record while the engine is replaced
    write_bytes(path, built.engine)
    write_json(path.with_suffix(".json"), record)
    return RtxEngine(variant.name, architecture, path, len(built.engine), built.seconds)


def _remove_stale(out: Path, current: set[str]) -> None:
    """Remove our engines of graphs that the bundle no longer has, as beside the new ones they would mislead."""
    for record in out.glob("*-rtx-sm*.json"):
        try:
            content = json.loads(record.read_bytes())
        except ValueError:
            continue
        if isinstance(content, dict) and content.get("kind") == "rtx" and content.get("onnx_sha256") not in current:
            record.unlink()
            record.with_suffix(".engine").unlink(missing_ok=True)
