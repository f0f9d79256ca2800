"""Open TCP connections on which no call blocks for long: each ends at its deadline, or soon after a stop."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ..errors import SourceError

__all__ = ["Wire", "resolve"]

SLICE = 0.1  # seconds between two looks at ``stop``
CHUNK = 2**16
MOST_ADDRESSES = 4  # addresses of one name, tried one after the other in the order of the name service

T = TypeVar("T")


class Wire:
    """This is one non-blocking TCP connection, with or without TLS.

    Attributes:
        address: the numeric address that answered.
    """

    def __init__(self, host: str, port: int, stop: threading.Event, deadline: float, *, tls: bool = False) -> None:
        """Connect to a server.

        Args:
            host: the server's name or address.
            port: the server's port.
            stop: an event that, once set, ends every wait early.
            deadline: the ``time.monotonic()`` by which the connection must stand.
            tls: whether to speak TLS, with the certificate verified.

        Raises:
            SourceError: the host is unknown, refuses, or does not answer in time, nobody vouches for its certificate,
                or ``stop`` was set.
        """
        self._stop = stop
        self.address = self._reach(resolve(host, port, stop, deadline), port, deadline)
        try:
            if tls:
                self._secure(host, deadline)
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of ``data``.

        Raises:
            SourceError: the connection ended, or the deadline passed.
        """
        while data:
            sent, wanted = self._once(partial(self._socket.send, data), select.POLLOUT)
            if sent is None:
                self._wait(deadline, "take a request", wanted)
            else:
                data = data[sent:]

    def receive(self, deadline: float) -> bytes | None:
        """Return bytes as soon as some have come; b"" at the end of the stream, None at the deadline or a stop.

        Raises:
            SourceError: the connection failed, as when it was reset.
        """
        while True:
            data, wanted = self._once(lambda: self._socket.recv(CHUNK), select.POLLIN)
            if data is not None or not self._ready(deadline, wanted):
                return data

    def close(self) -> None:
        """Close the connection, without waiting for the other side."""
        self._socket.close()

    def _reach(self, addresses: tuple[str, ...], port: int, deadline: float) -> str:
        """Connect to the first address that answers; each gets its share of the time.

        A name can have an IPv6 address where the camera, or the way to it, has no IPv6.
        """
        for left in range(len(addresses), 0, -1):
            address = addresses[-left]
            now = time.monotonic()
            try:
                self._connect(address, port, now + (deadline - now) / left)
            except SourceError:
                if left == 1 or self._stop.is_set():
                    raise
            else:
                return address
        raise SourceError("the name service knows the host and no address of it")

    def _connect(self, address: str, port: int, deadline: float) -> None:
        try:
            self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        except OSError as error:  # a kernel without IPv6, or no descriptor left
            raise SourceError(f"no connection to port {port}: {(error.strerror or str(error)).lower()}") from None
        try:
            self._socket.setblocking(False)
            code = self._socket.connect_ex((address, port))
            if code == errno.EINPROGRESS:
                self._wait(deadline, "accept a connection", select.POLLOUT)
                code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise SourceError(f"no connection to port {port}: {os.strerror(code).lower()}")
        except BaseException:
            self._socket.close()
            raise

    def _secure(self, host: str, deadline: float) -> None:
        context = ssl.create_default_context()
        try:
            self._socket = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
        except OSError as error:  # wrapping asks for the other end's address, which fails if that has hung up
            raise SourceError(f"the connection ended: {(error.strerror or str(error)).lower()}") from None
        while True:
            done, wanted = self._once(self._shake_hands, select.POLLIN)
            if done:
                return
            self._wait(deadline, "finish the TLS handshake", wanted)

    def _shake_hands(self) -> bool:
        self._socket.do_handshake()  # type: ignore[attr-defined]  # an SSLSocket by now
        return True

    def _once(self, action: Callable[[], T], wanted: int) -> tuple[T | None, int]:
        """Return what an action gives and 0, or None and the poll event that it has to wait for."""
        try:
            return action(), 0
        except BlockingIOError:
            return None, wanted
        except ssl.SSLWantReadError:
            return None, select.POLLIN
        except ssl.SSLWantWriteError:
            return None, select.POLLOUT
        except ssl.SSLCertVerificationError as error:
            raise SourceError(
                f"nobody vouches for the server's certificate: {error.verify_message}; one of your own is made known "
                "by SSL_CERT_FILE"
            ) from None
        except OSError as error:
            raise SourceError(f"the connection ended: {(error.strerror or str(error)).lower()}") from None

    def _wait(self, deadline: float, what: str, wanted: int) -> None:
        if not self._ready(deadline, wanted):
            raise SourceError("stopped" if self._stop.is_set() else f"the host did not {what} in time")

    def _ready(self, deadline: float, wanted: int) -> bool:
        poll = select.poll()  # select() takes no descriptor above 1023
        poll.register(self._socket, wanted)
        while not self._stop.is_set() and (left := deadline - time.monotonic()) > 0:
            if poll.poll(1000 * min(SLICE, left)):
                return True
        return False


class _Lookup:
    """This is one question to the name service, on a thread, as it may take half a minute and can't be stopped."""

    def __init__(self, host: str, port: int) -> None:
        self.done = threading.Event()
        self.addresses: tuple[str, ...] = ()
        self.error = ""
        threading.Thread(target=self._run, args=(host, port), name=f"lookup {host}", daemon=True).start()

    def _run(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.addresses = tuple(dict.fromkeys(str(item[4][0]) for item in found))[:MOST_ADDRESSES]
        except (OSError, ValueError) as error:  # ValueError: a name that no host can have
            self.error = str(getattr(error, "strerror", None) or error)
        finally:
            self.done.set()


_lookups: dict[tuple[str, int], _Lookup] = {}  # those under way: a dead name service gets one thread, not one a try
_lock = threading.Lock()


def resolve(host: str, port: int, stop: threading.Event, deadline: float) -> tuple[str, ...]:
    """Return a host's numeric addresses; the name service is asked on another thread, as it can't be hurried.

    Raises:
        SourceError: the host is unknown, no answer came by the deadline, or ``stop`` was set.
    """
    with _lock:
        lookup = _lookups.get((host, port))
        if lookup is None:
            lookup = _lookups[host, port] = _Lookup(host, port)
    while not lookup.done.wait(min(SLICE, max(deadline - time.monotonic(), 0))):
        if stop.is_set():
            raise SourceError("stopped")
        if time.monotonic() >= deadline:
            raise SourceError(f"the name service did not answer in time for {host}")
    with _lock:
        _lookups.pop((host, port), None)
    if not lookup.addresses:
        raise SourceError(f"unknown host {host}: {lookup.error}")
    return lookup.addresses
