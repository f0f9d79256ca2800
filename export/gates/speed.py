"""Times each precision beside the next wider one on this machine, and warns where the narrower one is not faster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from ...runtime.engines.engine_options import EngineOptions
from ...runtime.manifest import Precision, Target
from ...runtime.spec import ModelSpec
from ...runtime.timing import Timing, time_interleaved
from ..plan import PRECISIONS
from .prove import open_target

__all__ = ["AgainstWider", "against_wider", "time_ratio"]

SECONDS = 2.0
WARM_UP = 0.3
ROUNDS = 5


@dataclass(frozen=True)
class AgainstWider:
    """A precision timed beside the next wider one.

    Attributes:
        ratio: its time over the next wider precision's.
        warning: where it is slower, a sentence with both times; else None.
    """

    ratio: float
    warning: str | None


def against_wider(
    files: Mapping[Precision, Path], target: Target, spec: ModelSpec, options: EngineOptions | None = None
) -> dict[Precision, AgainstWider]:
    """Time the precisions of a target side by side, one image at a time.

    Args:
        files: an artifact's file for each precision.
        target: the target that they were made for; one that is only simulated here is not timed.
        spec: the model's spec.
        options: the batch profile and workspace of TensorRT's engines.

    Returns:
        Each precision's time beside the next wider one's; the widest is left out, and all where nothing was timed.
    """
    ordered = [precision for precision in PRECISIONS if precision in files]
    timings, device = _time([files[precision] for precision in ordered], target, spec, options)
    found: dict[Precision, AgainstWider] = {}
    for (wider, slow), (narrower, fast) in pairwise(zip(ordered, timings, strict=False)):
        ratio = fast.p50 / slow.p50
        warning = (
            f"{narrower} takes {fast.p50:.2f} ms an image on {device}, {wider} {slow.p50:.2f} ms: {narrower} is "
            f"{ratio:.2f} times slower here"
        )
        found[narrower] = AgainstWider(ratio, warning if ratio > 1 else None)
    return found


def time_ratio(
    first: Path, second: Path, target: Target, spec: ModelSpec, options: EngineOptions | None = None
) -> float | None:
    """Measure how many times as long as the first the second artifact takes for an image; None if only simulated."""
    timings, _ = _time([first, second], target, spec, options)
    return timings[1].p50 / timings[0].p50 if timings else None


def _time(
    files: Sequence[Path], target: Target, spec: ModelSpec, options: EngineOptions | None
) -> tuple[list[Timing], str]:
    """Time artifacts and name the device; the list is empty for one artifact alone or where they are only simulated."""
    tensors = {name: np.zeros((1, *shape), np.float32) for name, shape in spec.inputs.items()}
    calls: dict[str, Callable[[], object]] = {}
    device = ""
    with ExitStack() as stack:
        for number, file in enumerate(files if len(files) > 1 else ()):
            backend, simulated = stack.enter_context(open_target(target, file, spec, options))
            if simulated:
                return [], ""
            calls[str(number)] = partial(backend.run, tensors)
            device = backend.device
        if not calls:
            return [], ""
        timings = time_interleaved(calls, warm_up_s=WARM_UP, min_seconds=SECONDS, min_rounds=ROUNDS)
    return list(timings.values()), device
