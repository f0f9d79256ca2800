"""Images as every peer gets them: preprocessed once by the project's own code, in files that processes map."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hybrid_edge.export.export_request import choose_images, folder_images
from hybrid_edge.runtime.preprocess import Preprocessor, read_image
from hybrid_edge.runtime.spec import ModelSpec
from hybrid_edge.train.data import LabelledImage

__all__ = ["Inputs", "write_inputs"]


@dataclass(frozen=True)
class Inputs:
    """Images of a folder as tensors.

    Attributes:
        folder: has ``image.npy`` (N, S, S, 3) and, for a hybrid, ``sequence.npy`` (N, T, S*S/T), float32.
        truth: each image's class, -1 where it has none, (N,).
        digest: of the files, in their order.
    """

    folder: Path
    truth: tuple[int, ...]
    digest: str

    def __len__(self) -> int:
        """N."""
        return len(self.truth)


def write_inputs(source: Path, spec: ModelSpec, folder: Path, count: int, option: str) -> Inputs:
    """Preprocess up to ``count`` images of a folder, going round its classes.

    Args:
        source: class folders, or images as they lie.
        spec: of the model.
        folder: is made.
        count: the most that are taken.
        option: that named the source, for messages.

    Raises:
        UsageError: no such folder.
        DataError: fewer than 8 images in it.
    """
    images = choose_images(folder_images(source, option), count).images
    folder.mkdir(parents=True)
    _fill(images, spec, folder)
    digest = hashlib.sha256()
    for image in images:
        digest.update(image.path.read_bytes())
    classes = {label: number for number, label in enumerate(spec.class_labels)}
    return Inputs(folder, tuple(classes.get(image.label, -1) for image in images), digest.hexdigest())


def _fill(images: Sequence[LabelledImage], spec: ModelSpec, folder: Path) -> None:
    tensors = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(np.float32), (len(images), *shape))
        for name, shape in spec.inputs.items()
    }
    preprocessor = Preprocessor(spec)
    rows = preprocessor.allocate(1)
    for number, image in enumerate(images):
        preprocessor.fill(read_image(image.path), rows, 0)
        for name, row in rows.items():
            tensors[name][number] = row[0]
    for tensor in tensors.values():
        tensor.flush()
