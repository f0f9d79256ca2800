"""Runs graphs with ONNX Runtime's CUDA provider, on inputs and outputs that stay bound to their memory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import BackendUnavailableError
from ..frame import OUTPUT_NAMES
from ..spec import ModelSpec
from .base import Buffers
from .cuda import HostMemory
from .onnxruntime import CPU_PROVIDER, OnnxRuntimeCpu, import_onnxruntime

Tensor = npt.NDArray[np.float32]

CUDA_PROVIDER = "CUDAExecutionProvider"
LOG_ERRORS = 3  # of ONNX Runtime's severities: 2 warning, 3 error, 4 fatal
MAX_BOUND_SIZES = 16  # batch sizes whose memory is kept; beyond that the one that was bound first is dropped


class OnnxRuntimeCuda(OnnxRuntimeCpu):
    """Runs a graph with ONNX Runtime's CUDA provider; refuses where ONNX Runtime would quietly take the CPU instead.

    Inputs and outputs are bound to memory that stays where it is; one batch runs at a time.
    """

    # TF32 would keep 10 bits of FP32's mantissa: FP32 is to mean FP32. EXHAUSTIVE, the default, times the algorithms of
    # every convolution again for each batch size that comes up, in the middle of a video: PaddleX#5057 measured 10.1 s
    # for 16 sizes against HEURISTIC's 0.03 s, and no batch after that was slower
    providers: ClassVar[list[Any]] = [
        (CUDA_PROVIDER, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}),
        CPU_PROVIDER,
    ]
    device_name: ClassVar[str] = "CUDA"
    memory: ClassVar[str] = "cuda"  # the device in whose memory the inputs are bound
    log_severity: ClassVar[int] = LOG_ERRORS  # only ONNX Runtime's log says why CUDA could not start

    def _require(self, library: ModuleType) -> None:
        if CUDA_PROVIDER not in library.get_available_providers():
            raise BackendUnavailableError(
                "the onnxruntime installed here is built without CUDA; for an NVIDIA GPU: pip uninstall onnxruntime && "
                "pip install 'hybrid-edge[gpu]' ('hybrid-edge[gpu-cu12]' below driver 580, on a Jetson NVIDIA's own "
                "wheel for its JetPack)"
            )
        preload = getattr(library, "preload_dlls", None)  # 1.21 and later: finds the CUDA that pip installed
        if preload is not None:
            with contextlib.redirect_stdout(sys.stderr):  # preloading prints what it doesn't find
                preload()

    def _check_session(self, model: Path) -> None:
        taken = self._session.get_providers()
        if CUDA_PROVIDER not in taken:
            raise BackendUnavailableError(
                f"expected ONNX Runtime to run on {CUDA_PROVIDER}, found that it took {taken}: the driver, CUDA or "
                "cuDNN is missing or does not fit; nvidia-smi shows the driver, pip install 'hybrid-edge[gpu]' brings "
                "the rest"
            )
        super()._check_session(model)
        self._bindings: dict[int, _Binding] = {}
        self._locked: list[HostMemory] = []

    def _compute(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self._binding(tensors).run(tensors)

    def _binding(self, tensors: Mapping[str, Tensor]) -> _Binding:
        batch = len(next(iter(tensors.values())))
        if batch not in self._bindings:
            if len(self._bindings) == MAX_BOUND_SIZES:
                del self._bindings[next(iter(self._bindings))]
            self._bindings[batch] = _Binding(self._session, self.spec, self.memory, batch)
        return self._bindings[batch]

    def profile(self, tensors: Mapping[str, Tensor], *, runs: int = 5) -> dict[str, float]:  # noqa: ARG002
        """Return nothing: ONNX Runtime notes when a kernel was put on the GPU's stream, not how long it took there."""
        self._check_open()
        return {}

    def copies(self, buffers: Buffers, rows: int) -> dict[str, Callable[[], None]]:
        """Return the call that copies the inputs; the outputs' copy is part of ONNX Runtime's run."""
        self._check_open()
        tensors = {name: tensor[:rows] for name, tensor in buffers.tensors.items()}
        return {"copy in": lambda: self._binding(tensors).upload(tensors)}

    def _allocate_inputs(self, capacity: int) -> dict[str, Tensor]:
        """Allocate page-locked memory, which copies at full speed, or plain memory where cuda-python is missing."""
        tensors = {}
        for name, shape in self.spec.inputs.items():
            try:
                memory = HostMemory((capacity, *shape))
            except BackendUnavailableError:
                return super()._allocate_inputs(capacity)
            self._locked.append(memory)
            tensors[name] = memory.array
        return tensors

    def _release(self) -> None:
        self._bindings.clear()
        super()._release()
        for memory in self._locked:
            memory.close()


class _Binding:
    """A session's inputs and outputs of one batch size, in memory that is allocated once.

    The inputs lie on ``device``, as onnxruntime names it, the outputs in the CPU's memory.
    """

    def __init__(self, session: Any, spec: ModelSpec, device: str, batch: int) -> None:
        library = import_onnxruntime()
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
