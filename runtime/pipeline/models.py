"""Holds the model that a pipeline's frames go through, and lets another take its place between two batches.

Input memory goes round between preparation and engine; when a batch takes some that belongs to an older model, it gets
the newer model's in exchange. So no batch is lost or held up, and a model whose memory is all back is in use no more.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from ..errors import BackendError
from ..preprocess import Preprocessor

if TYPE_CHECKING:
    from ..backends.base import Backend, Buffers
    from ..classifier import Classifier
    from ..frame import Outputs

KEPT_TIMES = 256  # batches whose times in the engine are kept


@dataclass(eq=False)
class Model:
    """A classifier in a pipeline, its preprocessor, and how it went since it was taken.

    Attributes:
        spare: its input memory that does not go round.
        results: the frames that it classified.
        failures: the batches in which its engine failed.
        times: of its last batches in the engine, milliseconds.
    """

    classifier: Classifier
    preprocessor: Preprocessor
    spare: deque[Buffers] = field(default_factory=deque)
    results: int = 0
    failures: int = 0
    times: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_TIMES))

    @property
    def backend(self) -> Backend:
        """The engine; the pipeline's inference thread alone uses it."""
        return self.classifier.selection.backend

    @property
    def inference_ms(self) -> float | None:
        """The median of the last batches' times in the engine, milliseconds; None before the first."""
        times = tuple(self.times)
        return median(times) if times else None

    def note(self, rows: int, milliseconds: float) -> None:
        """Count a batch that went well."""
        self.results += rows
        self.times.append(milliseconds)


@dataclass(eq=False, slots=True)
class Slot:
    """Input memory of one batch, and the model whose backend lent it."""

    model: Model
    buffers: Buffers


class Models:
    """The model in use and the one to fall back on; any thread may make another the one in use.

    Each lends input memory for ``count`` batches of up to ``capacity`` rows; of all of it ``count`` pieces go round.

    Raises:
        BackendError: there is not enough memory for the engine's inputs.
    """

    def __init__(self, classifier: Classifier, capacity: int, count: int) -> None:
        self._capacity, self._count = capacity, count
        self._lock = threading.Lock()
        self.current = self.prepare(classifier)
        self.fallback: Model | None = None
        """The model that takes over, at once, where the engine of the one in use fails."""
        self.failed: Model | None = None
        """The last model of which another had to take over."""

    def prepare(self, classifier: Classifier) -> Model:
        """Make a model of a classifier, with input memory of its own; it does not take over yet."""
        spare = deque(classifier.selection.backend.buffers(self._capacity, self._count))
        return Model(classifier, Preprocessor(classifier.spec), spare)

    def slots(self) -> Iterable[Slot]:
        """Take all input memory of the model in use, for it to go round from now on."""
        while self.current.spare:
            yield Slot(self.current, self.current.spare.popleft())

    def take_over(self, model: Model, fallback: Model | None = None) -> None:
        """Let the batches from the next one on go through a model."""
        with self._lock:
            model.results = model.failures = 0
            model.times.clear()
            self.current, self.fallback = model, fallback

    def renewed(self, slot: Slot) -> Slot:
        """Return input memory of the model in use in exchange for what may be an older one's."""
        with self._lock:
            if slot.model is self.current:
                return slot
            slot.model.spare.append(slot.buffers)
            return Slot(self.current, self.current.spare.popleft())

    def is_idle(self, model: Model) -> bool:
        """Whether a model's memory is all back and it is not to be fallen back on, so that it can be closed."""
        return model is not self.current and model is not self.fallback and len(model.spare) == self._count

    def rescue(self, slot: Slot, rows: int) -> tuple[Model, Outputs] | None:
        """Make the model before the one that failed take over, and run the failed batch through it.

        None says that the batch is lost: there is no model before, it takes other tensors, or it fails too.
        """
        failed = slot.model
        if failed is self.current:
            fallback = self.fallback  # another thread may take it away
            if fallback is None:
                return None
            self.take_over(fallback)
            self.failed = failed
        rescuer = self.current  # also of the batches that were on their way to the failed one
        if failed.classifier.spec.inputs != rescuer.classifier.spec.inputs:
            return None
        tensors = {name: tensor[:rows] for name, tensor in slot.buffers.tensors.items()}
        try:
            return rescuer, rescuer.backend.run(tensors)
        except BackendError:
            return None
