"""This room turns the names of files, cameras and streams into frames, BGR uint8 of any size, and survives their loss.

It must not know what is done with a frame: no model, no tensor and no output. Names are loaded when they are first
used, as asking what a source's name means (``sources.names``) needs no OpenCV.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .camera import reading_note
    from .capture import Capture, open_captures
    from .files import Sources, open_sources
    from .names import CaptureOptions

__all__ = ["Capture", "CaptureOptions", "Sources", "open_captures", "open_sources", "reading_note"]

_HOMES = {
    "Capture": "capture",
    "CaptureOptions": "names",
    "Sources": "files",
    "open_captures": "capture",
    "open_sources": "files",
    "reading_note": "camera",
}


if not TYPE_CHECKING:  # a type checker is to see the names above, and no others
    __getattr__ = lazy_names(__name__, _HOMES)
