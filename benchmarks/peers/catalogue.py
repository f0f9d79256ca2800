"""Who runs: the project's own variants, and every setting of the engines that they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError

__all__ = ["OURS", "REFERENCE", "Peer", "catalogue", "plain_graph_of"]

OURS = "hybrid-edge"
REFERENCE = "Keras tf.function"  # whose labels the others' are compared with
ELSEWHERE = ("tensorrt", "cuda")  # variants that need a GPU


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
        name: unique, for people.
        precision: of the arithmetic, for people: ``FP32``, ``INT8 + BF16``.
        engine: which ``engine_*`` module runs it.
        options: what that module needs to open it.
        environment: the optional environment it runs in (``environments.PACKAGES``), or empty for our own.
        makes: what has to be made for it first, a function of ``artifacts``; its answer is added to the options.
    """

    name: str
    precision: str
    engine: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""
    makes: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is the project's own."""
        return self.engine == "ours"


def catalogue(model: Path, bundle: Bundle) -> tuple[Peer, ...]:
    """Every peer of a model, and the bundle's own variants for this machine's CPU, FP32 first."""
    keras = {"model": str(model)}
    plain = {"graph": str(plain_graph_of(bundle))}
    return (
        Peer("Keras predict", "FP32", "keras", {**keras, "call": "predict"}),
        Peer(REFERENCE, "FP32", "keras", {**keras, "call": "function"}),
        Peer("ONNX Runtime, plain graph", "FP32", "onnxruntime", plain),
        Peer("OpenVINO FP32", "FP32", "openvino", {**plain, "hint": "f32"}, "openvino"),
        Peer("OpenVINO BF16", "BF16", "openvino", {**plain, "hint": "bf16"}, "openvino"),
        Peer("OpenVINO INT8 (NNCF)", "INT8 + FP32", "openvino", {"hint": "f32"}, "openvino", "nncf_int8"),
        Peer("OpenVINO INT8 (NNCF) + BF16", "INT8 + BF16", "openvino", {"hint": "bf16"}, "openvino", "nncf_int8"),
        Peer("LiteRT FP32", "FP32", "litert", {}, "litert", "litert_fp32"),
        Peer("LiteRT INT8 weights", "INT8 weights", "litert", {}, "litert", "litert_weights"),
        Peer("LiteRT INT8", "INT8", "litert", {}, "litert", "litert_int8"),
        *_ours(bundle),
    )


def plain_graph_of(bundle: Bundle) -> Path:
    """The FP32 graph with ``LSTM`` operators: what plain tf2onnx computes (``peers.plain``), verified.

    Raises:
        BundleError: the bundle has none.
    """
    for variant in bundle.manifest.variants:
        if variant.precision == "fp32" and variant.recurrent in ("lstm", "none"):
            return bundle.verified(variant.file)
    names = ", ".join(item.name for item in bundle.manifest.variants)
    raise BundleError(
        f"{bundle.root}: expected an FP32 variant with LSTM operators, found {names}; hybrid-export --fp32 adds it"
    )


def _ours(bundle: Bundle) -> Sequence[Peer]:
    """One for each precision and target: which variant of them is taken is the runtime's own choice."""
    wanted = {(item.target, item.precision) for item in bundle.manifest.variants if item.target not in ELSEWHERE}
    return [
        Peer(
            f"{OURS} {precision.upper()}" + ("" if target == "cpu" else f" ({target})"),
            precision.upper(),
            "ours",
            {"bundle": str(bundle.root), "backend": target, "precision": precision},
        )
        for target, precision in sorted(wanted)
    ]
