"""Measures how the inputs of matrix products vary together; their weights are rounded by it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..runtime.backends.onnxruntime import TensorSession
from ..runtime.spec import ModelSpec
from .images import BATCH, read_batches
from .statistics import require_finite

__all__ = ["second_moments"]

Float32 = npt.NDArray[np.float32]


def second_moments(
    graph: Path | bytes,
    paths: Collection[Path],
    spec: ModelSpec,
    *,
    batch: int = BATCH,
    threads: int | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, Float32]:
    """Measure the mean of x xᵀ over images (and timesteps), (F, F) float32, of every output (…, F) of a graph.

    Args:
        graph: an ONNX file or its bytes.
        paths: image files; those that can't be read are passed over.
        spec: says how the images are preprocessed.
        batch: the number of images in each run.
        threads: how many threads ONNX Runtime may use.
        on_batch: called after each batch with its number of images.

    Raises:
        CalibrationError: an output is not finite.
        BackendError: ONNX Runtime refused the graph, or failed.
    """
    sums: dict[str, Float32] = {}
    rows: dict[str, int] = {}
    with TensorSession(graph, threads=threads) as session:
        for tensors in read_batches(tuple(paths), spec, batch=batch, on_skip=lambda _: None):
            for name, values in session.run(tensors).items():
                flat = np.asarray(values, np.float32).reshape(-1, values.shape[-1])
                require_finite(name, float(np.abs(flat).max()))
                if name not in sums:
                    sums[name], rows[name] = np.zeros((flat.shape[1], flat.shape[1]), np.float32), 0
                sums[name] += flat.T @ flat
                rows[name] += len(flat)
            if on_batch is not None:
                on_batch(len(next(iter(tensors.values()))))
    for name, count in rows.items():
        sums[name] /= count
    return sums
