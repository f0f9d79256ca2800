"""Parity: how far an exported graph is from the Keras model that it was made of, on real images.

Keras gets ``image`` alone and computes its own sequence; the exported graph gets both inputs from the preprocessing, as
on a device. So what is compared is the whole path, not two copies of one input.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import keras
import numpy as np
import numpy.typing as npt

from ..runtime.backends.base import Backend
from ..runtime.errors import ParityError
from ..runtime.manifest import Parity
from ..runtime.outputs import Outputs
from ..runtime.preprocess import Frame, Preprocessor
from ..runtime.spec import ModelSpec
from ..train.model import KerasModel

__all__ = ["BATCH", "PROBABILITY_LIMITS", "measure_parity", "require_parity"]

Tensor = npt.NDArray[np.float32]
Tensors = dict[str, Tensor]

BATCH = 8
OTHER_BATCHES = (1, 3)
# FP32 carries 1e-7 and loses a factor of some tens over Xception's 74 convolutions; another model shows from 1e-2 on
LOGIT_LIMIT = 1e-4
PROBABILITY_LIMITS = {"digits": 1e-5, "xception": 1e-4}
BATCH_LIMIT = 1e-5  # the same arithmetic in another order of summation
SEQUENCE_LIMIT = 1e-6  # the mean of three values in [-1, 1]: the last bit is 6e-8
NEARLY_CHANCE = 0.1  # of the way from chance to certainty; below it the softmax is flat
ALIKE = 0.01  # standard deviation of a probability over the images; below it all images look the same to the model
HARDLY_COUNTS = 10 * LOGIT_LIMIT  # effect of another image's sequence on the logits, over max |logit|


def measure_parity(model: KerasModel, spec: ModelSpec, backend: Backend, frames: Iterable[Frame]) -> Parity:
    """Compare a loaded graph with its Keras model, in batches of 8, streamed; nothing is judged yet.

    Args:
        model: as ``train.model.build_model`` makes it.
        spec: of the model.
        backend: the exported graph on an engine.
        frames: real images, each (H, W, 3) uint8 BGR; at least one.

    Raises:
        ParityError: the Keras model itself gives NaN or infinity, or the exported graph does.
    """
    measurement = _Measurement()
    reference = _Reference(model, spec)
    first: Tensors = {}
    for tensors in _batches(frames, spec):
        first = first or _of(tensors, spec)
        measurement.add(*reference(tensors), backend.run(_of(tensors, spec)))
    scale = measurement.scale
    rows = _Rows(backend, _filled(first))
    effect = rows.sequence_effect() / scale if spec.branches == "hybrid" else None
    return Parity(
        images=len(measurement.expected),
        max_logit_error=measurement.logit_error,
        logit_limit=LOGIT_LIMIT,
        max_probability_error=float(measurement.probability_errors.max()),
        mean_probability_error=float(measurement.probability_errors.mean()),
        probability_limit=PROBABILITY_LIMITS[spec.backbone],
        top1_agreement=measurement.agreement,
        batch_error=rows.batch_error() / scale,
        batch_limit=BATCH_LIMIT,
        sequence_error=measurement.sequence_error if spec.uses_rnn else None,
        sequence_limit=SEQUENCE_LIMIT if spec.uses_rnn else None,
        measured_on=f"{backend.device}, {platform.machine()}; Keras {keras.__version__} on CPU",
        warnings=tuple(_warnings(measurement.probabilities, effect)),
    )


def require_parity(parity: Parity) -> None:
    """Pass if every figure is within its limit.

    Raises:
        ParityError: one is not; the message has the numbers and the likely cause.
    """
    figures = {
        "logits, max |difference| / max |logit|": (parity.max_logit_error, parity.logit_limit),
        "probabilities, max |difference|": (parity.max_probability_error, parity.probability_limit),
        "the same rows in batches of 1, 3 and 8, max |difference| / max |logit|": (
            parity.batch_error,
            parity.batch_limit,
        ),
    }
    if parity.sequence_error is not None and parity.sequence_limit is not None:
        figures["sequence, max |difference|"] = (parity.sequence_error, parity.sequence_limit)
    # written so that NaN is over every limit
    over = {name: pair for name, pair in figures.items() if not pair[0] <= pair[1]}
    if over:
        numbers = "; ".join(
            f"{name}: expected at most {limit:g}, found {error:.3g}" for name, (error, limit) in over.items()
        )
        raise ParityError(
            f"the exported graph is not the Keras model, on {parity.images} images ({parity.measured_on}): {numbers}; "
            f"top-1 agreement {parity.top1_agreement:.1%}. Likely cause: {_cause(parity)}. Nothing was written"
        )


def _cause(parity: Parity) -> str:
    if parity.sequence_error is not None and not parity.sequence_error <= (parity.sequence_limit or 0):
        return "the preprocessing's sequence is not the model's own: scaling, channel mean or order of the timesteps"
    if not parity.batch_error <= parity.batch_limit:
        return "a row depends on its neighbours in the batch: a fixed batch size or a scale measured over the batch"
    if parity.max_logit_error < 100 * parity.logit_limit:
        return (
            "reduced precision on one side (TF32, oneDNN's BF16, mixed precision), or activations grown out of range "
            "because BatchNorm's statistics are stale"
        )
    return "another computation: gate order, channel order, scaling, order of the timesteps, or damaged weights"


class _Reference:
    """The Keras model with what is compared: its own sequence, logits, probabilities."""

    def __init__(self, model: KerasModel, spec: ModelSpec) -> None:
        names = ["sequence"] if spec.uses_rnn else []
        outputs = {name: model.get_layer(name).output for name in (*names, "logits", "probabilities")}
        self._model = keras.Model(model.input, outputs)

    def __call__(self, tensors: Tensors) -> tuple[Outputs, float]:
        """What Keras gives for ``image``, and how far its sequence is from the preprocessing's."""
        with keras.device("cpu:0"):  # a GPU would bring TF32
            found = {name: np.asarray(value) for name, value in self._model(tensors["image"], training=False).items()}
        if not np.isfinite(found["logits"]).all():
            raise ParityError(
                "expected finite logits from the Keras model, found NaN or infinity: the training diverged; "
                "train again with a lower learning rate"
            )
        error = float(np.abs(found["sequence"] - tensors["sequence"]).max()) if "sequence" in found else 0.0
        return Outputs(found["logits"], found["probabilities"]), error


