"""What a call of ``hybrid-draw`` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """Models, how they run, and how the window starts.

    Attributes:
        bundles: folders or tars of bundles, or run folders; none: the newest of each kind, see ``newest_bundles``.
        backend, precision, threads, check: see ``Classifier.load``.
        live: predict while drawing.
        thickness: the brush's at the start, pixels.
        saved: the folder that S saves drawings to.
        as_json: JSON lines on stdout in place of text.
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
