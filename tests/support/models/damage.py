"""Damage by hand that a parity check has to see: the mistakes that an exporter can make without any error."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from hybrid_edge.runtime.backends.base import Backend
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.spec import ModelSpec

Array = npt.NDArray[np.float32]

DAMAGES = ("gate order", "channel order", "scaling", "order of the timesteps")


class DamagedInputs(OnnxRuntimeCpu):
    """A graph whose preprocessing is broken: it does to its inputs what a wrong device would do to the pixels."""

    damage = ""

    def _infer(self, tensors: dict[str, Array]) -> tuple[Array, Array]:
        changed = dict(tensors)
        if self.damage == "channel order":
            changed["image"] = np.ascontiguousarray(tensors["image"][..., ::-1])
        elif self.damage == "scaling":  # x / 255 in place of x / 127.5 - 1
            changed = {name: (tensor + 1) / 2 for name, tensor in tensors.items()}
        elif self.damage == "order of the timesteps":
            changed["sequence"] = np.ascontiguousarray(tensors["sequence"][:, ::-1])
        return super()._infer(changed)


def damaged_backend(damage: str, graph: Path, spec: ModelSpec, folder: Path) -> Backend:
    """The graph with one kind of damage, loaded."""
    if damage == "gate order":
        target = folder / "gates.onnx"
        target.write_bytes(with_keras_gate_order(graph.read_bytes()))
        return OnnxRuntimeCpu(target, spec)
    backend = DamagedInputs(graph, spec)
    backend.damage = damage
    return backend


def with_keras_gate_order(graph: bytes) -> bytes:
    """The LSTMs' gates left as Keras has them, i f c o, where ONNX reads i o f c; in FP32 or FP16."""
    model = onnx.ModelProto.FromString(graph)
    names = {name for node in model.graph.node if node.op_type == "LSTM" for name in node.input[1:]}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            values = numpy_helper.to_array(tensor)
            gates = np.split(values, 8 if values.ndim == 2 else 4, axis=1)  # the bias is there for W and for R
            order = [block + gate for block in range(0, len(gates), 4) for gate in (0, 2, 3, 1)]
            tensor.raw_data = np.concatenate([gates[gate] for gate in order], axis=1).tobytes()
    return bytes(model.SerializeToString())


def with_swapped_steps(graph: bytes) -> bytes:
    """The forget and the output gate exchanged in every unrolled step, in any precision."""
    model = onnx.ModelProto.FromString(graph)
    for node in model.graph.node:
        if node.op_type == "Split" and node.name.endswith("/i"):
            node.output[1], node.output[2] = node.output[2], node.output[1]
    return bytes(model.SerializeToString())


def with_weak_convolution(graph: bytes) -> bytes:
    """The middle convolution's weights divided by 8: what a wrong scale does; in any precision."""
    model = onnx.ModelProto.FromString(graph)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    name = convolutions[len(convolutions) // 2].input[1]
    scales = {node.output[0]: node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    name = scales.get(name, name)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((values / 8).astype(values.dtype), name))
    return bytes(model.SerializeToString())
