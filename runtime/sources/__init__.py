"""This room turns the names of files, cameras and streams into frames, BGR uint8 of any size, and survives their loss.

It must not know what is done with a frame: no model, no tensor and no output. Names are loaded when they are first
used, as those of ``hybrid_edge.runtime``: asking what a source's name means (``sources.names``) needs no OpenCV.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from ..frame import Frame
    from .cameras import Camera, list_cameras
    from .capture import Capture, open_captures, reading_note
    from .files import VIDEO_SUFFIXES, Sources, open_sources
    from .options import CaptureOptions

__all__ = [
    "VIDEO_SUFFIXES",
    "Camera",
    "Capture",
    "CaptureOptions",
    "Frame",
    "Sources",
    "list_cameras",
    "open_captures",
    "open_sources",
    "reading_note",
]

_HOMES = {
    "VIDEO_SUFFIXES": "files",
    "Camera": "cameras",
    "Capture": "capture",
    "CaptureOptions": "options",
    "Frame": "files",
    "Sources": "files",
    "list_cameras": "cameras",
    "open_captures": "capture",
    "open_sources": "files",
    "reading_note": "capture",
}


if not TYPE_CHECKING:  # a type checker is to see the names above, and no others
    __getattr__ = lazy_names(__name__, _HOMES)
