"""Prepare a case, one variant at one batch size: what of it is called and timed, and the frames that go through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..backends import Selection
from ..bundle import Bundle
from ..classifier import Classifier
from ..preprocess import Preprocessor
from ..timing import Milliseconds
from .report import Case, Limit, Stats

__all__ = ["FRAME", "Prepared", "make_frames", "prepare"]

FRAME = (720, 1280)  # height and width of the frames, pixels: a common camera's

Frames = list[npt.NDArray[np.uint8]]


def make_frames(bundle: Bundle, count: int, size: tuple[int, int] = FRAME) -> Frames:
    """Return ``count`` frames, (height, width, 3) uint8 BGR: the golden examples, enlarged and repeated."""
    examples = bundle.golden_images()
    return [_enlarged(examples[index % len(examples)], size) for index in range(count)]


@dataclass
class Prepared:
    """This is a case whose memory is allocated.

    Attributes:
        selection: the backend and the variant.
        batch: the number of frames in a call.
        calls: what is timed: ``inference``, then ``preprocess``, ``whole``, and ``copy in`` and ``copy out`` where data
            are copied.
        profile: takes a number of runs, and returns the milliseconds of each node over these.
    """

    selection: Selection
    batch: int
    calls: dict[str, Callable[[], object]]
    profile: Callable[[int], dict[str, float]] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the case in the report, as in ``int8-cpu b8``."""
        return f"{self.selection.variant.name} b{self.batch}"

    def result(
        self,
        times: Mapping[str, list[Milliseconds]],
        shares: dict[str, float],
        joules: float | None,
        limit: Limit | None,
    ) -> Case:
        """Return the report's case, made of the times of its calls by round, milliseconds."""
        stats = {part: Stats.of(rounds) for part, rounds in times.items()}
        variant = self.selection.variant
        return Case(
            variant=variant.name,
            target=variant.target,
            precision=variant.precision,
            device=self.selection.backend.device,
            batch=self.batch,
            inference=stats["inference"],
            preprocess=stats["preprocess"],
            whole=stats["whole"],
            copy_in=stats.get("copy in"),
            copy_out=stats.get("copy out"),
            shares=shares,
            joules_per_frame=joules,
            limit=limit,
        )


def prepare(bundle: Bundle, selection: Selection, batch: int, frames: Frames) -> Prepared:
    """Allocate a case's buffers and name its calls.

    Args:
        bundle: the bundle that the selection is from.
        selection: an open variant.
        batch: the number of frames in a call.
        frames: at least ``batch`` frames, (H, W, 3) uint8 BGR.

    Raises:
        BackendError: the memory does not suffice.
    """
    backend = selection.backend
    buffers = backend.buffers(batch, 1)[0]
    classifier = Classifier(bundle, selection, batch_size=batch, check=False)
    preprocessor = Preprocessor(bundle.spec)
    taken = frames[:batch]

    def preprocess() -> None:
        for row, frame in enumerate(taken):
            preprocessor.fill(frame, buffers.tensors, row)

    def infer() -> None:
        backend.collect(backend.submit(buffers, batch))

    def classify() -> list[str]:
        return [prediction.label for prediction in classifier.predict(taken)]

    preprocess()  # inference is then timed on frames, and not on zeros
    calls: dict[str, Callable[[], object]] = {
        "inference": infer,
        "preprocess": preprocess,
        "whole": classify,
        **backend.copies(buffers, batch),
    }
    tensors = {name: tensor[:batch] for name, tensor in buffers.tensors.items()}
    return Prepared(selection, batch, calls, lambda runs: backend.profile(tensors, runs=runs))


def _enlarged(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Return an image enlarged by repeating its nearest pixels, as for timing looks don't matter."""
    rows, columns = (np.arange(length) * have // length for length, have in zip(size, image.shape[:2], strict=True))
    return np.ascontiguousarray(image[rows[:, None], columns])
