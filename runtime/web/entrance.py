"""Lets in only requests that may come in, and bounds their rate, the time of their bodies and that of their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from ..console import say
from .access import Access, Rate

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "hybrid_edge_session"
PUBLIC = ("/login", "/static/page.css", "/static/icon.svg")  # what the login itself needs
BODY_PARTS = (128, 32)  # parts of bodies, 64 to 320 KiB where they come fast: at a time, and a second after that
BODY_TIME = 20.0  # seconds for a whole body
SEND_TIME = 10.0  # seconds for one part of an answer, after which its reader is given up
REQUESTS = (100, 25)  # requests at a time, and a second after that
POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _Exchange:
    """One request and its answer: its body comes at the rate of ``parts``, its answer with our headers and in time."""

    def __init__(self, headers: Headers, receive: Receive, send: Send, parts: Rate) -> None:
        self.answered = False
        self._unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        self._receive = receive
        self._send = send
        self._parts = parts

    async def receive(self) -> Message:
        message = await self._receive()
        await asyncio.sleep(self._parts.take() if message.get("body") else 0)
        self._unread = self._unread and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self._unread:
                headers["Connection"] = "close"  # what is left of the body is not read
        await asyncio.wait_for(self._send(message), SEND_TIME)


class Entrance:
    """This ASGI application lets in only requests that may come in, and bounds what answering them takes."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._rate = Rate(*REQUESTS)
        self._parts = Rate(*BODY_PARTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        await asyncio.sleep(self._rate.take())
        headers = Headers(scope=scope)
        exchange = _Exchange(headers, receive, send, self._parts)
        try:
            await (self._refusal(scope, headers) or self._app)(scope, exchange.receive, exchange.send)
        except (TimeoutError, asyncio.TimeoutError, ClientDisconnect, OSError):
            raise ConnectionAbortedError from None  # the connection is closed, and nobody is told
        except Exception as error:
            say(f"web: {scope['method']} {scope['path']}: {type(error).__name__}: {error}", style="yellow")
            if not exchange.answered:
                answer = failure(503, "expected an answer, found an error of this page, which stderr names")
                await answer(scope, exchange.receive, exchange.send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        access, path = self._access, scope["path"]
        stranger = access.stranger(scope["method"], headers)
        if stranger is not None:
            return failure(403, stranger)
        if path in PUBLIC:
            return None
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        session = Request(scope).cookies.get(COOKIE)
        client = client_of(scope)
        if access.holds_token(bearer if kind.lower() == "bearer" else None, session, client):
            return None
        if scope["path"] == "/":
            return RedirectResponse("/login", 303)
        if access.tries_later(client):
            return failure(429, "expected fewer wrong tokens; wait a minute", {"Retry-After": "60"})
        return failure(
            401,
            "expected the token as 'Authorization: Bearer TOKEN', or the cookie of a login",
            {"WWW-Authenticate": "Bearer"},
        )


def client_of(scope: Scope) -> str:
    """Return the address that a request comes from."""
    return (scope["client"] or ("",))[0]


def failure(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """Make an answer that tells what was expected, found and to do."""
    return JSONResponse({"error": reason}, status, headers)


async def read_body(request: Request, most: int) -> bytes:
    """Read a body of at most ``most`` bytes in the time that there is; HTTPException 413 or 400 where it is not."""
    too_much = HTTPException(413, f"expected at most {most} bytes, found more")
    length = request.headers.get("content-length", "0")
    if int(length) > most:
        raise too_much
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > most:
                raise too_much

    try:
        await asyncio.wait_for(read(), BODY_TIME)
    except (TimeoutError, asyncio.TimeoutError):
        raise HTTPException(400, f"expected the whole body within {BODY_TIME:g} s, found {len(body)} bytes") from None
    return bytes(body)
