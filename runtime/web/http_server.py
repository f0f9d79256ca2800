"""Accepts connections on a thread of its own, and bounds their number, their requests' time and their rate.

uvicorn speaks HTTP on each. By itself it waits for ever for a request's headers, and for a reader of its answer; so
connections are accepted here, and those that are idle are ended: any for too long, the longest idle one where there are
too many.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ..background import start_in_background
from ..errors import UsageError
from .access import Rate

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MAX_CONNECTIONS = 128
MAX_HEADERS = 2**14  # 16 KiB of a request's headers
IDLE_TIME = 10.0  # seconds that a connection may be without a whole request, or its answer unread
HANDSHAKE_TIME = 5.0  # seconds, of TLS
ACCEPTED = (200, 30)  # connections at a time, and a second after that
END_TIME = 1.0  # seconds that ``close`` waits for the thread


class TimedProtocol(H11Protocol):
    """This protocol is uvicorn's, and knows since when it has been idle: without a request that is being answered."""

    idle_since = 0.0

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete and not self.transport.is_closing()

    def on_response_complete(self) -> None:
        """Note that the connection is idle from here on."""
        self.idle_since = time.monotonic()
        super().on_response_complete()


class HttpServer:
    """Serves an ASGI application on a listening socket until ``close``; any thread may call it.

    Raises:
        UsageError: the certificate and its key can't be used.
    """

    def __init__(self, listener: socket, certificate: tuple[Path, Path] | None) -> None:
        self._listener = listener
        self._tls = None if certificate is None else _tls_context(*certificate)
        self._state = ServerState()
        self._opening: set[asyncio.Task[Any]] = set()
        self._ended: Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def start(self, make_app: Callable[[asyncio.AbstractEventLoop], ASGIApp]) -> None:
        """Serve what ``make_app`` makes, from now on."""
        self._ended = start_in_background(lambda: asyncio.run(self._serve(make_app)), "web")

    def close(self) -> None:
        """End every connection and the thread, within a second."""
        if self._loop is None:
            self._stop.set()
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._ended is not None:
            with contextlib.suppress(NotInTime):
                self._ended.result(END_TIME)
        self._listener.close()

    async def _serve(self, make_app: Callable[[asyncio.AbstractEventLoop], ASGIApp]) -> None:
        self._loop = loop = asyncio.get_running_loop()
        logging.getLogger("uvicorn").disabled = True
        config = Config(
            make_app(loop),
            http=TimedProtocol,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            log_level=logging.CRITICAL + 1,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(IDLE_TIME),
            h11_max_incomplete_event_size=MAX_HEADERS,
        )
        config.load()
        tasks = [loop.create_task(work) for work in (self._accept(config), self._sweep())]
        await self._stop.wait()
        for task in [*tasks, *self._opening, *self._state.tasks]:
            task.cancel()
        for connection in tuple(self._state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    async def _accept(self, config: Config) -> None:
        loop = asyncio.get_running_loop()
        rate = Rate(*ACCEPTED)
        while True:
            await asyncio.sleep(rate.take())
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError:  # no descriptor is left: some will be free
                await asyncio.sleep(1)
                continue
            if len(self._state.connections) + len(self._opening) >= MAX_CONNECTIONS and not self._make_room():
                connection.close()
                continue
            opening = loop.create_task(self._open(connection, config))
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket, config: Config) -> None:
        def protocol() -> TimedProtocol:
            made = TimedProtocol(config, self._state, {})
            made.idle_since = time.monotonic()
            return made

        timeout = None if self._tls is None else HANDSHAKE_TIME
        with contextlib.suppress(OSError, ssl.SSLError):  # whoever asked went away
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol, connection, ssl=self._tls, ssl_handshake_timeout=timeout
            )

    def _make_room(self) -> bool:
        """End the connection that has been idle for longest, if any is."""
        idle = [item for item in self._state.connections if isinstance(item, TimedProtocol) and not item.busy]
        if not idle:
            return False
        min(idle, key=lambda item: item.idle_since).transport.abort()
        return True

    async def _sweep(self) -> None:
        """End connections that have been idle for too long; whoever answers a request bounds the time of that."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for item in tuple(self._state.connections):
                if not isinstance(item, TimedProtocol):
                    continue
                if item.busy:
                    item.idle_since = now
                elif now - item.idle_since > IDLE_TIME:
                    item.transport.abort()


def _tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--web-cert {certificate} --web-key {key}: expected a certificate and its private key, both PEM and "
            f"without a password, found: {error}"
        ) from None
    return context
