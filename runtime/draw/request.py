"""What a call of ``hybrid-draw`` asks for; light, so that a mistake is told before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

__all__ = ["MOST_BUNDLES", "Request"]

MOST_BUNDLES = 8  # so many leave room for the three best labels of each


@dataclass(frozen=True)
class Request:
    """Models, how they run, and how the window starts.

    Attributes:
        bundles: folders or tars of bundles, or run folders, at most ``MOST_BUNDLES``; none: the newest of each kind,
            see ``newest_bundles``.
        backend, precision, threads, check: see ``Classifier.load``.
        live: predict while drawing.
        thickness: the brush's at the start, pixels.
        saved: the folder that S saves drawings to.
        as_json: JSON lines on stdout in place of text.

    Raises:
        UsageError: more bundles than the window can show.
    """

    bundles: tuple[Path, ...] = ()
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    check: bool = True
    live: bool = False
    thickness: int = 15
    saved: Path = Path()
    as_json: bool = False

    def __post_init__(self) -> None:
        if len(self.bundles) > MOST_BUNDLES:
            raise UsageError(
                f"expected at most {MOST_BUNDLES} bundles, found {len(self.bundles)}: the window has no room to show "
                "more; leave some out"
            )
