"""What a model gives for a batch: the type that backends return and golden examples record."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["OUTPUT_NAMES", "Outputs"]

OUTPUT_NAMES = ("logits", "probabilities")


@dataclass(frozen=True, eq=False)
class Outputs:
    """``logits`` and ``probabilities`` of a batch, both (N, C) float32; each row of probabilities adds up to 1."""

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
