"""Opens the socket on which an output waits for connections."""

from __future__ import annotations

import re
import socket

from .errors import UsageError

HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
"""How an address looks; the command tells a value of --web by it from the source that follows."""
BACKLOG = 64  # connections that wait in the kernel


def listen(option: str, text: str) -> socket.socket:
    """Return a socket that listens on HOST:PORT, the value of an option; port 0 takes one that is free.

    Raises:
        UsageError: the text is no address, the host is unknown or not this machine's, or the port is in use.
    """
    match = HOST_PORT.fullmatch(text)
    if match is None or int(match[2]) >= 2**16:
        raise UsageError(f"{option} {text}: expected HOST:PORT, as in 127.0.0.1:8787 or [::1]:8787")
    listener = None
    try:
        family, kind, _, _, place = socket.getaddrinfo(
            match[1].strip("[]"), int(match[2]), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left a moment ago is free
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"{option} {text}: expected an address of this machine with a free port, found: {reason}; "
            "name another port, or end what uses it"
        ) from None
    return listener


def shown_address(listener: socket.socket) -> str:
    """Return the host and port of a listening socket as they stand in a URL."""
    host, port = listener.getsockname()[:2]
    return f"{f'[{host}]' if ':' in host else host}:{port}"
