"""A Frame is one decoded picture, which every source gives; Outputs are what a model says of a batch of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import InputError

Pixels = npt.NDArray[np.uint8]  # a picture, (H, W, 3), BGR


def check_pixels(image: Pixels) -> None:
    """Raise InputError unless a picture is (H, W, 3) uint8, and not empty."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"expected a frame of shape (H, W, 3), uint8, BGR; found shape {image.shape}, {image.dtype}")


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame, or the reason why it can't be classified.

    Attributes:
        source: the file, camera or stream it comes from, as it was named.
        index: the frame's number in a video or stream, from 0; 0 for an image.
        image: (H, W, 3) uint8, BGR; None where it could not be read.
        error: what is wrong with the file, or with this frame of a stream; None where nothing is.
        video: whether the source has more than one frame.
        captured: when the frame left its decoder, ``time.monotonic()`` seconds; 0 where nobody measures ages.
        timestamp: the same moment in Unix seconds.
        position: seconds from the start of its video file; None elsewhere.
        seen: what the model was shown in place of ``image``, (H, W, 3) uint8, BGR; None where it was shown that.
        region: the name of the region that ``image`` is, of a larger picture; empty where it is the whole picture.
        whole: the picture that ``image`` is a view into, (H, W, 3) uint8, BGR; None where ``image`` is the whole.
        box: the left, top, width and height of ``image`` in ``whole``, pixels; None where ``image`` is the whole.
    """

    source: str
    index: int
    image: Pixels | None
    error: str | None = None
    video: bool = False
    captured: float = 0.0
    timestamp: float = 0.0
    position: float | None = None
    seen: Pixels | None = None
    region: str = ""
    whole: Pixels | None = None
    box: tuple[int, int, int, int] | None = None

    @property
    def name(self) -> str:
        """The name that tells this frame's row of results from others: its source and, where it has one, its region."""
        return region_name(self.source, self.region)

    @property
    def picture(self) -> Pixels | None:
        """The whole picture, (H, W, 3) uint8, BGR, which the frame keeps in memory; None where it could not be read."""
        return self.image if self.whole is None else self.whole


def region_name(source: str, region: str) -> str:
    """Return how a source's region is named to people, ``source [region]``; the source alone where region is empty."""
    return f"{source} [{region}]" if region else source


def is_of(name: str, source: str) -> bool:
    """Return whether a frame's name, ``Frame.name``, is that of a source or of one of its regions."""
    return name == source or (name.startswith(f"{source} [") and name.endswith("]"))


OUTPUT_NAMES = ("logits", "probabilities")


@dataclass(frozen=True, eq=False)
class Outputs:
    """The ``logits`` and ``probabilities`` of a batch, both (N, C) float32; a row of probabilities adds up to 1."""

    logits: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]

    def at_temperature(self, temperature: float) -> Outputs:
        """Return the same logits with the softmax of them divided by a temperature above 0 as probabilities."""
        scaled = self.logits.astype(np.float64) / temperature
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return Outputs(self.logits, (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32))
