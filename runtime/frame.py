"""A Frame is one decoded picture, which every source gives; Outputs are what a model says of a batch of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # a picture, (H, W, 3), BGR


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame, or the reason why there is none.

    Attributes:
        source: the file, camera or stream it comes from, as it was named.
        index: the frame's number in a video or stream, from 0; 0 for an image.
        image: (H, W, 3) uint8, BGR; None where ``error`` says why.
        error: what is wrong with the file, or with this frame of a stream.
        video: whether the source has more than one frame.
        captured: when the frame left its decoder, ``time.monotonic()`` seconds; 0 where nobody measures ages.
        timestamp: the same moment in Unix seconds.
        position: seconds from the start of its video file; None elsewhere.
    """

    source: str
    index: int
    image: Pixels | None
    error: str | None = None
    video: bool = False
    captured: float = 0.0
    timestamp: float = 0.0
    position: float | None = None


OUTPUT_NAMES = ("logits", "probabilities")


@dataclass(frozen=True, eq=False)
class Outputs:
    """The ``logits`` and ``probabilities`` of a batch, both (N, C) float32; a row of probabilities adds up to 1."""

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
