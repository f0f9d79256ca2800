"""Tells systemd about the service, over a plain datagram socket (man sd_notify)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

STATUS_PERIOD = 2.0  # seconds between two status texts: people, who read systemctl status, need no more


class Notifier:
    """Tells systemd that the service is ready, alive or stopping; without ``NOTIFY_SOCKET`` it does nothing.

    A message that can't be sent is not waited for: no worker is given up because systemd did not listen. What systemd
    has to hear, that the service is ready and alive, is sent again with the next ``alive``.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # a leading @ stands for the null byte of an abstract name
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._period = _watchdog_period(environment)
        self._beat = self._told = 0.0
        self._status = ""
        self._unheard = False  # whether systemd has still to hear that the service is ready
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self) -> None:
        """Say that frames flow, so that units that come after this one may start."""
        self._unheard = not self._send("READY=1")

    def alive(self) -> None:
        """Feed the watchdog: callers call often, the message is sent twice in the watchdog's period."""
        if self._unheard:
            self.ready()
        now = time.monotonic()
        if self._period is not None and now - self._beat >= self._period / 2 and self._send("WATCHDOG=1"):
            self._beat = now

    def status(self, text: str) -> None:
        """Set the line of ``systemctl status``: callers call often, a changed text is sent every two seconds."""
        now = time.monotonic()
        if text != self._status and now - self._told >= STATUS_PERIOD and self._send(f"STATUS={text}"):
            self._told, self._status = now, text

    def stopping(self) -> None:
        """Say that the service is about to end."""
        self._unheard = False
        self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket; nothing more is sent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> bool:
        """Return whether the message was sent, or there is nobody to send it to."""
        if self._socket is not None:
            try:
                self._socket.sendto(message.encode(errors="replace"), self._address)
            except OSError:
                return False
        return True


def _watchdog_period(environment: Mapping[str, str]) -> float | None:
    """Return the seconds within which systemd expects a message of this process, or None where it expects none."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not microseconds.isdecimal():
        return None
    return int(microseconds) / 1e6 or None
