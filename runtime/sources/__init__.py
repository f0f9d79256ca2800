"""Where frames come from: files, cameras and streams.

Names are loaded when they are first used, as those of ``hybrid_edge.runtime``: whoever only asks what a source's name
means (``sources.names``) needs no OpenCV.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

    def __getattr__(name: str) -> Any:
        """Load a public name from its module on first use (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
