"""This room runs engines of TensorRT and TensorRT-RTX on this machine's GPU, as a Backend.

An ONNX graph and batches come in, logits and probabilities go out. ``runtime/engines`` builds and keeps the engines;
this room must not know bundles, variants or frames.

    engine          TensorRT and the GPU of this machine; an engine, loaded, and the contexts in which it runs
    execution       one batch on the GPU's stream: as a CUDA graph, or kernel by kernel
    batch_memory    a batch's memory on both sides, and its way there and back
    backend         the Backend: batches in, outputs out
"""

from __future__ import annotations

from .backend import TensorRtBackend
from .engine import find_tensorrt

__all__ = ["TensorRtBackend", "find_tensorrt"]
