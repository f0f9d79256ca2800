"""Finds out whether somebody reads what this process writes."""

from __future__ import annotations

import select
from typing import TextIO

__all__ = ["takes"]


def takes(stream: TextIO | None) -> bool:
    """Return whether a stream takes a line without waiting for its reader, who may be slow, or stopped by Ctrl-S."""
    if stream is None:  # there is nothing to write to, so nothing to wait for
        return True
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # the stream is closed, or no file that can be polled
        return True
