"""The Classifier opens a bundle, checks it on this device and turns frames into predictions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .backends import Selection, open_backend
from .bundle import Bundle
from .console import say, waiting
from .engines.engine_options import EngineOptions
from .engines.progress import Reporter, make_reporter
from .errors import BackendError, InputError, UsageError
from .frame import Frame, Outputs
from .golden import GoldenResult, prove_golden
from .manifest import Variant
from .preprocess import Preprocessor, read_image
from .spec import ModelSpec
from .trust import Trust

Image = str | Path | npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about one frame.

    Attributes:
        labels: the C class labels, in the order of the model's outputs.
        probabilities: (C,) float32, adding up to 1.
        logits: (C,) float32.
        preprocess_ms: time from the decoded frame to tensors, milliseconds; it leaves out reading and decoding a file.
        inference_ms: this frame's share of its batch's time, milliseconds.
    """

    labels: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    preprocess_ms: float
    inference_ms: float

    @property
    def label(self) -> str:
        """The most probable label."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def probability(self) -> float:
        """The most probable label's probability."""
        return float(self.probabilities.max())

    def top(self, k: int) -> list[tuple[str, float]]:
        """Return the k most probable labels with their probabilities, descending, or all labels where C < k."""
        order = np.argsort(-self.probabilities, kind="stable")[: max(k, 0)]
        return [(self.labels[index], float(self.probabilities[index])) for index in order]


class Classifier:
    """Runs a bundle on the engine that fits this machine, once it passed the check on the bundle's golden examples.

    It is not thread-safe. Use it as a context manager, or ``close`` it. ``selection`` has the backend and the variant
    in use; ``golden`` says how near this device came to the exporter's outputs, or is None where the check was left
    out. ``temperature`` is what logits are divided by, or None where probabilities are the model's own; the check is on
    these.
    """

    def __init__(
        self,
        bundle: Bundle,
        selection: Selection,
        *,
        batch_size: int = 8,
        check: bool | None = None,
        calibrated: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"expected a batch size of at least 1, found {batch_size}")
        self.bundle = bundle
        self.selection = selection
        self.temperature = _temperature(bundle, selection.variant) if calibrated else None
        self._preprocessor = Preprocessor(bundle.spec)
        try:
            self._tensors = self._preprocessor.allocate(batch_size)  # reused by every batch
        except MemoryError as error:
            raise BackendError(
                f"expected memory for {batch_size} frames at once, found too little; take fewer"
            ) from error
        self._batch_size = batch_size
        self.golden: GoldenResult | None = None
        if check is not False:
            self.golden = prove_golden(
                bundle, selection.variant, selection.backend, self._preprocessor, anew=check is True
            )

    @classmethod
    def load(
        cls,
        path: Path | str | Bundle | None = None,
        *,
        trust: Trust | None = None,
        backend: str = "auto",
        precision: str = "auto",
        batch_size: int = 8,
        threads: int | None = None,
        check: bool | None = None,
        calibrated: bool = False,
        engine: EngineOptions | None = None,
        reporter: Reporter | None = None,
    ) -> Classifier:
        """Open a bundle, choose an engine and check it.

        Args:
            path: a bundle's folder or tar, a run folder, or a bundle that is open already; by default
                ``./manifest.json``, ``./bundle``, then ``runs/latest/bundle``.
            trust: the fingerprint or the signature that the bundle must have; None: what this device asks of all.
            backend: ``auto``, ``tensorrt``, ``cuda`` or ``cpu``; one named is never replaced by another.
            precision: ``auto``, ``fp32``, ``w8``, ``fp16`` or ``int8``.
            batch_size: the most frames that go through the model at once.
            threads: CPU threads for one batch; None leaves it to the engine.
            check: run the golden examples first; None: unless they passed here before and nothing has changed since, as
                ``prove_golden`` tells; False: never.
            calibrated: give the softmax of the logits divided by the variant's temperature as probabilities.
            engine: how TensorRT engines are built: batch profile and workspace.
            reporter: is told of the build, which takes minutes the first time on a machine.

        Raises:
            BundleError: there is no bundle, it is malformed or damaged, or it has no such variant.
            TrustError: the bundle has not the fingerprint or the signature.
            BackendError: no engine here runs it, or the engine refused it.
            GoldenError: this device computes something else than the exporter did.
            Int8EngineError: TensorRT does not build the INT8 graph here, and nothing else may be taken.
            UsageError: an argument is none of the values above, or ``calibrated`` finds no temperature.
        """
        bundle = path if isinstance(path, Bundle) else Bundle.open(path, trust)
        if calibrated and all(variant.temperature is None for variant in bundle.manifest.variants):
            _temperature(bundle, bundle.manifest.variants[0])  # before minutes are spent on an engine
        selection = open_backend(
            bundle, backend, precision, threads=threads, engine=engine, reporter=reporter, batch=batch_size
        )
        try:
            return cls(bundle, selection, batch_size=batch_size, check=check, calibrated=calibrated)
        except BaseException:
            selection.backend.close()
            raise

    @property
    def spec(self) -> ModelSpec:
        """The ModelSpec: what the model sees and is made of."""
        return self.bundle.spec

    @property
    def labels(self) -> tuple[str, ...]:
        """The C class labels, in the order of the model's outputs."""
        return self.bundle.labels

    def predict(self, images: Iterable[Image]) -> list[Prediction]:
        """Classify any number of images: paths and (H, W, 3) uint8 BGR arrays, mixed, each of any size.

        Raises:
            ImageError: a path can't be read.
            InputError: ``images`` is no iterable of images, or holds an array of another shape or dtype.
            BackendError: the engine failed.
        """
        if isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim == 3):
            raise InputError("expected an iterable of images, found one image: put it in a list")
        frames = (_frame(image, index) for index, image in enumerate(images))
        return [prediction for _, prediction in self.stream(frames) if prediction is not None]

    def stream(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, Prediction | None]]:
        """Classify frames as they come, a batch at a time, in their order; one with an ``error`` gets None.

        Raises:
            InputError: a frame's image is not (H, W, 3) uint8.
            BackendError: the engine failed, or the classifier was closed.
        """
        frames = iter(frames)
        while batch := list(islice(frames, self._batch_size)):
            images = [frame.image for frame in batch if frame.image is not None]
            predictions = iter(self._classify(images) if images else [])
            for frame in batch:
                yield frame, None if frame.image is None else next(predictions)

    def calibrated(self, outputs: Outputs) -> Outputs:
        """Return a batch's outputs at the temperature in use, or as they are where there is none."""
        return outputs if self.temperature is None else outputs.at_temperature(self.temperature)

    def close(self) -> None:
        """Give the engine's memory back; calling it again does nothing."""
        self.selection.backend.close()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _classify(self, images: list[npt.NDArray[np.uint8]]) -> list[Prediction]:
        times = [time.perf_counter()]
        for row, image in enumerate(images):
            self._preprocessor.fill(image, self._tensors, row)
            times.append(time.perf_counter())
        outputs = self.selection.backend.run({name: tensor[: len(images)] for name, tensor in self._tensors.items()})
        outputs = self.calibrated(outputs)
        share = (time.perf_counter() - times[-1]) * 1000 / len(images)
        preprocess = np.diff(times) * 1000
        return [
            Prediction(self.labels, outputs.probabilities[row], outputs.logits[row], float(preprocess[row]), share)
            for row in range(len(images))
        ]


