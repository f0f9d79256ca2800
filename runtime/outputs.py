"""Outputs are what a model gives for a batch: backends return them and golden examples record them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["OUTPUT_NAMES", "Outputs"]

OUTPUT_NAMES = ("logits", "probabilities")


@dataclass(frozen=True, eq=False)
class Outputs:
    """The ``logits`` and ``probabilities`` of a batch, both (N, C) float32; a row of probabilities adds up to 1."""

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