@dataclass
class _Measurement:
    """Both sides' outputs, gathered over the batches: some KB for hundreds of images."""

    expected: list[Tensor] = field(default_factory=list)
    found: list[Tensor] = field(default_factory=list)
    probabilities_expected: list[Tensor] = field(default_factory=list)
    probabilities_found: list[Tensor] = field(default_factory=list)
    sequence_error: float = 0.0

    def add(self, expected: Outputs, sequence_error: float, found: Outputs) -> None:
        """Take one batch in, row by row."""
        self.expected += list(expected.logits)
        self.found += list(found.logits)
        self.probabilities_expected += list(expected.probabilities)
        self.probabilities_found += list(found.probabilities)
        self.sequence_error = max(self.sequence_error, sequence_error)

    @property
    def scale(self) -> float:
        """Max |logit| of Keras."""
        return max(float(np.abs(self.expected).max()), float(np.finfo(np.float32).tiny))

    @property
    def logit_error(self) -> float:
        """Max |difference| / max |logit|."""
        return float(np.abs(np.subtract(self.found, self.expected)).max()) / self.scale

    @property
    def probabilities(self) -> Tensor:
        """Keras's, (N, C)."""
        return np.stack(self.probabilities_expected)

    @property
    def probability_errors(self) -> Tensor:
        """|Difference|, (N, C)."""
        return np.asarray(np.abs(np.stack(self.probabilities_found) - self.probabilities), np.float32)

    @property
    def agreement(self) -> float:
        """Share of the images with the same first label."""
        return float((np.argmax(self.found, axis=1) == np.argmax(self.expected, axis=1)).mean())


class _Rows:
    """What becomes of the first eight rows when they are run otherwise than as one batch."""

    def __init__(self, backend: Backend, tensors: Tensors) -> None:
        self._backend = backend
        self._tensors = tensors
        self._logits = backend.run(tensors).logits

    def batch_error(self) -> float:
        """The largest |difference| of a logit between batches of 1, 3 and 8."""
        return max(
            float(np.abs(self._run(rows) - self._logits[rows]).max())
            for size in OTHER_BATCHES
            for rows in _slices(size, len(self._logits))
        )

    def sequence_effect(self) -> float:
        """The largest |difference| of a logit when every image gets its neighbour's sequence."""
        swapped = {**self._tensors, "sequence": np.roll(self._tensors["sequence"], 1, axis=0)}
        return float(np.abs(self._backend.run(swapped).logits - self._logits).max())

    def _run(self, rows: slice) -> Tensor:
        return self._backend.run({name: tensor[rows] for name, tensor in self._tensors.items()}).logits


def _slices(size: int, count: int) -> list[slice]:
    """Slices of exactly ``size`` rows that cover ``count`` rows; the last ones may overlap."""
    return [slice(start, start + size) for start in (min(s, count - size) for s in range(0, count, size))]


def _batches(frames: Iterable[Frame], spec: ModelSpec) -> Iterator[Tensors]:
    """``image`` (for Keras, also where the graph has no such input) and the spec's own inputs, up to 8 rows each."""
    preprocessor = Preprocessor(spec)
    iterator = iter(frames)
    while chunk := list(islice(iterator, BATCH)):
        tensors = {"image": np.empty((len(chunk), *spec.image_shape), np.float32), **preprocessor.allocate(len(chunk))}
        for row, frame in enumerate(chunk):
            preprocessor.fill(frame, tensors, row)
        yield tensors


def _of(tensors: Tensors, spec: ModelSpec) -> Tensors:
    return {name: tensors[name] for name in spec.inputs}


def _filled(tensors: Tensors) -> Tensors:
    """Eight rows, repeating from the start where there are fewer."""
    return {name: np.resize(tensor, (BATCH, *tensor.shape[1:])) for name, tensor in tensors.items()}


def _warnings(probabilities: Tensor, sequence_effect: float | None) -> Iterator[str]:
    """What makes a passed check worth little."""
    chance = 1 / probabilities.shape[1]
    certainty = float(probabilities.max(axis=1).mean())
    if certainty < chance + NEARLY_CHANCE * (1 - chance):
        yield (
            f"the outputs are nearly flat (mean top-1 probability {certainty:.3f}, chance is {chance:.3f}): any graph "
            "would pass, so this check proves little; is the model trained?"
        )
    if float(probabilities.std(axis=0).max()) < ALIKE:
        yield (
            "the outputs are alike for all images: a graph that ignores its input would pass, so this check proves "
            "little; is the model trained, and are the images different?"
        )
    if sequence_effect is not None and sequence_effect < HARDLY_COUNTS:
        yield (
            f"giving an image another's sequence changes its logits by only {sequence_effect:.1e} of max |logit|: the "
            "recurrent branch hardly counts in this model, and this check says little about it"
        )
