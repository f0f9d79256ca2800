"""State how cameras, streams and files are to be read."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError

__all__ = ["CaptureOptions"]


@dataclass(frozen=True)
class CaptureOptions:
    """These options are asked of every source that can fulfil them.

    Attributes:
        width: the frames' width, pixels; only together with ``height``. A camera takes the nearest it has, a GStreamer
            pipeline is scaled, an IP camera's stream stays as the camera makes it.
        height: the frames' height, pixels.
        fps: frames a second. Below 1.5 it is also how long a stream may go without a frame: three of them.
        every_frame: whether no frame may be left out; None: every frame of a file, the newest of a live source.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    every_frame: bool | None = None

    def __post_init__(self) -> None:
        if (self.width is None) != (self.height is None):
            raise UsageError("expected a width and a height together, found one of them")
        for name in ("width", "height", "fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 2**15:
                raise UsageError(f"expected a {name} above 0 and up to {2**15}, found {value}")

    @property
    def size(self) -> tuple[int, int] | None:
        """The width and height asked for, pixels; None where none are."""
        return None if self.width is None or self.height is None else (self.width, self.height)

    def patience(self, usual: float) -> float:
        """Return the seconds without a frame after which a live source has stalled: ``usual``, or three slow frames."""
        return usual if self.fps is None else max(usual, 3 / self.fps)
