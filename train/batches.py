"""Worker threads read and preprocess batches for Keras.

However many images there are, memory holds a few batches, and up to ``MAX_KEPT_BYTES`` of large photographs at the
model's size.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..runtime.errors import ImageError
from ..runtime.frame import Pixels
from ..runtime.preprocess import Preprocessor, read_image
from ..runtime.spec import ModelSpec
from .augment import augment
from .data import LabelledImage
from .features import Features

QUEUED_BATCHES = 4  # batches that wait ready: 16 frames of 299x299 are 17 MB, so a few are enough and cheap
# OpenCV takes twice as long as TensorFlow to decode a large JPEG, 8 ms for 2 megapixels: longer than a small model's
# step. Photographs of at most this many times the model's pixels are cheap to read again.
LARGE_PHOTOGRAPH = 4
MAX_KEPT_BYTES = 2**29  # 512 MiB: 2,000 frames of 299x299


class KeptFrames:
    """Keeps large photographs, resized but not scaled, from one epoch to the next; any thread may use it.

    Frames that would exceed ``budget``, the bytes of all of them together, are not kept.
    """

    def __init__(self, budget: int = MAX_KEPT_BYTES) -> None:
        self._frames: dict[Path, Pixels] = {}
        self._room = budget
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._frames)

    def get(self, path: Path) -> Pixels | None:
        """Return the kept frame of an image, (S, S, 3) uint8 BGR, or None."""
        return self._frames.get(path)

    def offer(self, path: Path, frame: Pixels, preprocessor: Preprocessor) -> None:
        """Keep a decoded photograph's resized frame, where it is large and there is room."""
        size = preprocessor.spec.image_size**2 * 3
        if frame.size <= LARGE_PHOTOGRAPH * size or size > self._room:
            return
        kept = preprocessor.resized(frame)
        with self._lock:
            if path not in self._frames and size <= self._room:
                self._room -= size
                self._frames[path] = kept


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # keras ships no types
    """Gives images once and in order: batch ``index`` begins with image ``index * batch_size``.

    Passes over the same images share ``kept``; by default each has its own.

    Each item is ``(inputs, one_hot)``: inputs is ``image`` (N, S, S, 3), or, with cached features, a dict of
    ``features`` (N, F) and, for a hybrid, ``sequence`` (N, T, S*S/T); ``one_hot`` is (N, C) float32.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        spec: ModelSpec,
        batch_size: int,
        *,
        workers: int = 2,
        features: Features | None = None,
        kept: KeptFrames | None = None,
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=False, max_queue_size=QUEUED_BATCHES)
        self.images = images
        self.spec = spec
        self.batch_size = batch_size
        self.features = features
        self.fault: ImageError | None = None  # TensorFlow turns what a worker raises into an error of its own
        index = {label: number for number, label in enumerate(spec.class_labels)}
        self.targets = np.array([index[image.label] for image in images], dtype=np.int32)
        self._one_hot = np.eye(spec.num_classes, dtype=np.float32)
        self._local = threading.local()
        self._kept = KeptFrames() if kept is None else kept

    @property
    def num_batches(self) -> int | None:
        """The number of batches in one pass; the last batch may be smaller."""
        return math.ceil(len(self.images) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, npt.NDArray[np.float32]]:
        return self._batch(np.arange(index * self.batch_size, min((index + 1) * self.batch_size, len(self.images))))

    def _batch(
        self, chosen: npt.NDArray[np.int64], rng: np.random.Generator | None = None
    ) -> tuple[Any, npt.NDArray[np.float32]]:
        targets = self._one_hot[self.targets[chosen]]
        if self.features is None:
            return self._tensors(chosen, ("image",), rng)["image"], targets
        inputs = {"features": self.features.rows(chosen)}
        if self.spec.uses_rnn:
            inputs |= self._tensors(chosen, ("sequence",), rng)
        return inputs, targets

    def _tensors(
        self, chosen: npt.NDArray[np.int64], names: tuple[str, ...], rng: np.random.Generator | None
    ) -> dict[str, npt.NDArray[np.float32]]:
        preprocessor = self._preprocessor()
        shapes = {"image": self.spec.image_shape, "sequence": self.spec.sequence_shape}
        tensors = {name: np.empty((len(chosen), *shapes[name]), dtype=np.float32) for name in names}
        for row, number in enumerate(chosen):
            path = self.images[number].path
            # a frame that is varied is varied before it is resized, so a resized one is of no use
            frame = self._kept.get(path) if rng is None else None
            if frame is None:
                frame = self._read(path)
                if rng is None:
                    self._kept.offer(path, frame, preprocessor)
                else:
                    frame = augment(frame, rng, self.spec.backbone)
            preprocessor.fill(frame, tensors, row)
        return tensors

    def _read(self, path: Path) -> Pixels:
        try:
            return read_image(path)
        except ImageError as error:
            self.fault = error
            raise

    def _preprocessor(self) -> Preprocessor:
        """Return this worker thread's preprocessor; each thread has its own, as it owns scratch buffers."""
        if not hasattr(self._local, "preprocessor"):
            self._local.preprocessor = Preprocessor(self.spec)
        made: Preprocessor = self._local.preprocessor
        return made


class TrainingBatches(Batches):
    """Gives shuffled images without end, pass after pass, each in an order of its own.

    Batch ``index`` depends on the seed and on ``first + index`` alone, so a resumed training sees the images that the
    unbroken one would have seen.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        spec: ModelSpec,
        batch_size: int,
        *,
        seed: int,
        first: int = 0,
        augmented: bool = False,
        workers: int = 2,
        features: Features | None = None,
        kept: KeptFrames | None = None,
    ) -> None:
        super().__init__(images, spec, batch_size, workers=workers, features=features, kept=kept)
        self.seed = seed
        self.first = first
        self.augmented = augmented
        # two passes can be under way at once, and worker threads may lag by a few batches
        self._order = functools.lru_cache(maxsize=4)(self._shuffle)

    @property
    def num_batches(self) -> int | None:
        """None: the stream of training batches has no end, so ``fit`` needs ``steps_per_epoch``."""
        return None

    def __getitem__(self, index: int) -> tuple[Any, npt.NDArray[np.float32]]:
        number = self.first + index
        start = number * self.batch_size
        positions = np.arange(start, start + self.batch_size)
        passes, offsets = np.divmod(positions, len(self.images))
        chosen = np.array([self._order(int(p))[o] for p, o in zip(passes, offsets, strict=True)], dtype=np.int64)
        rng = np.random.default_rng((self.seed, 1, number)) if self.augmented else None
        return self._batch(chosen, rng)

    def _shuffle(self, number: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng((self.seed, 0, number)).permutation(len(self.images))
