"""Looks into somebody else's model file, without TensorFlow and with little memory, and refuses what could run."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import h5py

from ...runtime.console import FULL
from ...runtime.errors import ModelFileError
from ...train.weight_arrays import arrays_of
from .recipe import ModelRecipe, read_recipe

MAX_CONFIG = 2**23  # bytes; EfficientNetV2L's is 2 MB, and Python needs twenty times as many
MAX_IMAGE = 2**26  # elements of an image, 256 MiB as the model sees it
MAX_CONFIG_DEPTH = 100  # brackets in brackets
MAX_BOOKKEEPING = 2**26  # bytes of an .h5 beside its arrays: names, attributes, the configuration
MAX_DIRECTORY = 2**20  # bytes of a zip's list of members; Keras writes three
MAX_GRAPH = 2**28  # bytes of saved_model.pb, which holds the graph and not the weights
MAX_ENTRIES = 10_000  # of a SavedModel folder
MAX_FILE = 2**32  # bytes; a model of a billion parameters runs on no edge device
SPARSE, MAX_EXPANSION = 2**24, 20  # a zip's member may be larger than that many times what is stored of it: no more
OUR_MEMBER = "hybrid_edge.json"  # as in train.model_file, which imports Keras
WEIGHTS_MEMBER = "model.weights.h5"
ZIP, HDF5 = b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
END_OF_DIRECTORY, END_BYTES, LARGE_LOCATOR = b"PK\x05\x06", 22, b"PK\x06\x07"
WHOLE = "save the whole model, model.save('model.keras'), not its weights alone"
KINDS = "expected a .keras or .h5 of Keras, or a SavedModel folder"
FAULTS = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    MemoryError,
)


@dataclass(frozen=True)
class ForeignFile:
    """What a model file holds, as far as it can be told without building the model."""

    path: Path
    kind: Literal["keras3", "h5", "saved_model"]
    written_by: str  # "Keras 2.15.0"; "" where the file does not say
    input_shape: tuple[int | None, ...] | None  # (H, W, C), None where the file leaves it open; None: told by loading
    parameters: int  # elements of the arrays that the model is filled with; of a SavedModel, at most
    recipe: ModelRecipe | None  # layers of Keras alone, checked; None: a SavedModel
    configuration: str  # SHA-256 of the recipe; of a SavedModel, of all its files


def is_ours(path: Path) -> bool:
    """Return whether ``hybrid-train`` wrote the file: a ``.keras`` archive with a ``hybrid_edge.json`` inside."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            if file.read(4) != ZIP:
                return False
            _check_directory(file, path)
            with zipfile.ZipFile(file) as archive:
                return OUR_MEMBER in archive.namelist()
    except (*FAULTS, ModelFileError):
        return False


def inspect_file(path: Path) -> ForeignFile:
    """Check a model file and return what it holds; nothing of it runs, and TensorFlow is not imported.

    Raises:
        ModelFileError: the file is absent, of no kind that is read, damaged, or holds what is refused; the message
            names the layer and what would help.
        OSError: there is no room for temporary files.
    """
    try:
        if path.is_dir():
            return _inspect_folder(path)
        if not path.is_file():
            found = "something that is no file" if path.exists() else "nothing"
            raise ModelFileError(f"{path}: {KINDS}, found {found}")
        _check_length(path.stat().st_size, path)
        with path.open("rb") as file:
            start = file.read(8)
        if start[:4] == ZIP:
            return _inspect_archive(path)
        if start == HDF5:
            return _inspect_h5(path)
        raise ModelFileError(f"{path}: {KINDS}, found {_other_kind(start, path)}")
    except FAULTS as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise  # the temporary folder's disk is full, and the file may be as it should
        text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelFileError(f"{path}: the file is damaged or can't be read: {text}") from None


