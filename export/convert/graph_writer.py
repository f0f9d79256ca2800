"""GraphWriter holds an ONNX graph while it is being written."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

BATCH = "N"  # the symbolic batch axis, as the interface names it


class GraphWriter:
    """Adds nodes and constants to one ``GraphProto``, in place: a weight is held once, not once per list it is in."""

    def __init__(self, name: str) -> None:
        self.model = onnx.ModelProto()
        self.graph = self.model.graph
        self.graph.name = name
        self._asked: set[str] = set()

    def input(self, name: str, shape: tuple[int, ...]) -> str:
        """Declare an input (N, *shape) float32, and return its name."""
        self.graph.input.append(_value(name, shape))
        return name

    def output(self, name: str, shape: tuple[int, ...]) -> None:
        """Declare an output (N, *shape) float32."""
        self.graph.output.append(_value(name, shape))

    def node(self, operator: str, inputs: list[str], output: str | list[str], **attributes: Any) -> str:
        """Add a node, by default of ONNX's own domain, named like its first output, and return that name."""
        outputs = [output] if isinstance(output, str) else output
        name = next(item for item in outputs if item)
        self.graph.node.append(onnx.helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return name

    def copy(self, node: onnx.NodeProto, inputs: list[str]) -> None:
        """Add a copy of a node that takes other inputs."""
        written = self.graph.node.add()
        written.CopyFrom(node)
        written.input[:] = inputs

    def is_new(self, name: str) -> bool:
        """Tell whether a name is asked for for the first time: what several nodes share is written once."""
        fresh = name not in self._asked
        self._asked.add(name)
        return fresh

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add an initializer of the array's own dtype and shape, and return its name."""
        tensor = self.graph.initializer.add()
        tensor.name = name
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.dims.extend(values.shape)
        tensor.raw_data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        return name

    def dense(self, value: str, kernel: npt.NDArray[Any], bias: npt.NDArray[Any], output: str) -> str:
        """Add ``value @ kernel + bias``, kernel (I, O) and bias (O,) in float32, and return the result's name."""
        weights = self.constant(f"{output}/kernel", kernel.astype(np.float32, copy=False))
        offset = self.constant(f"{output}/bias", bias.astype(np.float32, copy=False))
        return self.node("Gemm", [value, weights, offset], output)


def _value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [BATCH, *shape])
