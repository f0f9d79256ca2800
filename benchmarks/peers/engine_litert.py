"""LiteRT (TensorFlow Lite) with XNNPACK, one file for each batch size: an LSTM converts with a fixed batch alone."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from .worker import Engine, Tensors

__all__ = ["open_engine"]


def open_engine(options: dict[str, Any], threads: int) -> Engine:
    """Load ``options["files"]``, batch size -> file; a batch between the sizes is filled up with rows again."""
    files = {int(batch): path for batch, path in options["files"].items()}
    opened: dict[int, Any] = {}

    def interpreter(rows: int) -> tuple[int, Any]:
        batch = min(size for size in files if size >= rows)
        if batch not in opened:
            opened[batch] = Interpreter(files[batch], num_threads=threads)
            opened[batch].allocate_tensors()
        return batch, opened[batch]

    def run(tensors: Tensors) -> Any:
        image = tensors["image"]
        batch, ready = interpreter(len(image))
        padded = image if len(image) == batch else np.resize(image, (batch, *image.shape[1:]))
        ready.set_tensor(ready.get_input_details()[0]["index"], padded)
        ready.invoke()
        return ready.get_tensor(ready.get_output_details()[0]["index"])[: len(image)]

    return Engine(run, {"ai-edge-litert": version("ai-edge-litert")})
