"""Small valid bundles around a real ONNX graph, for tests that need one but no training."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.manifest import (
    MANIFEST,
    FileRecord,
    GoldenImage,
    GoldenRecord,
    Manifest,
    Parity,
    Precision,
    Provenance,
    Target,
    Variant,
    parse_manifest,
    sealed,
)
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.preprocess import Preprocessor, contract
from hybrid_edge.runtime.spec import ModelSpec

LABELS = ("apple", "bicycle", "cat", "dog", "lighthouse")
SPEC = ModelSpec(image_size=12, timesteps=6, backbone="digits", rnn_units=4, rnn_layers=1, class_labels=LABELS)
HIDDEN = 16

Array = npt.NDArray[np.float32]


def make_bundle(
    folder: Path,
    spec: ModelSpec = SPEC,
    *,
    variants: Sequence[tuple[Precision, Target]] = (("fp32", "cpu"),),
    examples: int = 8,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a bundle that every command accepts; ``changes`` replaces fields of the manifest."""
    (folder / "artifacts").mkdir(parents=True)
    (folder / "golden").mkdir()
    weights = make_weights(spec)
    graph = store(folder, "artifacts", "onnx", make_graph(spec, weights))
    frames = [sample_image(seed, 20 + seed, 31 - seed) for seed in range(examples)]
    tensors = Preprocessor(spec)(frames)
    outputs = reference_outputs(spec, weights, tensors)
    golden = store(folder, "golden", "npz", npz(outputs))
    images = [store(folder, "golden", "png", encode(frame)) for frame in frames]
    manifest = Manifest(
        spec=spec,
        preprocessing=contract(spec),
        weights_sha256="0" * 64,
        variants=tuple(make_variant(precision, target, graph, golden) for precision, target in variants),
        golden=GoldenRecord(
            images=tuple(GoldenImage(file=file, label=spec.class_labels[0]) for file in images),
            tensors=store(folder, "golden", "npz", npz(tensors)),
        ),
        provenance=Provenance(created="2026-11-21T00:00:00Z", hybrid_edge="0.1.0"),
    )
    (folder / MANIFEST).write_bytes(sealed(manifest.model_copy(update=dict(changes or {}))))
    return folder


def change_manifest(folder: Path, **fields: object) -> Bundle:
    """Replace fields of a bundle's manifest, and open the bundle again."""
    manifest = parse_manifest((folder / MANIFEST).read_bytes()).model_copy(update=fields)
    (folder / MANIFEST).write_bytes(sealed(manifest))
    return Bundle.open(folder)


def make_other_answers(folder: Path) -> Path:
    """Have a bundle's first variant promise other probabilities than its graph computes; return the folder."""
    bundle = Bundle.open(folder)
    variant = bundle.manifest.variants[0]
    outputs = bundle.golden_outputs(variant)
    other = npz({"logits": outputs.logits, "probabilities": np.roll(outputs.probabilities, 1, axis=1)})
    golden = store(folder, "golden", "npz", other)
    change_manifest(folder, variants=(variant.model_copy(update={"golden": golden}), *bundle.manifest.variants[1:]))
    return folder


def files_of(folder: Path) -> set[str]:
    """The paths of all files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def make_variant(precision: Precision, target: Target, file: FileRecord, golden: FileRecord, **changes: Any) -> Variant:
    """A variant's record that passed its parity gate."""
    parity = Parity(
        images=8,
        max_logit_error=1e-6,
        logit_limit=1e-4,
        max_probability_error=1e-7,
        mean_probability_error=1e-8,
        probability_limit=1e-5,
        top1_agreement=1.0,
        batch_error=1e-7,
        batch_limit=1e-5,
        measured_on="tests",
    )
    fields: dict[str, Any] = {
        "name": f"{precision}-{target}",
        "precision": precision,
        "target": target,
        "recurrent": "none",
        "file": file,
        "opset": 17,
        "ir_version": 8,
        "operators": {"MatMul": 1},
        "made_by": {"tests": "1"},
        "parity": parity,
        "golden": golden,
        "golden_tolerance": 1e-5,
    }
    return Variant(**{**fields, **changes})


def make_weights(spec: ModelSpec, seed: int = 7) -> dict[str, Array]:
    """One dense layer for each input, and a head sharp enough that probabilities are far from flat."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in spec.inputs.items():
        size = int(np.prod(shape))
        weights[name] = (rng.normal(size=(size, HIDDEN)) / np.sqrt(size) * 4).astype(np.float32)
    weights["head"] = rng.normal(size=(HIDDEN, spec.num_classes)).astype(np.float32)
    return weights


def reference_outputs(spec: ModelSpec, weights: Mapping[str, Array], tensors: Mapping[str, Array]) -> dict[str, Array]:
    """What the graph computes, in NumPy: product of the branches, head, softmax."""
    features = np.ones((1, 1), dtype=np.float32)
    for name in spec.inputs:
        features = features * (tensors[name].reshape(len(tensors[name]), -1) @ weights[name])
    logits = features @ weights["head"]
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {"logits": logits, "probabilities": exponentials / exponentials.sum(axis=1, keepdims=True)}


def make_graph(spec: ModelSpec, weights: Mapping[str, Array], *, batch: str | int = "N") -> bytes:
    """The same as an ONNX model, opset 17, IR 8, with a symbolic batch."""
    nodes = []
    for name in spec.inputs:
        nodes.append(helper.make_node("Flatten", [name], [f"{name}_flat"], axis=1))
        nodes.append(helper.make_node("MatMul", [f"{name}_flat", f"{name}_weights"], [f"{name}_features"]))
    features = [f"{name}_features" for name in spec.inputs]
    if len(features) == 2:
        nodes.append(helper.make_node("Mul", features, ["product"]))
        features = ["product"]
    nodes.append(helper.make_node("MatMul", [features[0], "head_weights"], ["logits"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    constants = [numpy_helper.from_array(value, f"{name}_weights") for name, value in weights.items()]
    model = make_model(spec, nodes, constants, batch)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_model(
    spec: ModelSpec, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], batch: str | int = "N"
) -> onnx.ModelProto:
    """A model with the interface of a spec, of opset 17 and IR 8."""

    def values(shapes: Mapping[str, tuple[int, ...]]) -> list[onnx.ValueInfoProto]:
        kind = TensorProto.FLOAT
        return [helper.make_tensor_value_info(name, kind, [batch, *shape]) for name, shape in shapes.items()]

    outputs = dict.fromkeys(("logits", "probabilities"), (spec.num_classes,))
    graph = helper.make_graph(nodes, "small", values(spec.inputs), values(outputs), constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def sample_image(seed: int = 0, height: int = 24, width: int = 32) -> npt.NDArray[np.uint8]:
    """A smooth colourful BGR image, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def encode(frame: npt.NDArray[Any], suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, frame)[1].tobytes())


def npz(arrays: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def store(folder: Path, where: str, suffix: str, data: bytes) -> FileRecord:
    """Write a file named by its hash, and record it."""
    digest = hashlib.sha256(data).hexdigest()
    path = f"{where}/{digest}.{suffix}"
    (folder / path).write_bytes(data)
    return FileRecord(path=path, size=len(data), sha256=digest)
