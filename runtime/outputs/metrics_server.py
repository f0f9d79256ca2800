"""Answers Prometheus over HTTP on one thread, however many connections come and however slow they are."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable

Render = Callable[[str], tuple[bytes, str]]  # from a request's Accept header to what goes out and its type

MAX_CONNECTIONS = 32  # the oldest ones beyond them are ended: whoever scrapes is answered at once and gone
MAX_REQUEST = 2**13  # 8 KiB of a request's line and headers
CONNECTION_TIME = 5.0  # seconds from its first byte to the end of its answer
ACCEPT_PAUSE = 0.01  # seconds between two connections, so that a flood of them leaves time to the pipeline
RETRY_PAUSE = 0.5  # seconds before another try where a connection could not be accepted
RENDERED_TIME = 1.0  # seconds that an answer is given again
END_TIME = 1.0  # seconds that ``close`` waits for the thread
PATH = "/metrics"


class MetricsServer:
    """Answers GET and HEAD of /metrics on a listening socket with what ``render`` makes, until ``close``."""

    def __init__(self, listener: socket.socket, render: Render) -> None:
        self._listener = listener
        self._render = render
        self._rendered: dict[str, tuple[float, bytes, str]] = {}
        self._connections: dict[asyncio.Task[None], None] = {}  # the oldest one first
        self._loop = asyncio.new_event_loop()
        self._accepting = self._loop.create_task(self._accept())
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every connection and the thread, within a second."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._accepting.cancel)
        self._thread.join(END_TIME)

    def _run(self) -> None:
        self._listener.setblocking(False)
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._accepting)
        self._listener.close()
        self._loop.close()

    async def _accept(self) -> None:
        try:
            while True:
                try:
                    connection, _ = await self._loop.sock_accept(self._listener)
                except OSError:  # whoever asked is gone, or no descriptor is left: some will be free
                    await asyncio.sleep(RETRY_PAUSE)
                    continue
                if len(self._connections) >= MAX_CONNECTIONS:
                    oldest = next(iter(self._connections))
                    oldest.cancel()
                    await asyncio.wait({oldest})
                task = self._loop.create_task(self._serve(connection))
                self._connections[task] = None
                task.add_done_callback(self._connections.pop)
                await asyncio.sleep(ACCEPT_PAUSE)
        finally:
            left = tuple(self._connections)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, asyncio.TimeoutError):
            connection.setblocking(False)
            await asyncio.wait_for(self._exchange(connection), CONNECTION_TIME)

    async def _exchange(self, connection: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request and len(request) < MAX_REQUEST:
            part = await self._loop.sock_recv(connection, MAX_REQUEST - len(request))
            if not part:
                return
            request += part
        await self._loop.sock_sendall(connection, self._answer(request))
        connection.shutdown(socket.SHUT_WR)

    def _answer(self, request: bytes) -> bytes:
        head, _, rest = request.decode("latin-1").partition("\r\n")
        method, _, target = head.partition(" ")
        path = target.partition(" ")[0].partition("?")[0]
        if "\r\n\r\n" not in f"\r\n{rest}":
            return _response("431 Request Header Fields Too Large", "expected at most 8 KiB of headers, found more\n")
        if path != PATH:
            return _response("404 Not Found", f"expected {PATH}, found another path\n")
        if method not in ("GET", "HEAD"):
            return _response(
                "405 Method Not Allowed", "expected GET or HEAD, found another method\n", "Allow: GET, HEAD"
            )
        lines = [line.partition(":") for line in rest.split("\r\n")]
        accept = ",".join(value.strip() for name, _, value in lines if name.strip().lower() == "accept")
        body, kind = self._page(accept)
        return _response("200 OK", body, kind=kind, with_body=method == "GET")

    def _page(self, accept: str) -> tuple[bytes, str]:
        """Return what is rendered for an Accept header: the same for a second, however often it is asked for."""
        key = "openmetrics" if "application/openmetrics-text" in accept else "text"
        since, body, kind = self._rendered.get(key, (-math.inf, b"", ""))
        if time.monotonic() - since >= RENDERED_TIME:
            body, kind = self._render(accept)
            self._rendered[key] = time.monotonic(), body, kind
        return body, kind


def _response(
    status: str, body: bytes | str, header: str = "", *, kind: str = "text/plain; charset=utf-8", with_body: bool = True
) -> bytes:
    content = body.encode() if isinstance(body, str) else body
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Connection: close",
        *([header] if header else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (content if with_body else b"")
