"""Is a narrower precision faster here? Timed beside the next wider one, and said where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..runtime.engines.options import EngineOptions
from ..runtime.manifest import Precision, Target
from ..runtime.spec import ModelSpec
from ..runtime.timing import compare, time_interleaved
from .plan import PRECISIONS
from .prove import open_target

__all__ = ["slower_than_wider"]

SECONDS = 2.0
WARM_UP = 0.3
ROUNDS = 5


def slower_than_wider(
    files: Mapping[Precision, Path], target: Target, spec: ModelSpec, options: EngineOptions | None = None
) -> dict[Precision, str]:
    """Time the precisions of a target side by side, one image at a time.

    Args:
        files: an artifact for each precision.
        target: for which they were made; one that is only simulated here is not timed.
        spec: of the model.
        options: of TensorRT's engines.

    Returns:
        a warning for each precision that is slower than the next wider one, with both times.
    """
    ordered = [precision for precision in PRECISIONS if precision in files]
    tensors = {name: np.zeros((1, *shape), np.float32) for name, shape in spec.inputs.items()}
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for precision in ordered:
            backend, simulated = stack.enter_context(open_target(target, files[precision], spec, options))
            if simulated:
                return {}
            calls[precision] = partial(backend.run, tensors)
        if len(calls) < 2:
            return {}
        timings = time_interleaved(calls, warm_up_s=WARM_UP, min_seconds=SECONDS, min_rounds=ROUNDS)
        device = backend.device
    found: dict[Precision, str] = {}
    for wider, narrower in pairwise(ordered):
        ratio = compare(timings[wider], timings[narrower]).ratio
        if ratio > 1:
            found[narrower] = (
                f"{narrower} takes {timings[narrower].p50:.2f} ms an image on {device}, {wider} "
                f"{timings[wider].p50:.2f} ms: {narrower} is {ratio:.2f} times slower here"
            )
    return found
