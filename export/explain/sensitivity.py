"""Measures how sensitive each layer is to INT8: what its quantization alone does to the logits."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...calib import read_batches
from ...runtime.backends.base import Backend
from ...runtime.backends.onnxruntime import OnnxRuntimeSimulated
from ...runtime.spec import ModelSpec
from ..convert.build import serialize
from ..quantize.lower import Lowering

__all__ = ["SENSITIVITY_IMAGES", "LayerSensitivity", "as_records", "group_of", "measure_sensitivity", "ranked_groups"]

Tensor = npt.NDArray[np.float32]
Batches = Sequence[dict[str, Tensor]]

SENSITIVITY_IMAGES = 32
# Xception's blocks are groups; in other CNNs, and in the recurrent branch, each layer is a group of its own
BLOCK_NAME = re.compile(r"cnn/block\d+")


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer in INT8, with everything else in FP32, does to the logits.

    Attributes:
        layer: the name of a convolution, a matrix product, or an LSTM with both of its products.
        group: the block that the layer belongs to.
        error: the RMS difference of the logits / their RMS.
        max_error: the largest |difference| / the largest |logit|.
        agreement: the share of the images whose first label stays, 0 to 1.
        parameters: the number of the layer's weights.
    """

    layer: str
    group: str
    error: float
    max_error: float
    agreement: float
    parameters: int


def group_of(layer: str) -> str:
    """Return the block that a layer belongs to; layers are given back a block at a time."""
    found = BLOCK_NAME.match(layer)
    return found[0] if found else layer


def measure_sensitivity(
    lowering: Lowering,
    paths: Iterable[Path],
    spec: ModelSpec,
    *,
    on_layer: Callable[[int], None] = lambda _: None,
) -> list[LayerSensitivity]:
    """Quantize one layer after the other, as for TensorRT, simulated on the CPU, and compare with FP32.

    Args:
        lowering: writes the graphs, and says which layers there are; its ranges must be set.
        paths: image files; calibration images, so that the gate's stay unseen.
        spec: the model's spec.
        on_layer: called after each layer with 1.

    Returns:
        One result for each layer, in the order of the graph.
    """
    batches = list(read_batches(paths, spec))
    form = "unrolled" if spec.uses_rnn else "none"
    with tempfile.TemporaryDirectory(prefix="hybrid-edge-") as folder:
        file = Path(folder) / "layer.onnx"

        def run(quantized: Sequence[str]) -> Tensor:
            file.write_bytes(serialize(lowering.quantize_in_fp32(form, quantized)))
            with OnnxRuntimeSimulated(file, spec) as backend:
                return _logits(backend, batches)

        expected = run(())
        found = []
        for layer, parameters in lowering.parameters(form).items():
            found.append(_compare(layer, parameters, expected, run((layer,))))
            on_layer(1)
    return found


def ranked_groups(layers: Iterable[LayerSensitivity]) -> list[tuple[str, ...]]:
    """Group the layers, the most sensitive group first: by the sum of the squares of its layers' errors."""
    groups: dict[str, list[LayerSensitivity]] = {}
    for item in layers:
        groups.setdefault(item.group, []).append(item)
    order = sorted(groups.values(), key=lambda items: -sum(item.error**2 for item in items))
    return [tuple(item.layer for item in items) for items in order]


def as_records(layers: Iterable[LayerSensitivity]) -> list[dict[str, str | float | int]]:
    """Turn the results into records for JSON and CSV, one dict of plain values for each layer."""
    return [asdict(item) for item in layers]


def _logits(backend: Backend, batches: Batches) -> Tensor:
    return np.concatenate([backend.run(tensors).logits for tensors in batches])


def _compare(layer: str, parameters: int, expected: Tensor, found: Tensor) -> LayerSensitivity:
    difference = found.astype(np.float64) - expected
    scale = np.maximum(np.abs(expected).max(), np.finfo(np.float32).tiny)
    rms = np.maximum(np.sqrt(np.square(expected, dtype=np.float64).mean()), np.finfo(np.float32).tiny)
    return LayerSensitivity(
        layer=layer,
        group=group_of(layer),
        error=float(np.sqrt(np.square(difference).mean()) / rms),
        max_error=float(np.abs(difference).max() / scale),
        agreement=float((found.argmax(axis=1) == expected.argmax(axis=1)).mean()),
        parameters=parameters,
    )
