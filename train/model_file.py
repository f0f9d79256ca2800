"""A ``.keras`` file holds a model with its ModelSpec; it is written whole and read without running anything from it.

Keras's own loader rebuilds a model from the configuration inside the file, which has been a way to run code. Here the
configuration is never read: the ModelSpec builds the model, and from the file come only arrays, whose shapes must fit.
A model's CNN can also start from the weights of such a file, of a ``.h5`` of Keras, or of ImageNet.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import sys
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from ..runtime.console import FULL
from ..runtime.errors import HybridEdgeError, ModelFileError, SpecError, WeightsError
from ..runtime.spec import ModelSpec
from ..runtime.storage import replacing
from .backbones import BACKBONES, count_parameters, weights_file
from .model import KerasModel, build_application, build_model
from .weight_arrays import arrays_of, check_fit

SPEC_MEMBER = "hybrid_edge.json"
WEIGHTS_MEMBER = "model.weights.h5"
MODEL_FORMAT = "hybrid-edge-model"
MODEL_VERSIONS = (1, 2)
# RuntimeError comes from an encrypted archive or too deep nesting; its subclass NotImplementedError from a compression
# that zipfile lacks
SPEC_FAULTS = (ValueError, LookupError, TypeError, EOFError, RuntimeError, SpecError, zipfile.BadZipFile, zlib.error)
MAX_SPEC_BYTES = 2**24  # a spec with 100,000 long labels; more is not a spec
BOOKKEEPING = 2**23  # bytes of HDF5's own beside the arrays
ALTERNATIVES = "--weights none starts from random weights; --weights FILE takes a .keras file of hybrid-train or an .h5"


class _InMemory(io.BytesIO):
    """Keras takes it for a file of that name: HDF5 crashes the process where it can't write to a disk."""

    def __str__(self) -> str:
        return "memory.weights.h5"


class _Nameless(io.FileIO):
    """A file of which Keras does not know the place, and so puts none of HDF5's beside it, but keeps that in memory."""

    name = property(lambda _: None, lambda _, __: None)

    def __str__(self) -> str:
        return "nameless.keras"


def save_weights(model: KerasModel, path: Path) -> None:
    """Write a model's weights, with its optimizer's state; OSError where the disk is full."""
    memory = _InMemory()
    model.save_weights(memory, overwrite=True)
    path.write_bytes(memory.getbuffer())


def save_model(model: KerasModel, spec: ModelSpec, path: Path) -> None:
    """Write a model and its spec, without optimizer state; the file is the old one or the new one, never a torn one."""
    with replacing(path, suffix=".keras") as partial:
        with _Nameless(partial, "w") as file:
            keras.saving.save_model(_bare(model), file)  # Keras 3.15 ignores include_optimizer for this format
        with zipfile.ZipFile(partial, "a") as archive:
            content = {
                "format": MODEL_FORMAT,
                "version": spec.format_version,
                "spec": spec.model_dump(),
                "weights": weights_sha256(model),
            }
            archive.writestr(SPEC_MEMBER, json.dumps(content))


def load_model(path: Path, into: KerasModel | None = None) -> tuple[KerasModel, ModelSpec]:
    """Build the model that the file's spec describes, or take ``into``, and fill it with the file's arrays.

    ``into`` is a model of the file's spec, given where one is there: building an Xception takes seconds.

    Raises:
        OSError: there is no room for temporary files.
        ModelFileError: the file is absent, no ``.keras`` archive, not written by hybrid-train, larger or smaller inside
            than its spec allows, has links out of the file, arrays that don't fit the spec, or other weights than were
            saved.
    """
    with _open_archive(path) as archive, tempfile.TemporaryDirectory(prefix="hybrid-edge-") as folder:
        spec, digest = _read_spec(archive, path)
        _check_size(archive, spec, path)
        model = build_model(spec, empty=True) if into is None else into
        weights = Path(folder) / WEIGHTS_MEMBER
        try:
            with archive.open(WEIGHTS_MEMBER) as source, weights.open("wb") as target:
                shutil.copyfileobj(source, target, 2**22)
            _check_arrays(weights, model, path)
            load_weights(model if into is None else _bare(into), weights)
        except HybridEdgeError:
            raise
        except Exception as error:
            # zipfile, h5py and Keras raise a dozen unrelated types on damaged files
            if isinstance(error, OSError) and error.errno in FULL:
                raise  # the temporary folder's disk is full, and the file may be as it should
            raise ModelFileError(
                f"{path}: the weights are damaged or don't fit the spec inside: {first_line(error)}"
            ) from error
    if weights_sha256(model) != digest:
        raise ModelFileError(
            f"{path}: its weights are not those that were saved (their SHA-256 differs); copy it again"
        )
    return model, spec


def _check_arrays(weights: Path, model: KerasModel, path: Path) -> None:
    """Refuse a ``.h5`` with anything but arrays of the model's shapes; ``path`` is its name in errors."""
    with h5py.File(weights, "r") as file:
        arrays = [array for array in arrays_of(file, path) if not array.name.startswith("/optimizer")]
        check_fit(arrays, [variable.shape for variable in model.weights], path)


