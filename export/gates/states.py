"""Reads the last LSTM's hidden state after every timestep, which a Keras model keeps to itself."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt

from ...runtime.spec import ModelSpec
from ...train.model import KerasModel

__all__ = ["hidden_states"]

Tensor = npt.NDArray[np.float32]


def hidden_states(model: KerasModel, spec: ModelSpec, sequence: Tensor) -> Tensor:
    """Run the recurrent branch on the CPU and return the last LSTM's hidden state after every timestep.

    Args:
        model: a Keras model as ``train.model.build_model`` makes it, with a recurrent branch.
        spec: the model's spec.
        sequence: (N, T, S*S/T) float32.

    Returns:
        The hidden states, (N, T, H) float32.
    """
    lstms = [model.get_layer("rnn").get_layer(f"lstm_{number + 1}") for number in range(spec.rnn_layers)]
    with keras.device("cpu:0"):
        value = sequence
        for lstm in lstms[:-1]:
            value = lstm(value, training=False)
        # the last layer gives only its last state, so its cell runs again in a loop that gives them all
        states = keras.layers.RNN(lstms[-1].cell, return_sequences=True)(value, training=False)
    return np.asarray(states, np.float32)
