"""This room opens the engine that runs a bundle here: TensorRT, then ONNX Runtime on the GPU, then on the CPU.

A bundle and the user's choice come in; a ``Backend``, which turns input tensors into logits and probabilities, goes
out. It must not know where frames come from or what becomes of predictions. Names are loaded when they are first used.

    base                what every Backend promises, and the checks that all share
    selection           which of them, and which variant of the bundle
    onnxruntime         ONNX Runtime on the CPU;  onnxruntime_cuda  on an NVIDIA GPU
    tensorrt            TensorRT and TensorRT-RTX;  fastest_form  which of two graphs is faster there
    cuda                the only importer of cuda-python

To add an engine, write its subclass of ``Backend`` and put it into ``selection.ENGINES``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .base import Backend
    from .selection import ENGINES, Selection, open_backend, open_variant

__all__ = ["ENGINES", "Backend", "Selection", "open_backend", "open_variant"]

if not TYPE_CHECKING:  # a type checker is to see the names above, and no others
    __getattr__ = lazy_names(__name__, {name: "base" if name == "Backend" else "selection" for name in __all__})
