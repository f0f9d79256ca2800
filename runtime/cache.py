"""The cache folder holds what hybrid-edge can make again: unpacked bundles, features, engines."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """Return the path of the cache folder, which may not exist yet.

    It is ``$HYBRID_EDGE_CACHE``, else ``$XDG_CACHE_HOME/hybrid-edge``, else ``~/.cache/hybrid-edge``.
    """
    if chosen := os.environ.get("HYBRID_EDGE_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG specification: a relative value is to be ignored
        base = Path.home() / ".cache"
    return base / "hybrid-edge"
