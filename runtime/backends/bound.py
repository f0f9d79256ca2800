"""Binds the inputs and outputs of an ONNX Runtime session to memory that stays where it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..frame import OUTPUT_NAMES
from ..spec import ModelSpec

__all__ = ["BoundSession"]

Tensor = npt.NDArray[np.float32]

MOST_SIZES = 16  # batch sizes whose memory is kept; beyond that the one that was bound first is dropped


class BoundSession:
    """Runs a session on inputs that lie on a device; nothing is allocated there from one batch to the next.

    Args:
        library: the module ``onnxruntime``.
        session: an InferenceSession of it.
        spec: the spec whose inputs and outputs the session has.
        device: the device as onnxruntime names it: ``cuda``.
    """

    def __init__(self, library: ModuleType, session: Any, spec: ModelSpec, device: str) -> None:
        self._library = library
        self._session = session
        self._spec = spec
        self._device = device
        self._sizes: dict[int, _Bound] = {}

    def run(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute logits and probabilities, (N, C) float32, of one batch; what onnxruntime raises is passed on."""
        return self._of(tensors).run(tensors)

    def upload(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the inputs to the device and wait for that, without running the session."""
        self._of(tensors).upload(tensors)

    def _of(self, tensors: Mapping[str, Tensor]) -> _Bound:
        batch = len(next(iter(tensors.values())))
        if batch not in self._sizes:
            if len(self._sizes) == MOST_SIZES:
                del self._sizes[next(iter(self._sizes))]
            self._sizes[batch] = _Bound(self._library, self._session, self._spec, self._device, batch)
        return self._sizes[batch]


class _Bound:
    """The session's binding for one batch size, with the memory of its inputs and outputs."""

    def __init__(self, library: ModuleType, session: Any, spec: ModelSpec, device: str, batch: int) -> None:
        self._session = session
        self._binding = session.io_binding()
        self._inputs = {
            name: library.OrtValue.ortvalue_from_shape_and_type([batch, *shape], np.float32, device, 0)
            for name, shape in spec.inputs.items()
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        self._outputs = {name: np.zeros((batch, spec.num_classes), np.float32) for name in OUTPUT_NAMES}
        for name, output in self._outputs.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, output.shape, output.ctypes.data)

    def upload(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in self._inputs.items():
            value.update_inplace(tensors[name])
        self._binding.synchronize_inputs()

    def run(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        self.upload(tensors)
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        logits, probabilities = (self._outputs[name].copy() for name in OUTPUT_NAMES)
        return logits, probabilities
