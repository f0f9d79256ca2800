"""Whether somebody reads what this process writes."""

from __future__ import annotations

import select
from typing import TextIO

__all__ = ["takes"]


def takes(stream: TextIO | None) -> bool:
    """Whether a stream takes a line without waiting for its reader, who may be slow, or stopped by Ctrl-S."""
    if stream is None:  # nowhere to write to
        return True
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # closed, or not a file
        return True
