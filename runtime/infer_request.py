"""Describes what a call of ``hybrid-infer`` asks for, without OpenCV or NumPy: the supervisor reads it too."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UsageError
from .sources.names import parse_live
from .sources.regions import parse_regions
from .trust import Trust

HANG_TIMEOUT = 8.0  # seconds for one batch in the engine, after which a live run's worker is replaced
FILES_BATCH = 8
WEB_DEFAULT = "127.0.0.1:8787"


@dataclass(frozen=True)
class InferRequest:
    """This class holds what a command line asks for; each field is the option of that name, which ``--help`` explains.

    A field that is None takes the option's default, which for some depends on whether a source is live.

    Attributes:
        sources: files, folders, globs, cameras and streams, as they were named.
        every_frame: True classifies every frame, False the newest one and drops those before; None: every frame of
            files, the newest of live sources.
        regions: flags that say which parts of the pictures are classified each by itself; none: pictures go whole.
        profile, workspace: a TensorRT engine's batch sizes and MiB of scratch memory, as they were given.

    Raises:
        UsageError: there is no source, or settings don't go together.
    """

    sources: tuple[str, ...]
    bundle: Path | None = None
    trust: Trust = field(default_factory=Trust)
    top_k: int = 5
    as_json: bool = False
    batch: int | None = None
    max_wait: float = 0.0
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    check: bool | None = None
    profile: str | None = None
    workspace: int | None = None
    build: bool = True
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    every_frame: bool | None = None
    regions: tuple[str, ...] = ()
    window: bool | None = None
    save: Path | None = None
    snapshots: Path | None = None
    when: str | None = None
    smooth: float | None = None
    web: str | None = None
    web_token_file: Path | None = None
    web_cert: Path | None = None
    web_key: Path | None = None
    calibrated: bool = False
    min_probability: float = 0.0
    stable: float = 0.0
    mqtt: str | None = None
    mqtt_password_file: Path | None = None
    metrics: str | None = None
    digit: bool = False
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
        if (self.web_cert is None) != (self.web_key is None):
            raise UsageError(
                f"expected --web-cert FILE and --web-key FILE together, found --web-cert {self.web_cert} and "
                f"--web-key {self.web_key}"
            )
        if self.web is None and (self.web_cert or self.web_token_file):
            raise UsageError("expected --web with --web-cert, --web-key and --web-token-file, found none; add --web")
        if self.mqtt is None and self.mqtt_password_file is not None:
            raise UsageError("expected --mqtt mqtt://USER@BROKER/PREFIX beside --mqtt-password-file, found none")
        if self.smooth is not None and not 0 < self.smooth < math.inf:
            raise UsageError(f"expected --smooth to be more than 0 seconds, found {self.smooth}; leave it out for none")
        parse_regions(self.regions)

    @property
    def live(self) -> bool:
        """Whether a camera or a stream is among the sources, so that the run ends only when it is told to."""
        return any(parse_live(name) is not None for name in self.sources)

    @property
    def checked(self) -> bool | None:
        """Whether the golden examples run first: ``Classifier.load``'s ``check``; before a live run they always do."""
        return True if self.check is None and self.live else self.check

    @property
    def judges_answers(self) -> bool:
        """Whether an answer may be another one than the most probable label."""
        return self.min_probability > 0 or self.stable > 0

    @property
    def supervised(self) -> bool:
        """Whether a parent process is to watch the one that classifies."""
        return self.live if self.supervise is None else self.supervise

    @property
    def batch_size(self) -> int:
        """The most frames that go through the model at once: the option's value, or its default.

        By default the regions of one picture go together: live those of one, of files those of so many as make eight.
        """
        if self.batch is not None:
            return self.batch
        own = Counter(region.source for region in parse_regions(self.regions))
        rows = max(1, own.pop("", 0) + max(own.values(), default=0))
        return rows if self.live else math.ceil(FILES_BATCH / rows) * rows
