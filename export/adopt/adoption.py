"""Says what a user states of a model that somebody else trained: its labels, and its preprocessing as far as known."""

from __future__ import annotations

import importlib
import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast, get_args

from ...runtime.errors import DataError, UsageError
from ...runtime.spec import Channels, Interpolation, ResizePolicy, Scaling
from ...train.tensorflow_import import needs_train_extra

if TYPE_CHECKING:
    from .model_files import ForeignFile

MAX_LABELS_BYTES = 2**24
LISTED = 5
CHOICES: dict[str, tuple[str, ...]] = {
    "scaling": (*get_args(Scaling), "auto"),
    "channels": get_args(Channels),
    "resize": get_args(ResizePolicy),
    "interpolation": get_args(Interpolation),
}


@dataclass(frozen=True)
class Adoption:
    """A model file that was looked into, and what is known of its model; what is None is found out.

    ``labels`` are those of the scores, in their order.
    """

    file: ForeignFile
    labels: tuple[str, ...]
    scaling: Scaling | None = None
    channels: Channels | None = None
    resize: ResizePolicy = "stretch"
    interpolation: Interpolation = "linear-exact"
    image_size: int | None = None


@dataclass(frozen=True)
class Statement:
    """What a user states, as options; ``scaling`` may be ``auto``.

    Raises:
        UsageError: a value is none of those that the option takes.
    """

    labels: Path | None = None
    scaling: str | None = None
    channels: str | None = None
    resize: str | None = None
    interpolation: str | None = None
    image_size: int | None = None

    def __post_init__(self) -> None:
        for name, values in CHOICES.items():
            found = getattr(self, name)
            if found not in (None, *values):
                raise UsageError(f"--{name}: expected {', '.join(values)}, found {found!r}")

    @property
    def options(self) -> list[str]:
        """The options that were given."""
        return [f"--{item.name.replace('_', '-')}" for item in fields(self) if getattr(self, item.name) is not None]

    def of(self, file: ForeignFile, folders: Collection[str]) -> Adoption:
        """Join it with the file; without a file of labels, those are the names of the images' ``folders``, sorted.

        Raises:
            DataError: a folder is called by none of the labels, or nothing says what they are.
        """
        known = {name for name in folders if name}
        if self.labels is None and len(known) < 2:
            raise DataError(
                "what the model's scores are called is not in its file: state it with --labels FILE, one label a line "
                "in the order of the scores, or put the images of --images into folders named by label"
            )
        labels = read_labels(self.labels) if self.labels else tuple(sorted(known))
        strange = sorted(known - set(labels))
        if strange:
            raise DataError(
                f"--images: expected folders named by the labels ({_some(labels)}), found {_some(strange)}, which none "
                "of them is: rename the folders, or mend --labels"
            )
        scaling = None if self.scaling == "auto" else cast("Scaling | None", self.scaling)
        return Adoption(
            file,
            labels,
            scaling,
            cast("Channels | None", self.channels),
            cast("ResizePolicy", self.resize or "stretch"),
            cast("Interpolation", self.interpolation or "linear-exact"),
            self.image_size,
        )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more


def is_foreign(model: Path) -> bool:
    """Tell whether a path is a model file or a SavedModel's folder that ``hybrid-train`` did not write."""
    if model.is_dir():
        return (model / "saved_model.pb").is_file()
    return model.is_file() and not _model_files().is_ours(model)


def look_into(model: Path) -> ForeignFile:
    """Return what somebody else's model file holds, as ``model_files.inspect_file`` does."""
    found: ForeignFile = _model_files().inspect_file(model)
    return found


def _model_files() -> ModuleType:
    """Import what reads model files, with h5py, which is not there without the extra."""
    try:
        return importlib.import_module(".model_files", __package__)
    except ImportError as error:
        raise needs_train_extra(error) from error


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class labels in the order of a model's scores, in NFC.

    A text file has one a line; a ``.json`` a list, or Keras's ``class_indices`` (label to number) or its inverse.

    Raises:
        DataError: there is no such file, it is no such list, or a label is empty or there twice.
    """
    try:
        data = path.read_bytes()[: MAX_LABELS_BYTES + 1]
        text = data.decode("utf-8-sig")
        labels = _from_json(json.loads(text)) if path.suffix.lower() == ".json" else text.splitlines()
    except OSError as error:
        raise DataError(f"--labels {path}: can't be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(
            f"--labels {path}: expected one label a line, or a .json list of them, found: {error}"
        ) from None
    found = [unicodedata.normalize("NFC", label.strip()) for label in labels]
    while found and not found[-1]:
        found.pop()
    twice = [label for label, count in Counter(found).items() if count > 1 and label]
    faults = [f"line {found.index('') + 1} empty"] if "" in found else [f"{label!r} twice" for label in twice[:LISTED]]
    if len(found) < 2 or len(data) > MAX_LABELS_BYTES:
        faults = [f"{len(found)} in {len(data)} bytes"]
    if faults:
        raise DataError(
            f"--labels {path}: expected two labels or more, one a line and each once, found {', '.join(faults)}"
        )
    return tuple(found)


def _from_json(content: Any) -> list[str]:
    if isinstance(content, dict):
        pairs = [
            (int(key), str(name)) if str(key).isdigit() else (int(name), str(key)) for key, name in content.items()
        ]
        if sorted(number for number, _ in pairs) != list(range(len(pairs))):
            raise ValueError("numbers other than 0, 1, 2 …")
        return [name for _, name in sorted(pairs)]
    return [str(name) for name in content]
