"""Loads the weights that the CNN branch starts from: ImageNet's, a file's, or none."""

from __future__ import annotations

import contextlib
import sys
import zipfile
from pathlib import Path

import keras

from ..runtime.errors import ModelFileError, WeightsError
from ..runtime.spec import ModelSpec
from .model import KerasModel
from .model_file import load_model, load_weights

__all__ = ["load_pretrained"]

ALTERNATIVES = "--weights none starts from random weights; --weights FILE takes a .keras file of hybrid-train or an .h5"
NOTOP = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"


def load_pretrained(model: KerasModel, spec: ModelSpec, weights: str) -> None:
    """Fill the CNN branch of a model with pretrained weights.

    Args:
        model: a model from ``build_model``, whose ``cnn`` is filled in place.
        spec: the model's spec.
        weights: ``none``, ``imagenet`` (Keras's own, downloaded or from ``~/.keras/models``), or a file: a ``.keras``
            of hybrid-train, whose CNN is taken, or Keras's ``.h5`` / ``.weights.h5`` of the CNN alone.

    Raises:
        WeightsError: the download fails, the file is absent or does not fit; the message names the alternatives.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        _load_imagenet(model.get_layer("cnn"), spec)
    else:
        _load_file(model.get_layer("cnn"), spec, Path(weights))


def _load_imagenet(cnn: KerasModel, spec: ModelSpec) -> None:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras draws the download's progress on stdout
            source = keras.applications.Xception(
                weights="imagenet", include_top=False, pooling="avg", input_shape=spec.image_shape
            )
    except Exception as error:
        # urllib, socket and Keras's own hash check all raise types of their own here
        raise WeightsError(
            f"Keras's ImageNet weights of Xception can't be downloaded ({_reason(error)}). Place {NOTOP} in "
            f"{Path('~/.keras/models')}, or: {ALTERNATIVES}"
        ) from error
    cnn.set_weights(source.get_weights())


def _load_file(cnn: KerasModel, spec: ModelSpec, path: Path) -> None:
    if not path.is_file():
        raise WeightsError(
            f"--weights expected imagenet, none or a file, found {str(path)!r}, which is no file. {ALTERNATIVES}"
        )
    if zipfile.is_zipfile(path):
        _copy_cnn(cnn, path)
        return
    if path.suffix != ".h5":
        raise WeightsError(f"{path}: expected a .keras file of hybrid-train or an .h5 file of weights. {ALTERNATIVES}")
    try:
        load_weights(cnn, path)
    except Exception as error:
        # h5py and Keras raise OSError, ValueError, KeyError and others on files that don't fit
        raise WeightsError(
            f"{path}: these weights don't fit the {spec.backbone} branch at {spec.image_size}x{spec.image_size} "
            f"without its top layer ({_reason(error)}). {ALTERNATIVES}"
        ) from error


def _copy_cnn(cnn: KerasModel, path: Path) -> None:
    try:
        source, found = load_model(path)
    except ModelFileError as error:
        raise WeightsError(f"{error}. {ALTERNATIVES}") from error
    if not found.uses_cnn:
        raise WeightsError(f"{path}: expected a CNN branch inside, found branches={found.branches}. {ALTERNATIVES}")
    try:
        cnn.set_weights(source.get_layer("cnn").get_weights())
    except ValueError as error:
        raise WeightsError(
            f"{path}: its {found.backbone} CNN does not fit ({_reason(error)}). {ALTERNATIVES}"
        ) from error


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