def _temperature(bundle: Bundle, variant: Variant) -> float:
    if variant.temperature is not None:
        return variant.temperature.value
    others = [item.name for item in bundle.manifest.variants if item.temperature is not None]
    found = f"one with {', '.join(others)} alone" if others else "none in the bundle"
    raise UsageError(
        f"--calibrated: expected a temperature with {variant.name}, found {found}; export it again with some hundred "
        "labelled images that the model was not trained on (hybrid-export --images DIR, a folder for each class), or "
        "leave --calibrated out"
    )


def _frame(image: Image, index: int) -> Frame:
    if isinstance(image, (str, Path)):
        return Frame(str(image), 0, read_image(image))
    if not isinstance(image, np.ndarray):
        raise InputError(f"image {index}: expected a path or a (H, W, 3) uint8 BGR array, found {type(image).__name__}")
    return Frame(f"image {index}", 0, image)


def load_announced(bundle: Bundle, what: str = "opening the bundle", **settings: Any) -> Classifier:
    """Load a classifier by ``Classifier.load(bundle, **settings)``, with a spinner that shows ``what``; announce it."""
    with waiting(what) as stop:
        classifier = Classifier.load(bundle, reporter=make_reporter(stop), **settings)
    announce(classifier)
    return classifier


def announce(classifier: Classifier, *, again: bool = False) -> None:
    """Say on stderr which backend and variant were taken, and how the golden check went.

    ``again`` leaves out what is known against the engine's version, in a process that takes the place of one before.
    """
    selection, golden = classifier.selection, classifier.golden
    say(f"backend: {selection.description}")
    if selection.backend.remark is not None and not again:
        say(selection.backend.remark, style="yellow")
    if classifier.temperature is not None:
        say(f"calibrated: probabilities at the temperature {classifier.temperature:.3g}")
    for target, reason in selection.passed_over.items():
        say(f"passed over {target}: {reason.split(';')[0]}")
    if golden is None:
        say("golden check: left out", style="yellow")
    else:
        when = "at an earlier start" if golden.earlier else f"{golden.milliseconds:.0f} ms"
        say(
            f"golden check: {golden.examples} examples, probabilities within {golden.probability_error:.1g} of the "
            f"exporter's (limit {golden.tolerance:.1g}), {when}"
        )