def load_weights(model: KerasModel, path: Path) -> None:
    """Load a ``.h5`` file into all of a model; Keras alone would only warn where the file lacks a layer's arrays.

    Raises:
        Exception: the file does not fit; the error is one of h5py's and Keras's many types, or Keras's warning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.load_weights(path)


def weights_sha256(model: KerasModel) -> str:
    """Return the SHA-256 over all weights in layer order, which identifies a trained model whatever its file."""
    digest = hashlib.sha256()
    for variable in model.weights:
        values = np.ascontiguousarray(variable.numpy())
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of what a library said, at most 200 characters; its type where it said nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _bare(model: KerasModel) -> KerasModel:
    """Return a model with the same layers and without an optimizer."""
    return keras.Model(model.inputs, model.outputs, name=model.name)


def _open_archive(path: Path) -> zipfile.ZipFile:
    if path.is_dir():
        raise ModelFileError(f"{path}: expected a .keras file, found a folder")
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; hybrid-train writes runs/NAME/model.keras") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelFileError(
            f"{path}: expected a .keras file as hybrid-train writes it (a zip archive), found something else: {error}"
        ) from None


def _read_spec(archive: zipfile.ZipFile, path: Path) -> tuple[ModelSpec, str]:
    """Read the spec inside, and the SHA-256 of the weights as they were saved."""
    names = archive.namelist()
    missing = [name for name in (SPEC_MEMBER, WEIGHTS_MEMBER) if names.count(name) != 1]
    if missing:
        raise ModelFileError(
            f"{path}: not written by hybrid-train: expected exactly one {' and one '.join(missing)} inside, "
            f"found {', '.join(names[:6]) or 'nothing'}. Train it with hybrid-train"
        )
    if archive.getinfo(SPEC_MEMBER).file_size > MAX_SPEC_BYTES:
        raise ModelFileError(f"{path}: its {SPEC_MEMBER} is larger than {MAX_SPEC_BYTES} bytes; refused")
    try:
        content: Any = json.loads(archive.read(SPEC_MEMBER))
        if content["format"] != MODEL_FORMAT or content["version"] not in MODEL_VERSIONS:
            raise ModelFileError(
                f"{path}: expected format {MODEL_FORMAT!r} version 1 or 2, found {content['format']!r} version "
                f"{content['version']!r}; a newer hybrid-edge wrote it"
            )
        spec = ModelSpec.from_json(json.dumps(content["spec"]))
        if spec.num_classes < 2:
            raise SpecError(f"expected at least two class labels, found {spec.num_classes}")
        if spec.adopted:
            raise SpecError("expected a model of hybrid-train, found an adopted one")
        return spec, str(content["weights"])
    except SPEC_FAULTS as error:
        raise ModelFileError(f"{path}: its {SPEC_MEMBER} is damaged: {error}") from None


def _check_size(archive: zipfile.ZipFile, spec: ModelSpec, path: Path) -> None:
    """Refuse a file whose weights can't be its spec's, before anything is built or unpacked.

    1 MB can hold 1 GiB of zeros, and a spec of a few bytes can ask for a model of 60 GB.
    """
    size = archive.getinfo(WEIGHTS_MEMBER).file_size
    least = 4 * count_parameters(spec)
    most = least + BOOKKEEPING
    if not least <= size <= most:
        raise ModelFileError(
            f"{path}: its weights unpack to {size} bytes, its spec allows {least} to {most}; damaged, or not ours"
        )


def load_pretrained(model: KerasModel, spec: ModelSpec, weights: str) -> None:
    """Fill the CNN branch of a model from ``build_model`` with pretrained weights.

    ``weights`` is ``none``, ``imagenet`` (Keras's own, downloaded or from ``~/.keras/models``), or a file: a ``.keras``
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
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():  # Keras draws progress on stdout
            warnings.simplefilter("ignore", UserWarning)  # that the weights were trained at another size
            source = build_application(spec, "imagenet")
    except Exception as error:
        # urllib, socket and Keras's own hash check all raise types of their own here
        raise WeightsError(
            f"Keras's ImageNet weights of {BACKBONES[spec.backbone].application} can't be downloaded "
            f"({first_line(error)}). Place {weights_file(spec.backbone, spec.image_size)} in "
            f"{Path('~/.keras/models')}, or: {ALTERNATIVES}"
        ) from error
    cnn.set_weights(source.get_weights())


def _load_file(cnn: KerasModel, spec: ModelSpec, path: Path) -> None:
    if not path.is_file():
        raise WeightsError(
            f"--weights expected imagenet, none or a file, found {str(path)!r}, which is no file. {ALTERNATIVES}"
        )
    if zipfile.is_zipfile(path):
        _copy_cnn(cnn, spec, path)
        return
    if path.suffix != ".h5":
        raise WeightsError(f"{path}: expected a .keras file of hybrid-train or an .h5 file of weights. {ALTERNATIVES}")
    try:
        _check_arrays(path, cnn, path)
        load_weights(cnn, path)
    except Exception as error:
        # h5py and Keras raise OSError, ValueError, KeyError and others on files that don't fit
        raise WeightsError(
            f"{path}: these weights don't fit the {spec.backbone} branch at {spec.image_size}x{spec.image_size} "
            f"without its top layer ({first_line(error)}). {ALTERNATIVES}"
        ) from error


def _copy_cnn(cnn: KerasModel, spec: ModelSpec, path: Path) -> None:
    try:
        source, found = load_model(path)
    except ModelFileError as error:
        raise WeightsError(f"{error}. {ALTERNATIVES}") from error
    if not found.uses_cnn:
        raise WeightsError(f"{path}: expected a CNN branch inside, found branches={found.branches}. {ALTERNATIVES}")
    if found.backbone != spec.backbone:
        raise WeightsError(
            f"{path}: expected the CNN of {spec.backbone}, found that of {found.backbone}. {ALTERNATIVES}"
        )
    try:
        cnn.set_weights(source.get_layer("cnn").get_weights())
    except ValueError as error:
        raise WeightsError(
            f"{path}: its {found.backbone} CNN does not fit ({first_line(error)}). {ALTERNATIVES}"
        ) from error
