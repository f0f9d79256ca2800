"""Where frames come from: files, cameras and streams."""

from __future__ import annotations

from ..frame import Frame
from .files import VIDEO_SUFFIXES, Sources, open_sources

__all__ = ["VIDEO_SUFFIXES", "Frame", "Sources", "open_sources"]
