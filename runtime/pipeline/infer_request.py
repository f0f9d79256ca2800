"""Describes what a call of ``hybrid-infer`` asks for, without OpenCV or NumPy: the supervisor reads it too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..service.heartbeat import HANG_TIMEOUT
from ..sources.names import parse_live

__all__ = ["InferRequest", "is_live"]

FILES_BATCH = 8


def is_live(name: str) -> bool:
    """Return whether a source is a camera or a stream: a number, a video device or a URL, and no file of that name.

    Raises:
        UsageError: the name is a URL of a kind that can't be read.
    """
    return parse_live(name) is not None


@dataclass(frozen=True)
class InferRequest:
    """This class holds the sources, the bundle, how frames go through it, and where results go.

    Attributes:
        sources: files, folders, globs, cameras, streams, as they were named.
        bundle: a bundle's folder or tar, or a run folder; None looks in the usual places.
        top_k: how many labels each result has.
        as_json: whether stdout gets JSON lines in place of rows.
        batch: the most frames that go through the model at once; None is 8 for files and 1 for live sources.
        max_wait: milliseconds for which a frame waits for others to fill its batch.
        backend, precision, threads, check: see ``Classifier.load``.
        profile, workspace, build: a TensorRT engine's batch sizes and MiB of scratch memory as they were given, and
            whether it may be built here.
        width, height, fps: pixels and frames a second that a live source is asked for; None takes what it gives.
        every_frame: True classifies every frame, False the newest one and drops those before; None: every frame of
            files, the newest of live sources.
        window: whether to open a window; None: for live sources, where there is a display.
        save: the video file that classified frames are written to.
        snapshots, when: the folder for single frames, and the condition (``cat>0.8``) on which they are written.
        smooth: seconds over which probabilities are averaged; None leaves them as they are.
        hang_timeout: seconds that the engine may take for one batch before the worker is replaced; unsupervised, for
            closing it.
        supervise: whether a parent process watches the one that classifies; None: for live sources.

    Raises:
        UsageError: there is no source, or settings don't go together.
    """

    sources: tuple[str, ...]
    bundle: Path | None = None
    top_k: int = 5
    as_json: bool = False
    batch: int | None = None
    max_wait: float = 0.0
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    check: bool = True
    profile: str | None = None
    workspace: int | None = None
    build: bool = True
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    every_frame: bool | None = None
    window: bool | None = None
    save: Path | None = None
    snapshots: Path | None = None
    when: str | None = None
    smooth: float | None = None
    hang_timeout: float = HANG_TIMEOUT
    supervise: bool | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError(
                "Missing argument 'SOURCE': expected at least one image, folder, glob, video or stream, or --camera N"
            )
        if (self.snapshots is None) != (self.when is None):
            raise UsageError(
                f"expected --snapshots DIR and --when 'LABEL>0.8' together, found --snapshots {self.snapshots} and "
                f"--when {self.when}"
            )
        if self.smooth is not None and not 0 < self.smooth < math.inf:
            raise UsageError(f"expected --smooth to be more than 0 seconds, found {self.smooth}; leave it out for none")

    @property
    def live(self) -> bool:
        """Whether a camera or a stream is among the sources, so that the run ends only when it is told to."""
        return any(is_live(name) for name in self.sources)

    @property
    def supervised(self) -> bool:
        """Whether a parent process is to watch the one that classifies."""
        return self.live if self.supervise is None else self.supervise

    @property
    def batch_size(self) -> int:
        """The most frames that go through the model at once, with the default filled in."""
        if self.batch is not None:
            return self.batch
        return 1 if self.live else FILES_BATCH
