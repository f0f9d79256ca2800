"""FP32 graphs to lower, what was measured on crops of photographs, and how to run what comes out."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from hybrid_edge.calib import Range, TensorStatistics, choose_range
from hybrid_edge.export.convert.fp32_graph import GraphBuilder, serialize, set_versions
from hybrid_edge.export.convert.graph_reading import quantizable
from hybrid_edge.export.convert.graph_writer import GraphWriter
from hybrid_edge.export.quantize.calibration_graph import bounds, measured_graph
from hybrid_edge.export.quantize.cpu_graph import CpuGraph
from hybrid_edge.export.quantize.equalize import PixelGrid
from hybrid_edge.export.quantize.gpu_graph import GpuGraph
from hybrid_edge.runtime.backends.base import Backend
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu, OnnxRuntimeSimulated, TensorSession
from hybrid_edge.runtime.preprocess import Preprocessor
from hybrid_edge.runtime.spec import ModelSpec, preset
from support.models.standin import crops

Array = npt.NDArray[np.float32]
Tensors = dict[str, Array]

# RMS over RMS of logits in INT8. A weight is off by half a step at most, of 63 to 127 to the largest, an activation by
# half of one of 255: uniform weights by 0.4 to 0.8 % of their RMS, activations whose peak is five times their RMS by
# 0.6 % when they are taken and again when they are made. So a layer adds some 1 %, six in a row and the steps of an
# LSTM 2 to 4 %, and this is twice as much; a wrong scale, zero point or order is off by all of it
INT8_ERROR = 0.08
# small enough that every test may build its own
SMALL = preset("digits").replace(class_labels=tuple("abcde"), rnn_units=16, rnn_layers=2)
SMALL_RNN = SMALL.replace(branches="rnn")
VARIANTS = ("fp32", "fp16", "int8-tensorrt", "int8-cpu")


@dataclass(frozen=True)
class Source:
    """A model's FP32 graphs by the form of the recurrent branch, and statistics of their tensors."""

    spec: ModelSpec
    forms: Mapping[str, onnx.ModelProto]
    statistics: Mapping[str, TensorStatistics]

    @cached_property
    def signed(self) -> dict[str, Range]:
        """Ranges for TensorRT."""
        return self._ranges(symmetric=True)

    @cached_property
    def unsigned(self) -> dict[str, Range]:
        """Ranges for ONNX Runtime on the CPU."""
        return self._ranges(symmetric=False)

    def _ranges(self, *, symmetric: bool) -> dict[str, Range]:
        limits = bounds(self.forms["unrolled"], PixelGrid.of(self.spec))
        return {
            name: choose_range(item, "minmax", symmetric=symmetric, bounds=limits.get(name))
            for name, item in self.statistics.items()
        }

    def lower(self, variant: str, form: str, wider: Collection[str] = (), **changes: Any) -> onnx.ModelProto:
        """One of ``VARIANTS`` in a form; ``changes`` go to its writer, ``ranges`` in place of the measured ones too."""
        source = self.forms[form]
        if variant == "fp32":
            return source
        if variant == "fp16":
            return GpuGraph(source, **changes).write()
        quantized = [layer for layer in quantizable(source) if layer not in wider]
        if variant == "int8-cpu":
            return CpuGraph(source, changes.pop("ranges", self.unsigned), quantized, **changes).write()
        return GpuGraph(source, ranges=changes.pop("ranges", self.signed), quantized=quantized, **changes).write()


def measured_source(spec: ModelSpec, forms: Mapping[str, onnx.ModelProto], images: int = 32) -> Source:
    """Statistics over crops that no test compares on."""
    tensors = tensors_of(spec, images, seed=1001)
    return Source(spec, forms, statistics_of(measured_graph(forms["unrolled"]), tensors))


def statistics_of(model: onnx.ModelProto, tensors: Mapping[str, Array]) -> dict[str, TensorStatistics]:
    """Statistics of what a graph takes and gives."""
    with TensorSession(serialize(model), threads=1) as session:
        found = {name: tensors[name] for name in session.inputs} | session.run(tensors)
    statistics = {name: TensorStatistics(name) for name in found}
    for name, values in found.items():
        statistics[name].update(values)
    return statistics


def source_of(model: Any, spec: ModelSpec) -> Source:
    """The graphs of a Keras model, and statistics."""
    builder = GraphBuilder(model, spec)
    return measured_source(spec, {"lstm": builder.build("lstm"), "unrolled": builder.build("unrolled")})


@lru_cache(maxsize=16)  # a test's images are decoded in more time than its graph runs
def tensors_of(spec: ModelSpec, count: int, seed: int = 77) -> Tensors:
    """The spec's inputs of ``count`` crops, read-only."""
    tensors = dict(Preprocessor(spec)(crops(count, seed)))
    for tensor in tensors.values():
        tensor.setflags(write=False)
    return tensors


def is_simulated(variant: str) -> bool:
    """Whether a variant's target is not the CPU."""
    return variant in ("fp16", "int8-tensorrt")


def logits_of(model: onnx.ModelProto, tensors: Mapping[str, Array], variant: str = "fp32") -> Array:
    with TensorSession(serialize(model), threads=1, simulated=is_simulated(variant)) as session:
        return np.asarray(session.run(tensors)["logits"])


@contextmanager
def opened(model: onnx.ModelProto, spec: ModelSpec, variant: str = "fp32") -> Iterator[Backend]:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(serialize(model))
        kind = OnnxRuntimeSimulated if is_simulated(variant) else OnnxRuntimeCpu
        with kind(file, spec, threads=1) as backend:
            yield backend


def error_of(found: Array, expected: Array) -> float:
    """Max |difference| / max |expected|."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def rms_error(found: Array, expected: Array) -> float:
    """RMS of the difference over that of what was expected: what rounding adds up to, where the largest is chance."""
    return float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))


def randomize(model: Any, seed: int = 0) -> None:
    """Every weight away from its initial value, so that none can be left out or mixed up unseen."""
    rng = np.random.default_rng(seed)
    values = []
    for variable in model.weights:
        noise = rng.normal(0, 0.1, variable.shape)
        values.append(np.abs(noise) + 0.2 if "variance" in variable.path else variable.numpy() + noise)
    model.set_weights(values)


class SmallCnn:
    """A CNN of a few operators on an image of a shape, written by hand; opset 17, IR 8."""

    def __init__(self, shape: tuple[int, int, int], *, padded: bool = False) -> None:
        self.writer = GraphWriter("small")
        self.writer.input("image", shape)
        self._padded = padded

    def convolve(self, value: str, name: str, weight: Array, bias: Array | None = None, **attributes: Any) -> str:
        """A convolution; where the CNN is padded, what it makes is as large as what it takes."""
        constants = {f"{name}/w": weight} | ({} if bias is None else {f"{name}/b": bias})
        inputs = [value, *(self.writer.constant(key, item.astype(np.float32)) for key, item in constants.items())]
        if self._padded:
            attributes["pads"] = [weight.shape[2] // 2] * 4
        return self.writer.node("Conv", inputs, name, **attributes)

    def finish(self, value: str, channels: int) -> onnx.ModelProto:
        """The model, whose logits are the means of a value's channels."""
        self.writer.node("GlobalAveragePool", [value], "pooled")
        self.writer.node("Flatten", ["pooled"], "logits")
        self.writer.output("logits", (channels,))
        set_versions(self.writer.model, 17, 8)
        return self.writer.model


def makers_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def constants_of(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    """The initializers; no name may be there twice."""
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(set(names)) == len(names)
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