@contextmanager
def weights_of(path: Path) -> Iterator[Path]:
    """Unpack the weights of a ``.keras`` into a temporary file, whose arrays are yet to be checked.

    Raises:
        ModelFileError: the archive has no such member, or one that unpacks to far more than is stored.
    """
    with tempfile.TemporaryDirectory(prefix="hybrid-edge-") as folder, _archive(path) as archive:
        target = Path(folder) / WEIGHTS_MEMBER
        with archive.open(_member(archive, WEIGHTS_MEMBER, path)) as source, target.open("wb") as unpacked:
            shutil.copyfileobj(source, unpacked, 2**20)
        yield target


def _inspect_archive(path: Path) -> ForeignFile:
    with _archive(path) as archive:
        if any(name.startswith("assets/") for name in archive.namelist()):
            raise ModelFileError(f"{path}: has assets inside, files that only layers for words have; refused")
        config = _json(archive.read(_member(archive, "config.json", path, MAX_CONFIG)), path)
        about = _json(archive.read(_member(archive, "metadata.json", path, MAX_CONFIG)), path)
    version = str(about.get("keras_version", "") if isinstance(about, dict) else "")[:40]
    recipe = _recipe(config, version, path)
    with weights_of(path) as weights, h5py.File(weights, "r") as file:
        arrays = [array for array in arrays_of(file, path) if not array.name.startswith("/optimizer/")]
        return _found(path, "keras3", version, recipe, arrays)


def _inspect_h5(path: Path) -> ForeignFile:
    with h5py.File(path, "r") as file:
        arrays = arrays_of(file, path)
        kept = sum(array.id.get_storage_size() for array in arrays)
        if path.stat().st_size - kept > MAX_BOOKKEEPING:
            raise ModelFileError(f"{path}: holds over {MAX_BOOKKEEPING} bytes beside its arrays; refused")
        config = _text_attribute(file, "model_config", path)
        if config is None:
            raise ModelFileError(f"{path}: holds weights and no model; {WHOLE}")
        version = (_text_attribute(file, "keras_version", path) or "1")[:40]
        recipe = _recipe(_json(config.encode(), path), version, path)
        return _found(path, "h5", version, recipe, [a for a in arrays if a.name.startswith("/model_weights/")])


