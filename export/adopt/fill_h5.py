"""Fills a model with the arrays of an ``.h5`` of Keras 2 or 3, layer by layer and by their names.

Keras fills by order alone, and the order of a model inside differs by whether it was frozen when it was saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from ...runtime.errors import ModelFileError
from ...train.model import KerasModel
from ...train.weight_arrays import arrays_of
from .recipe import keras_name

MAX_NAMES, MAX_NAME_BYTES = 100_000, 2**24  # of one list


def fill_from_h5(model: KerasModel, path: Path) -> None:
    """Give every layer of a model its arrays.

    Raises:
        ModelFileError: a layer has no arrays in the file, or others than it needs.
        KeyError, OSError, TypeError, ValueError: the file is damaged.
    """
    with h5py.File(path, "r") as file:
        arrays_of(file, path)
        group = file["model_weights"]
        saved = {keras_name(name): name for name in _names(group, "layer_names")}
        if "top_level_model_weights" in group and _names(group["top_level_model_weights"], "weight_names"):
            raise ModelFileError("has arrays of no layer; only a model of a class of its author's has them")
        for layer in model.layers:
            if layer.weights:
                _fill_layer(layer, _arrays(group[saved[layer.name]]) if layer.name in saved else [])


def _fill_layer(layer: Any, arrays: list[tuple[str, Any]]) -> None:
    leaves = {leaf.name: leaf for leaf in _leaves(layer)}
    if list(leaves) == [layer.name]:
        _assign(layer, arrays)
        return
    if len(leaves) != sum(1 for _ in _leaves(layer)):
        raise ModelFileError(f"layer {layer.name!r}: two layers of models inside have the same name; rename one")
    sorted_out: dict[str, list[tuple[str, Any]]] = {name: [] for name in leaves}
    for name, array in arrays:
        owner = _owner(name.split("/")[:-1], leaves)
        if owner is None:
            raise ModelFileError(f"layer {layer.name!r}: no layer inside has the array {name!r}")
        sorted_out[owner].append((name, array))
    for name, leaf in leaves.items():
        _assign(leaf, sorted_out[name])


def _owner(parts: list[str], leaves: dict[str, Any]) -> str | None:
    """Return the layer that an array's path names: the longest stretch, as Keras 2 has names with ``/``."""
    for length in range(len(parts), 0, -1):
        for start in range(len(parts) - length, -1, -1):
            name = "_".join(parts[start : start + length])
            if name in leaves:
                return name
    return None


def _leaves(layer: Any) -> Iterator[Any]:
    """Yield the layers with weights of a model inside, or a layer that is no model itself."""
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _leaves(inner)
    elif layer.weights:
        yield layer


def _assign(layer: Any, arrays: list[tuple[str, Any]]) -> None:
    variables = layer.trainable_weights + layer.non_trainable_weights
    found = [array.shape for _, array in arrays]
    expected = [tuple(variable.shape) for variable in variables]
    if found != expected:
        raise ModelFileError(
            f"layer {layer.name!r} ({type(layer).__name__}): expected arrays of the shapes {expected}, found {found}"
        )
    for variable, (_, array) in zip(variables, arrays, strict=True):
        variable.assign(np.asarray(array))  # read now, as its shape is the layer's
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()


def _arrays(group: Any) -> list[tuple[str, Any]]:
    arrays = [(name, group[name]) for name in _names(group, "weight_names")]
    for name, array in arrays:
        if not isinstance(array, h5py.Dataset):
            raise ModelFileError(f"expected an array {name!r} in {group.name}, found a group")
    return arrays


def _names(group: Any, key: str) -> list[str]:
    """Return a list of names from an attribute; a long one is split over attributes with numbers."""
    keys = [key] if key in group.attrs else [f"{key}{n}" for n in range(1000) if f"{key}{n}" in group.attrs]
    names: list[str] = []
    for part in keys:
        attribute = group.attrs.get_id(part)
        bytes_in_all = math.prod(attribute.shape) * attribute.dtype.itemsize
        if len(attribute.shape) != 1 or attribute.shape[0] > MAX_NAMES or bytes_in_all > MAX_NAME_BYTES:
            raise ModelFileError(f"its attribute {part} is no list of names")
        names += [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[part]]
    return names
