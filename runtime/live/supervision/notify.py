"""sd_notify: what systemd is told about the service, over a plain datagram socket (man sd_notify)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

__all__ = ["Notifier"]

STATUS_PERIOD = 2.0  # seconds; systemctl status is read by people


class Notifier:
    """Tells systemd that the service is ready, alive, stopping; without ``NOTIFY_SOCKET`` it does nothing.

    A message that can't be sent is not waited for: no worker is given up because systemd did not listen. What it has to
    hear, that the service is ready and alive, is sent again with the next ``alive``.

    Args:
        environment: where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # a leading @ stands for the null byte of an abstract name
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._period = _watchdog_period(environment)
        self._beat = self._told = 0.0
        self._status = ""
        self._unheard = False  # that the service is ready
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def ready(self) -> None:
        """Frames flow: units that come after this one may start."""
        self._unheard = not self._send("READY=1")

    def alive(self) -> None:
        """Feed the watchdog; to be called often, sent twice in its period."""
        if self._unheard:
            self.ready()
        now = time.monotonic()
        if self._period is not None and now - self._beat >= self._period / 2 and self._send("WATCHDOG=1"):
            self._beat = now

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; to be called often, sent every two seconds where it changed."""
        now = time.monotonic()
        if text != self._status and now - self._told >= STATUS_PERIOD and self._send(f"STATUS={text}"):
            self._told, self._status = now, text

    def stopping(self) -> None:
        """The service is about to end."""
        self._unheard = False
        self._send("STOPPING=1")

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> bool:
        """Whether it was sent, or there is nobody to send it to."""
        if self._socket is not None:
            try:
                self._socket.sendto(message.encode(errors="replace"), self._address)
            except OSError:
                return False
        return True


def _watchdog_period(environment: Mapping[str, str]) -> float | None:
    """Seconds within which systemd expects a beat of this process, or None where it expects none."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not microseconds.isdecimal():
        return None
    return int(microseconds) / 1e6 or None