def _inspect_folder(path: Path) -> ForeignFile:
    if not (path / "saved_model.pb").is_file():
        raise ModelFileError(f"{path}: {KINDS}, found a folder without saved_model.pb")
    size = total = 0
    for number, entry in enumerate(path.rglob("*")):
        if number > MAX_ENTRIES:
            raise ModelFileError(f"{path}: has over {MAX_ENTRIES} files; a SavedModel has about five")
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise ModelFileError(f"{entry}: is a link or no file; a SavedModel folder holds only files. Copy it whole")
        if entry.is_file():
            total += entry.stat().st_size
            size += entry.stat().st_size if entry.parent.name == "variables" else 0
            _check_length(total, path)
        if entry.parent.name == "assets":
            raise ModelFileError(f"{path}: has assets, files that only layers for words have; refused")
    if (path / "saved_model.pb").stat().st_size > MAX_GRAPH:
        raise ModelFileError(f"{path}: its saved_model.pb is larger than {MAX_GRAPH} bytes; refused")
    return ForeignFile(path, "saved_model", "", None, size // 4, None, _digest(path))


def _found(
    path: Path, kind: Literal["keras3", "h5"], version: str, recipe: ModelRecipe, arrays: list[Any]
) -> ForeignFile:
    shape = recipe.input_shape
    if shape is None:
        raise ModelFileError(
            f"{path}: does not say the size of its images; call the model on one, or model.build((None, H, W, C)), and "
            "save again"
        )
    sizes = 1
    for size in shape:
        sizes *= size or 1
    if len(shape) not in (2, 3) or sizes > MAX_IMAGE or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise ModelFileError(
            f"{path}: expected images (N, H, W, C) of C = 1 or 3, or (N, H, W) of gray, found the input "
            f"{(None, *shape)}"
        )
    image = shape if len(shape) == 3 else (*shape, 1)
    parameters = sum(array.size for array in arrays)
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()
    return ForeignFile(path, kind, f"Keras {version}", image, parameters, recipe, digest)


def _check_length(size: int, path: Path) -> None:
    if size > MAX_FILE:
        raise ModelFileError(f"{path}: {size} bytes; expected {MAX_FILE} at most")


def _digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _text_attribute(group: Any, name: str, path: Path) -> str | None:
    """Return a text that stands in an attribute of an HDF5 group, None where there is no such attribute."""
    if name not in group.attrs:
        return None
    attribute = group.attrs.get_id(name)
    if attribute.shape != () or attribute.dtype.kind not in "SO" or attribute.dtype.itemsize > MAX_CONFIG:
        raise ModelFileError(
            f"{path}: its attribute {name} is no text but {attribute.dtype} of the shape {attribute.shape}"
        )
    value = group.attrs[name]
    text = value.decode() if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise ModelFileError(f"{path}: its attribute {name} is no text but {type(value).__name__}")
    return text


def _json(text: bytes, path: Path) -> Any:
    """Parse a configuration, if it is neither too long nor too deep."""
    if len(text) > MAX_CONFIG:
        raise ModelFileError(f"{path}: its configuration is longer than {MAX_CONFIG} bytes; refused")
    depth = deepest = 0
    for letter in text:
        depth += (letter in b"[{") - (letter in b"]}")
        deepest = max(deepest, depth)
    if deepest > MAX_CONFIG_DEPTH:
        raise ModelFileError(f"{path}: its configuration is nested {deepest} deep; expected {MAX_CONFIG_DEPTH} at most")
    return json.loads(text)


def _recipe(config: Any, version: str, path: Path) -> ModelRecipe:
    try:
        return read_recipe(config, version)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with path.open("rb") as file:
        _check_directory(file, path)
        with zipfile.ZipFile(file) as archive:
            yield archive


def _check_directory(file: IO[bytes], path: Path) -> None:
    """Refuse an archive whose list of members is long: Python reads all of it at once."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 2**16 - END_BYTES))
    tail = file.read()
    place = len(tail) - END_BYTES if tail[-END_BYTES:][:4] == END_OF_DIRECTORY else tail.rfind(END_OF_DIRECTORY)
    if place < 0 or len(tail) - place < END_BYTES:
        raise ModelFileError(f"{path}: the archive has no end; copy the file again")
    directory = struct.unpack("<I", tail[place + 12 : place + 16])[0]
    if directory > MAX_DIRECTORY or tail[max(0, place - 20) : place][:4] == LARGE_LOCATOR:
        raise ModelFileError(f"{path}: a .keras of over 4 GiB or of very many members is not read")
    file.seek(0)


def _member(archive: zipfile.ZipFile, name: str, path: Path, most: int | None = None) -> zipfile.ZipInfo:
    """Return a member of an archive that is there once, and does not unpack to far more than is stored."""
    names = archive.namelist()
    if names.count(name) != 1:
        if "data.pkl" in "".join(names):
            raise ModelFileError(f"{path}: {KINDS}, found a pickle of PyTorch, which can run anything")
        raise ModelFileError(f"{path}: expected a .keras with one {name} inside, found {', '.join(names[:6])}; {WHOLE}")
    found = archive.getinfo(name)
    limit = min(SPARSE + MAX_EXPANSION * found.compress_size, MAX_FILE) if most is None else most
    if found.file_size > limit:
        raise ModelFileError(
            f"{path}: its {name} unpacks from {found.compress_size} to {found.file_size} bytes; "
            f"expected {limit} at most"
        )
    return found


def _other_kind(start: bytes, path: Path) -> str:
    """Say what a file is that is read by nobody here."""
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return "a pickle, which can run anything when it is opened"
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite model; give the Keras model from which it was made"
    if path.name == "saved_model.pb":
        return "the graph of a SavedModel; give its folder"
    return f"a file that begins with {start!r}"
