"""Define what a call of ``hybrid-draw`` asks for; imports are light, so that mistakes are told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

__all__ = ["MOST_BUNDLES", "Request"]

MOST_BUNDLES = 8  # with so many, the window has room for the three best labels of each


@dataclass(frozen=True)
class Request:
    """This request says which models to open, how they run, and how the window starts.

    Attributes:
        bundles: folders or tars of bundles, or run folders, at most ``MOST_BUNDLES``; if empty, ``newest_bundles``
            finds the newest of each kind.
        backend, precision, threads, check: the arguments of ``Classifier.load``.
        live: whether to predict while drawing.
        thickness: the thickness of the brush at the start, pixels.
        saved: the folder that S saves drawings to.
        as_json: whether to print JSON lines on stdout in place of text.

    Raises:
        UsageError: there are more bundles than the window can show.
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
