"""The export from end to end: Keras model -> ONNX graph, checked -> parity with Keras -> bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

from .. import __version__
from ..runtime.backends.onnxruntime import OnnxRuntimeCpu
from ..runtime.manifest import FileRecord, Manifest, Parity, Provenance, Target, Variant
from ..runtime.preprocess import Frame, contract, read_image
from ..runtime.spec import ModelSpec
from ..train.data import LabelledImage
from ..train.model import KerasModel
from ..train.model_file import load_model, weights_sha256
from .bundle_writer import BundleWriter
from .check import check_graph, count_operators
from .golden import add_arrays, golden_outputs, keep_golden, make_golden
from .graph import IR_VERSION, OPSET, build_graph, serialize
from .images import MINIMUM
from .pack import pack
from .parity import measure_parity, require_parity
from .request import ExportRequest
from .steps import Steps, peak_memory_mib

__all__ = ["ExportResult", "export"]

TARGETS: tuple[Target, ...] = get_args(Target)
NAMES = tuple(f"fp32-{target}" for target in TARGETS)
# another CPU or engine rounds differently, by about as much as ONNX Runtime differs from Keras here; another model
# differs from 1e-2 on
GOLDEN_FACTOR = 10
MADE_BY = ("tensorflow", "keras", "tf2onnx", "onnx")
PACKAGES = (*MADE_BY, "onnxruntime", "onnxruntime-gpu", "numpy", "opencv-python")


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        bundle: its folder.
        tar: the bundle as one file, if that was asked for.
        manifest: as it stands in the bundle now.
        written: names of the variants that this export wrote; others were there before.
        seconds: of each step.
        peak_memory: MiB.
    """

    bundle: Path
    tar: Path | None
    manifest: Manifest
    written: tuple[str, ...]
    seconds: dict[str, float]
    peak_memory: float


@dataclass(frozen=True)
class _Graph:
    """A graph in the bundle's folder, checked, not yet referred to by a manifest."""

    file: FileRecord
    operators: dict[str, int]


def export(request: ExportRequest, *, tar: bool = False, steps: Steps | None = None) -> ExportResult:
    """Convert a model to ONNX in FP32, prove it on real images, and write the bundle.

    Args:
        request: from ``make_request``.
        tar: pack the bundle too.
        steps: says what is being done, and times it.

    Raises:
        ModelFileError: not a file that hybrid-train wrote, or a damaged one.
        ConversionError: the graph is not the one that was declared.
        ParityError: the graph and the Keras model disagree; the bundle that was there is unchanged.
        BundleError: the bundle can't be written; the one that was there is unchanged.
    """
    steps = steps or Steps(quiet=True)
    with steps.step("load the Keras model"):
        model, spec = load_model(request.model)
    with BundleWriter(request.out, lambda: steps.say("another export writes this bundle: waiting for it")) as writer:
        graph = _convert(writer, model, spec, steps)
        manifest = _prove(writer, graph, model, spec, request, steps)
        with steps.step("commit the bundle"):
            writer.commit(manifest)
    packed = None
    if tar:
        with steps.step("pack the bundle"):
            packed = pack(writer.path)
    return ExportResult(writer.path, packed, manifest, NAMES, steps.seconds, peak_memory_mib())


def _convert(writer: BundleWriter, model: KerasModel, spec: ModelSpec, steps: Steps) -> _Graph:
    with steps.step("convert to ONNX"):
        graph = build_graph(model, spec)
    with steps.step("check the graph"):
        check_graph(graph, spec)
    with steps.step("write the graph"):
        return _Graph(writer.add("artifacts", "onnx", serialize(graph)), count_operators(graph))


def _prove(
    writer: BundleWriter, graph: _Graph, model: KerasModel, spec: ModelSpec, request: ExportRequest, steps: Steps
) -> Manifest:
    """Run the graph against Keras and on the golden examples; the manifest of the bundle that it is then fit for."""
    images = request.images.images
    weights = weights_sha256(model)
    with OnnxRuntimeCpu(writer.path / graph.file.path, spec) as backend:
        with steps.step(f"compare with Keras on {len(images)} images"):
            parity = measure_parity(model, spec, backend, _frames(images))
            require_parity(parity)
        with steps.step("record golden examples"):
            golden = keep_golden(writer, weights, spec, NAMES) or make_golden(writer, images[:MINIMUM], spec)
            outputs = add_arrays(writer, golden_outputs(backend, golden))
    return Manifest(
        spec=spec,
        preprocessing=contract(spec),
        weights_sha256=weights,
        variants=(*_variants(graph, spec, parity, outputs), *golden.kept),
        golden=golden.record,
        provenance=_provenance(request),
    )


def _variants(graph: _Graph, spec: ModelSpec, parity: Parity, outputs: FileRecord) -> Iterator[Variant]:
    """FP32 is one graph for every target."""
    for name, target in zip(NAMES, TARGETS, strict=True):
        yield Variant(
            name=name,
            precision="fp32",
            target=target,
            recurrent="lstm" if spec.uses_rnn else "none",
            file=graph.file,
            opset=OPSET,
            ir_version=IR_VERSION,
            operators=graph.operators,
            made_by={"hybrid-edge": __version__, **_versions(MADE_BY)},
            parity=parity,
            golden=outputs,
            golden_tolerance=GOLDEN_FACTOR * parity.probability_limit,
        )


def _provenance(request: ExportRequest) -> Provenance:
    return Provenance(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        hybrid_edge=__version__,
        run=request.run,
        packages=_versions(PACKAGES),
        metrics=request.metrics,
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {package: _version(package) for package in packages}
    return {package: number for package, number in found.items() if number}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # onnxruntime or onnxruntime-gpu; OpenCV under another name


def _frames(images: Sequence[LabelledImage]) -> Iterator[Frame]:
    return (read_image(image.path) for image in images)
