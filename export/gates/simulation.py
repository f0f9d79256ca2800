"""Simulates targets on the CPU, and computes a CNN once that several artifacts have in common.

    fp16-tensorrt            ──► CNN ─┬─► LSTM operators ──► head
    fp16-tensorrt-unrolled   ──► CNN ─┘   single steps   ──► head

The two forms of the recurrent branch stand behind one and the same CNN, which takes most of a simulation's time. A
hybrid's graph is run as two: what the image alone makes is kept by the graph and the images that it was made of, and
what is behind it is run for each artifact.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from ...runtime.backends.onnxruntime import OnnxRuntimeSimulated, TensorSession
from ...runtime.spec import ModelSpec
from ..convert.fp32_graph import serialize
from ..convert.graph_parts import split_behind_image
from .reference import BATCH

Tensor = npt.NDArray[np.float32]
Features = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class SharedFeatures:
    """What CNNs gave for batches of images, by the SHA-256 of graph and images; some 64 KiB for a batch of 8."""

    found: dict[tuple[str, str], Features] = field(default_factory=dict)


def simulate(file: Path, spec: ModelSpec, shared: SharedFeatures | None = None) -> OnnxRuntimeSimulated:
    """Open the simulation of an artifact, in two parts where it has a CNN and a recurrent branch."""
    parts = split_behind_image(onnx.load(file)) if spec.branches == "hybrid" and shared is not None else None
    if parts is None or shared is None:
        return OnnxRuntimeSimulated(file, spec)
    return SimulatedInParts(file, spec, parts, shared)


class SimulatedInParts(OnnxRuntimeSimulated):
    """Simulates a hybrid's graph as two: the CNN, whose results are shared, and all that is behind it.

    Up to eight images go through the CNN as the batch that they came in, more in batches of eight.
    """

    def __init__(
        self, model: Path, spec: ModelSpec, parts: tuple[onnx.ModelProto, onnx.ModelProto], shared: SharedFeatures
    ) -> None:
        self._parts = parts
        self._shared = shared
        super().__init__(model, spec)

    def _load(self, model: Path, threads: int | None) -> None:  # noqa: ARG002
        first, second = (serialize(part) for part in self._parts)
        del self._parts
        self._key = hashlib.sha256(first).hexdigest()
        self._first, self._second = (TensorSession(part, threads=threads, simulated=True) for part in (first, second))

    def _compute(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        image = tensors["image"]
        parts = [self._features(image[start : start + BATCH]) for start in range(0, len(image), BATCH)]
        features = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        outputs = self._second.run({**tensors, **features})
        return outputs["logits"], outputs["probabilities"]

    def _features(self, image: Tensor) -> Features:
        key = (self._key, hashlib.sha256(image.data).hexdigest())
        if key not in self._shared.found:
            self._shared.found[key] = self._first.run({"image": image})
        return self._shared.found[key]

    def _release(self) -> None:
        self._first.close()
        self._second.close()
