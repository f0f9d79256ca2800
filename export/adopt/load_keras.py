"""Builds the model of a checked ``.keras`` or ``.h5`` file from Keras's own layers, and fills it with its arrays."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from ...runtime.errors import ModelFileError
from ...train.model import KerasModel
from ...train.model_file import load_weights
from ...train.weight_arrays import arrays_of, check_fit
from .build_layers import build_from_recipe, what_it_said
from .fill_h5 import fill_from_h5
from .model_files import ForeignFile, weights_of

ONE_AT_A_TIME = threading.Lock()  # of the models that are built: the limit stands in Keras's own class
SLACK = 2**16  # elements beside those of the file: the state of a Dropout's random numbers, two for each


def load_keras(path: Path, found: ForeignFile) -> KerasModel:
    """Return the model of a file that ``inspect_file`` found to be ``keras3`` or ``h5``: image (N, H, W, C) -> scores.

    What takes gray images without their channel, (N, H, W), does so still.

    Raises:
        ModelFileError: the arrays don't fit the configuration, or Keras can't build it; the message names the layer.
    """
    if found.recipe is None:
        raise ValueError(f"expected a file of Keras, found {found.kind}")
    try:
        with _variables_within(found.parameters + SLACK):
            model = build_from_recipe(found.recipe)
        _fill(model, path, found)
        return model
    except ModelFileError as error:
        text = str(error)
        raise ModelFileError(text if text.startswith(f"{path}") else f"{path}: {text}") from error.__cause__


def _fill(model: KerasModel, path: Path, found: ForeignFile) -> None:
    try:
        if found.kind == "h5":
            fill_from_h5(model, path)
        else:
            with weights_of(path) as weights:
                with h5py.File(weights, "r") as file:
                    arrays = arrays_of(file, path)  # again: the file may be another by now
                    kept = [array for array in arrays if not array.name.startswith("/optimizer/")]
                    check_fit(kept, [variable.shape for variable in model.weights], path)
                load_weights(model, weights)
    except ModelFileError:
        raise
    except Exception as error:
        # h5py and Keras raise a dozen unrelated types on files that don't fit
        raise ModelFileError(f"its arrays don't fit its layers: {what_it_said(error)}") from error


@contextmanager
def _variables_within(elements: int) -> Iterator[None]:
    """While it is open, variables begin with zeros, and all together have ``elements`` at most.

    It is checked before a variable's memory is asked for. Zeros, because the file's arrays come next, and the
    orthogonal beginning of an LSTM(2048) takes ten seconds.
    """
    left = elements

    def create(self: Any, initializer: Any, shape: Any = None, *args: Any, **kwargs: Any) -> None:
        nonlocal left
        fresh = callable(initializer) or isinstance(initializer, str)
        size = math.prod(shape or ()) if fresh else np.size(initializer)
        left -= size
        if left < 0:
            raise ModelFileError(
                f"it asks for an array of the shape {tuple(shape or ())}, and the file holds {elements - SLACK} "
                "elements in all"
            )
        created(self, keras.initializers.Zeros() if fresh else initializer, shape, *args, **kwargs)

    with ONE_AT_A_TIME:
        created = keras.Variable.__init__
        keras.Variable.__init__ = create
        try:
            yield
        finally:
            keras.Variable.__init__ = created
