"""A frozen CNN's features are computed once for each image and kept on disk, memory-mapped.

While the CNN is frozen its output for an image never changes, so phase 1 needs 8 KB an image (2048 float32) in place of
a forward pass. A store belongs to one CNN (its weights, its precision) and one preprocessing; inside it a row belongs
to a file (path, size, time of change). Rows are appended and the index last, so a killed run keeps what it finished.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..runtime.console import progress
from ..runtime.preprocess import Preprocessor, contract_hash, read_image
from ..runtime.spec import ModelSpec
from ..runtime.storage import cache_dir, locked, write_text
from .checked_images import file_key
from .data import LabelledImage

Extract = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
BATCH_SIZE = 16


@dataclass(frozen=True)
class Features:
    """The features of N listed images: a memory-mapped table, (rows, F) float32, and each image's row, (N,) int64."""

    table: npt.NDArray[np.float32]
    index: npt.NDArray[np.int64]

    def rows(self, chosen: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the features, (N, F) float32, of the N images whose numbers are in ``chosen``."""
        return np.asarray(self.table[self.index[chosen]])


class FeatureStore:
    """The features of one CNN under one preprocessing, in ``<cache>/features/KEY/``."""

    def __init__(self, weights_sha256: str, spec: ModelSpec, width: int, precision: str = "float32") -> None:
        key = hashlib.sha256(f"{weights_sha256}{contract_hash(spec)}{width}{precision}".encode()).hexdigest()
        self.folder = cache_dir() / "features" / key[:32]
        self.spec = spec
        self.width = width
        self._row_bytes = 4 * width

    def features(self, images: Sequence[LabelledImage], extract: Extract) -> tuple[Features, int]:
        """Return the images' features, and how many of them were computed now because the store lacked them.

        ``extract`` is the CNN in inference mode, ``image`` (N, S, S, 3) -> (N, F) float32; what it gives is added.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = [file_key(image.path) for image in images]
        with locked(self.folder / "lock"):
            known = self._read_index()
            todo = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
            if todo:
                self._append(todo, known, extract)
                known = self._read_index()
        table = np.memmap(self._rows, dtype=np.float32, mode="r", shape=(len(known), self.width))
        return Features(table, np.array([known[key] for key in keys], dtype=np.int64)), len(todo)

    @property
    def _rows(self) -> Path:
        return self.folder / "rows.float32"

    @property
    def _index(self) -> Path:
        return self.folder / "index.txt"

    def _read_index(self) -> dict[str, int]:
        """Read the rows' numbers by key; a line that a killed run left unfinished does not count."""
        if not self._index.exists() or not self._rows.exists():
            return {}
        keys = [line for line in self._index.read_text().split("\n") if len(line) == 64]
        return {key: row for row, key in enumerate(keys[: self._rows.stat().st_size // self._row_bytes])}

    def _append(self, todo: dict[str, LabelledImage], known: dict[str, int], extract: Extract) -> None:
        write_text(self._index, "".join(f"{key}\n" for key in known))  # without the line that a kill left unfinished
        with self._rows.open("ab") as rows, self._index.open("a") as index:
            rows.truncate(len(known) * self._row_bytes)
            for keys, values in self._compute(todo, extract):
                rows.write(np.ascontiguousarray(values, dtype=np.float32).tobytes())
                rows.flush()  # the rows first: an index line promises that its row is there
                index.write("".join(f"{key}\n" for key in keys))
                index.flush()

    def _compute(
        self, todo: dict[str, LabelledImage], extract: Extract
    ) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        preprocessor = Preprocessor(self.spec)
        keys = list(todo)
        with progress(unit="images") as bar:
            task = bar.add_task("features of the frozen CNN", total=len(keys))
            for start in range(0, len(keys), BATCH_SIZE):
                batch = keys[start : start + BATCH_SIZE]
                tensors = {"image": np.empty((len(batch), *self.spec.image_shape), dtype=np.float32)}
                for row, key in enumerate(batch):
                    preprocessor.fill(read_image(todo[key].path), tensors, row)
                yield batch, extract(tensors["image"])
                bar.advance(task, len(batch))
