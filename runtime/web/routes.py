"""Answers requests: the page's files, the API under /api/v1 and the login, each behind one gate."""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ..console import say
from ..errors import BackendUnavailableError, HybridEdgeError, ImageError, InputError
from .access import Access, Rate

try:
    from starlette.applications import Starlette
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:
    raise BackendUnavailableError(f"--web needs starlette ({error}): pip install 'hybrid-edge[web]'") from error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from .live_state import LiveState
    from .motion_jpeg import MotionJpeg
    from .workbench import Workbench

API = "/api/v1"
COOKIE = "hybrid_edge_session"
FOLDER = Path(__file__).parent / "static"
PUBLIC = ("/login", "/static/page.css", "/static/login.js", "/static/icon.svg")  # what the login itself needs
MAX_BODY = 2**25  # 32 MiB
MAX_LOGIN = 2**12  # 4 KiB
BODY_TIME = 20.0  # seconds for a whole body
SEND_TIME = 10.0  # seconds for one part of an answer, after which its reader is given up
MAX_VIEWERS = 16  # of pictures
MAX_LISTENERS = 32  # of events
EVENT_PERIOD = 0.2  # seconds between two events of a kind
REQUESTS = (100, 50)  # requests at a time, and a second after that
BOUNDARY = "frame"
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
STATUS_OF_HTTP = {405: "a method of this address", 404: "an address of this page or of its API, which /api/v1/openapi.json describes"}


