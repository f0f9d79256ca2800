"""ONNX Runtime's CPU provider with its defaults, on a graph's file."""

from __future__ import annotations

from typing import Any

import onnxruntime

from .worker import Engine, Tensors

__all__ = ["open_engine"]


def open_engine(options: dict[str, Any], threads: int) -> Engine:
    """Load ``options["graph"]``."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(options["graph"], settings, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(tensors: Tensors) -> Any:
        return session.run(["probabilities"], {name: tensors[name] for name in names})[0]

    return Engine(run, {"onnxruntime": onnxruntime.__version__})
