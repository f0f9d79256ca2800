"""Finds stale BatchNorm statistics: activations in inference that run beyond those that the network was trained with.

In training BatchNormalization gives every channel the mean beta and the deviation |gamma|, so that the mean square of
its output is mean(gamma^2 + beta^2). In inference it does so only where its moving averages fit the weights. The
measured RMS over the expected one tells (Ioffe and Szegedy, "Batch Normalization", 2015, section 3.1).

Measured on a trained Xception of 71x71 (40 layers, 300 training images): re-estimated after training 0.98 to 1.76 (on
50 images to 1.96); the averages that three epochs left, which cost 5 points of accuracy, 0.54 to 2.50; variances at
half of what fits, to 510; averages never updated, 0.05 to 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from ...calib import TensorStatistics
from ...train.model import KerasModel

MAX_RATIO = 2.0  # between the ratios of averages that fit and those of averages that three epochs left
REMEDY = (
    "hybrid-train re-estimates them when a phase ends: finish an interrupted run with hybrid-train --resume, or train "
    "again without --bn-batches 0"
)
ADOPTED_REMEDY = (
    "see first whether the preprocessing is the one that the model was trained with (--scaling, --channels), and "
    "whether the images to calibrate on are of its kind"
)
KERNEL_TOLERANCE = 1e-3  # of the largest weight: tf2onnx folds in float32; another layer's kernel differs by all of it
RNN_NORM = ("rnn_batch_norm", "rnn/batch_norm/output")  # a tensor only if a product follows; else it is folded away

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StaleReport:
    """How far BatchNorm's outputs are from what the layers' own gamma and beta say.

    ``ratios`` has the measured over the expected RMS of each layer's output, by the layer's name, in the network's
    order. A layer that was folded into what follows it, or is not among the measured tensors, is left out. ``adopted``:
    somebody else trained the model.
    """

    ratios: dict[str, float]
    adopted: bool = False

    @property
    def worst(self) -> tuple[str, float]:
        """The layer whose ratio is furthest from 1, to either side, and that ratio; ("", 1) if none was measured."""
        return max(self.ratios.items(), key=lambda item: _distance(item[1]), default=("", 1.0))

    @property
    def stale(self) -> tuple[str, ...]:
        """The layers above ``MAX_RATIO`` or below its inverse."""
        return tuple(name for name, ratio in self.ratios.items() if _distance(ratio) > np.log(MAX_RATIO))

    @property
    def warning(self) -> str | None:
        """A sentence that names the cause, or None where the statistics fit."""
        if not self.stale:
            return None
        name, ratio = self.worst
        return (
            f"BatchNorm's moving averages are stale: in inference the outputs of {len(self.stale)} of "
            f"{len(self.ratios)} layers are far from what training made them, {name}'s at {ratio:.3g} times (expected "
            f"{1 / MAX_RATIO:g} to {MAX_RATIO:g}); this, and no layer's sensitivity, is the first cause to remove. "
            + (ADOPTED_REMEDY if self.adopted else REMEDY)
        )


def stale_layers(
    model: KerasModel, outputs: Mapping[str, str], statistics: Mapping[str, TensorStatistics]
) -> StaleReport:
    """Compare the measured outputs of BatchNormalization layers with what their gamma and beta say.

    ``outputs`` is the tensor of each layer's output, from ``batch_norm_outputs``; ``statistics`` are those of the
    graph's tensors over training images (``calib.calibrate``).
    """
    ratios: dict[str, float] = {}
    for norm in _norms(model):
        gamma, beta = _gamma(norm), 0 if norm.beta is None else norm.beta.numpy()
        expected = float(np.sqrt(np.mean(np.square(gamma) + np.square(beta))))
        measured = statistics.get(outputs.get(norm.name, ""))
        if measured is not None and measured.count and expected != 0:
            ratios[norm.name] = measured.rms / expected
    return StaleReport(ratios, adopted=not _branches(model))


def batch_norm_outputs(model: KerasModel, graph: onnx.ModelProto) -> dict[str, str]:
    """Find the tensor of ``GraphBuilder``'s FP32 graph that holds each BatchNormalization layer's output, by its name.

    BatchNorm is folded into the convolution before it, whose name says only that it is one: it is found by its kernel.
    A layer that was folded into what follows it has no tensor, and is left out.
    """
    kernels = list(_kernels(graph.graph))
    outputs: dict[str, str] = {}
    for norm in _norms(model):
        folded = _folded(norm)
        if folded is not None:
            found = [name for name, kernel in kernels if _same(kernel, folded)]
            outputs |= {norm.name: found[0]} if len(found) == 1 else {}
    name, tensor = RNN_NORM
    if any(tensor in node.output for node in graph.graph.node):
        outputs[name] = tensor
    return outputs


def _norms(model: KerasModel) -> list[Any]:
    layers = [layer for part in _branches(model) or [model] for layer in _leaves(part)]
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def _branches(model: KerasModel) -> list[Any]:
    return [layer for layer in model.layers if layer.name in ("cnn", "rnn")]


def _leaves(model: KerasModel) -> Iterator[Any]:
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, keras.Model) else [layer]


def _gamma(norm: Any) -> Array:
    """Return the factors of a layer, which may be built without any."""
    return np.ones(1, np.float32) if norm.gamma is None else np.asarray(norm.gamma.numpy(), np.float32)


def _folded(norm: Any) -> Array | None:
    """Scale the kernel of the convolution before a BatchNormalization by it, (out, in, h, w); None behind others."""
    before = norm.input._keras_history.operation
    if not isinstance(before, (keras.layers.Conv2D, keras.layers.SeparableConv2D)):
        return None
    kernel = before.pointwise_kernel if isinstance(before, keras.layers.SeparableConv2D) else before.kernel
    scale = _gamma(norm) / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
    return np.asarray((kernel.numpy() * scale).transpose(3, 2, 0, 1), np.float32)


def _kernels(graph: onnx.GraphProto) -> Iterator[tuple[str, Array]]:
    """Yield the output name and the kernel of each convolution that is not depthwise."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in constants and constants[node.input[1]].dims[1] > 1:
            yield node.output[0], numpy_helper.to_array(constants[node.input[1]])


def _same(kernel: Array, expected: Array) -> bool:
    if kernel.shape != expected.shape:
        return False
    limit = KERNEL_TOLERANCE * float(np.abs(expected).max())
    # the first input channel alone tells nearly all other kernels apart, for a fraction of the work
    first = np.abs(kernel[:, :1] - expected[:, :1]).max() <= limit
    return bool(first and np.abs(kernel - expected).max() <= limit)


def _distance(ratio: float) -> float:
    return abs(float(np.log(max(ratio, 1e-30))))