class Gate:
    """This ASGI application lets in only requests that may come in, and bounds what answering them takes."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._rate = Rate(*REQUESTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        await asyncio.sleep(self._rate.take())
        headers = Headers(scope=scope)
        unread = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        started = False

        async def read() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    own.setdefault(name, value)
                if unread:
                    own["Connection"] = "close"  # what is left of the body is not read
            await asyncio.wait_for(send(message), SEND_TIME)

        refusal = self._refusal(scope, headers)
        try:
            await (refusal or self._app)(scope, read, answer)
        except (TimeoutError, asyncio.TimeoutError, ClientDisconnect, OSError):
            raise ConnectionAbortedError from None  # the connection is closed, and nobody is told
        except Exception as error:
            say(f"web: {scope['method']} {scope['path']}: {type(error).__name__}: {error}", style="yellow")
            if not started:
                await failure(503, "expected an answer, found an error of this page, which stderr names")(scope, read, answer)

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
            401, "expected the token as 'Authorization: Bearer TOKEN', or the cookie of a login", {"WWW-Authenticate": "Bearer"}
        )


class Routes:
    """This class answers what the gate lets in, from a run's state, pictures and workbench; it holds no state of its own.

    ``bundle`` is what the API tells of the model.
    """

    def __init__(
        self, access: Access, state: LiveState, pictures: MotionJpeg, workbench: Workbench, bundle: Mapping[str, Any]
    ) -> None:
        self._access = access
        self._state = state
        self._pictures = pictures
        self._workbench = workbench
        self._tells: dict[str, Callable[[], Any]] = {
            "status": self._tell_status,
            "sources": state.tell_sources,
            "timeline": state.tell_timeline,
            "latency": state.tell_latency,
            "bundle": lambda: bundle,
        }
        self._listeners = 0
        self._made: dict[str, tuple[int, str]] = {}
        self._files = {file.name: file.read_bytes() for file in FOLDER.glob("*")}

    def app(self) -> ASGIApp:
        """Make the ASGI application."""
        routes = [Route(f"{API}/{name}", partial(_tell, call)) for name, call in self._tells.items()]
        routes += [
            Route(f"{API}/latest", self._latest),
            Route(f"{API}/events", self._events),
            Route(f"{API}/sources/{{id}}/stream", self._stream),
            Route(f"{API}/sources/{{id}}/snapshot", self._snapshot),
            Route(f"{API}/classify", self._classify, methods=["POST"]),
            Route(f"{API}/openapi.json", partial(_send_file, (FOLDER.parent / "openapi.json").read_bytes(), "openapi.json")),
            Route("/", partial(self._file, "index.html")),
            Route("/static/{name}", lambda request: self._file(request.path_params["name"], request)),
            Route("/login", self._log_in, methods=["GET", "POST"]),
            Route("/logout", self._log_out, methods=["POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _not_there, HybridEdgeError: _failed})
        app.router.redirect_slashes = False
        return Gate(app, self._access)

    def _tell_status(self) -> dict[str, Any]:
        return {**self._state.tell_status(), "viewers": self._pictures.viewers, "token": self._access.needs_token}

    async def _file(self, name: str, request: Request) -> Response:
        if name not in self._files:
            raise HTTPException(404)
        return await _send_file(self._files[name], name, request)

    async def _latest(self, request: Request) -> Response:
        only = request.query_params.get("source")
        if only is not None and not self._state.knows(only):
            raise HTTPException(404)
        return JSONResponse(self._state.tell_latest(only))

    async def _snapshot(self, request: Request) -> Response:
        picture = self._state.picture(self._source(request))
        if picture is None:
            raise HTTPException(404)
        with self._place():
            return Response(await self._workbench.encode(picture), media_type="image/jpeg")

    async def _classify(self, request: Request) -> Response:
        with self._place():
            return JSONResponse(await self._workbench.classify(await read_body(request, MAX_BODY)))

    async def _stream(self, request: Request) -> Response:
        source = self._source(request)
        if self._pictures.viewers >= MAX_VIEWERS:
            return failure(503, f"expected at most {MAX_VIEWERS} viewers, found as many; close one")
        return StreamingResponse(self._parts(source), media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")

    async def _parts(self, source: str) -> AsyncIterator[bytes]:
        number = 0
        with self._pictures.watching(source):
            while True:
                number, jpeg = await self._pictures.after(source, number)
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                yield b"%b%b\r\n" % (head.encode(), jpeg)

    async def _events(self, request: Request) -> Response:
        if self._listeners >= MAX_LISTENERS:
            return failure(503, f"expected at most {MAX_LISTENERS} listeners, found as many; close a page")
        return StreamingResponse(self._messages(), media_type="text/event-stream")

    async def _messages(self) -> AsyncIterator[str]:
        sent: dict[str, int] = {}
        tells = {"status": self._tell_status, "sources": self._state.tell_sources, "latest": self._state.tell_latest}
        faults = self._state.revisions["fault"]
        self._listeners += 1
        try:
            yield "retry: 2000\n\n"
            while True:
                for kind, call in tells.items():
                    revision, text = self._message(kind, call)
                    if sent.get(kind) != revision:
                        sent[kind] = revision
                        yield text
                for faults, fault in self._state.faults_after(faults):
                    yield _event("fault", fault)
                await asyncio.sleep(EVENT_PERIOD)
        finally:
            self._listeners -= 1

    def _message(self, kind: str, call: Callable[[], Any]) -> tuple[int, str]:
        """Return an event and the revision that it tells, made once for all listeners."""
        revision = self._state.revisions[kind]
        if self._made.get(kind, (-1, ""))[0] != revision:
            self._made[kind] = revision, _event(kind, call())
        return self._made[kind]

    async def _log_in(self, request: Request) -> Response:
        if request.method != "POST":
            # without it a browser hides the origin of the form from us too
            answer = await self._file("login.html", request)
            answer.headers["Referrer-Policy"] = "same-origin"
            return answer
        access, client = self._access, client_of(request.scope)
        form = parse_qs((await read_body(request, MAX_LOGIN)).decode("latin-1"), max_num_fields=4)
        if not access.is_token(form.get("token", [""])[0], client) and access.needs_token:
            late = access.tries_later(client)
            if "text/html" in request.headers.get("accept", ""):
                return RedirectResponse(f"/login?{'wait' if late else 'wrong'}", 303)
            return failure(429 if late else 401, "expected the token" + ", found wrong ones: wait a minute" * late)
        answer = RedirectResponse("/", 303)
        if access.needs_token:
            answer.set_cookie(COOKIE, access.log_in(), httponly=True, samesite="strict", secure=access.tls, path="/")
        return answer

    async def _log_out(self, request: Request) -> Response:
        self._access.log_out(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login" if self._access.needs_token else "/", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=self._access.tls, path="/")
        return answer

    def _place(self) -> AbstractContextManager[None]:
        if self._workbench.full:
            raise HTTPException(429, "expected fewer pictures at a time; try again in a few seconds", {"Retry-After": "5"})
        return self._workbench.place()

    def _source(self, request: Request) -> str:
        source: str = request.path_params["id"]
        if not self._state.knows(source):
            raise HTTPException(404)
        return source


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


async def _tell(call: Callable[[], Any], _request: Request) -> Response:
    return JSONResponse(call())


async def _send_file(content: bytes, name: str, _request: Request) -> Response:
    return Response(content, media_type=mimetypes.guess_type(name)[0] or "application/octet-stream")


async def _not_there(_request: Request, error: Exception) -> Response:
    status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "")
    reason = f"expected {STATUS_OF_HTTP[status]}" if status in STATUS_OF_HTTP else detail
    return failure(status, reason, getattr(error, "headers", None))


async def _failed(_request: Request, error: Exception) -> Response:
    return failure(415 if isinstance(error, (ImageError, InputError)) else 503, str(error))


def _event(kind: str, content: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n"
