"""Holds the weights of one Keras LSTM, as both forms of the recurrent branch take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...train.model import KerasModel

__all__ = ["LstmWeights"]

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LstmWeights:
    """One Keras LSTM's ``kernel`` (I, 4H), ``recurrent`` (H, 4H) and ``bias`` (4H,); gates in its order i, f, c, o."""

    name: str
    kernel: Float32
    recurrent: Float32
    bias: Float32

    @property
    def units(self) -> int:
        """The width of the hidden state, H."""
        return int(self.recurrent.shape[0])

    @classmethod
    def of(cls, layer: KerasModel) -> LstmWeights:
        """Read the weights of a Keras LSTM layer."""
        kernel, recurrent, bias = layer.get_weights()
        return cls(layer.name, kernel, recurrent, bias)
