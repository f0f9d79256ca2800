"""The weights of one Keras LSTM, as both forms of the recurrent branch take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...train.model import KerasModel

__all__ = ["LstmWeights"]

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LstmWeights:
    """One Keras LSTM: ``kernel`` (I, 4H), ``recurrent`` (H, 4H), ``bias`` (4H,); gates in Keras's order i, f, c, o."""

    name: str
    kernel: Float32
    recurrent: Float32
    bias: Float32

    @property
    def units(self) -> int:
        """H: the width of the hidden state."""
        return int(self.recurrent.shape[0])

    @classmethod
    def of(cls, layer: KerasModel) -> LstmWeights:
        """Read a Keras LSTM layer."""
        kernel, recurrent, bias = layer.get_weights()
        return cls(layer.name, kernel, recurrent, bias)
