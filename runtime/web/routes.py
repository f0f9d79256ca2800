"""Answers requests: the page's files, the API under /api/v1 and the login, all behind one entrance."""

from __future__ import annotations

import asyncio
import json
import mimetypes
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import HybridEdgeError, ImageError, InputError
from .access import Access
from .entrance import COOKIE, Entrance, client_of, failure, read_body

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .live_state import LiveState
    from .motion_jpeg import MotionJpeg
    from .workbench import Workbench

API = "/api/v1"
FOLDER = Path(__file__).parent / "static"
MAX_BODY = 2**25  # 32 MiB
MAX_LOGIN = 2**12  # 4 KiB
MAX_LOGINS = 8  # whose form is being read
MAX_VIEWERS = 16  # of pictures
MAX_LISTENERS = 32  # of events
EVENT_PERIOD = 0.2  # seconds between two events of a kind
AGAIN_AFTER = 0.25  # seconds after which a picture that no other follows is sent once more
BOUNDARY = "frame"
EXPECTED = {
    404: "expected an address of this page, or of its API, which /api/v1/openapi.json describes; found none",
    405: "expected another method of this address; /api/v1/openapi.json has those of the API",
}


class Routes:
    """This class answers what the entrance lets in, from a run's state, pictures and workbench.

    ``bundle`` returns what the API tells of the model.
    """

    def __init__(
        self,
        access: Access,
        state: LiveState,
        pictures: MotionJpeg,
        workbench: Workbench,
        bundle: Callable[[], Mapping[str, Any]],
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
            "bundle": bundle,
        }
        self._listeners = self._logins = 0
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
            Route(
                f"{API}/openapi.json",
                partial(_send_file, (FOLDER.parent / "openapi.json").read_bytes(), "openapi.json"),
            ),
            Route("/", partial(self._file, "index.html")),
            Route("/static/{name}", self._static),
            Route("/login", self._log_in, methods=["GET", "POST"]),
            Route("/logout", self._log_out, methods=["POST"]),
        ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: _not_there, HybridEdgeError: _failed})
        app.router.redirect_slashes = False
        return Entrance(app, self._access)

    def _tell_status(self) -> dict[str, Any]:
        return {**self._state.tell_status(), "viewers": self._pictures.viewers, "token": self._access.needs_token}

    async def _static(self, request: Request) -> Response:
        return await self._file(request.path_params["name"], request)

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
        source = self._source(request)
        picture = self._state.picture(source)
        if picture is None:
            raise HTTPException(404)
        name = f'attachment; filename="{source}-{time.strftime("%Y%m%d-%H%M%S")}.jpg"'
        with self._place():
            jpeg = await self._workbench.encode(picture)
        return Response(jpeg, media_type="image/jpeg", headers={"Content-Disposition": name})

    async def _classify(self, request: Request) -> Response:
        with self._place():
            return JSONResponse(await self._workbench.classify(await read_body(request, MAX_BODY)))

    async def _stream(self, request: Request) -> Response:
        source = self._source(request)
        if self._pictures.viewers >= MAX_VIEWERS:
            return failure(503, f"expected at most {MAX_VIEWERS} viewers, found as many; close one")
        return StreamingResponse(self._parts(source), media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")

    async def _parts(self, source: str) -> AsyncIterator[bytes]:
        number, jpeg, shown = 0, b"", True
        with self._pictures.watching(source):
            while True:
                # a browser shows a picture when the next one begins: where none comes, the same one follows itself
                try:
                    newest = self._pictures.after(source, number)
                    number, jpeg = await asyncio.wait_for(newest, None if shown else AGAIN_AFTER)
                    shown = False
                except (TimeoutError, asyncio.TimeoutError):
                    shown = True
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                yield b"%b%b\r\n" % (head.encode(), jpeg)

    async def _events(self, _request: Request) -> Response:
        if self._listeners >= MAX_LISTENERS:
            return failure(503, f"expected at most {MAX_LISTENERS} listeners, found as many; close a page")
        return StreamingResponse(self._messages(), media_type="text/event-stream")

    async def _messages(self) -> AsyncIterator[str]:
        sent: dict[str, int] = {}
        tells = {"status": self._tell_status, "sources": self._state.tell_sources, "latest": self._state.tell_latest}
        seen = self._state.revisions["fault"]
        self._listeners += 1
        try:
            yield "retry: 2000\n\n"
            while True:
                for kind, call in tells.items():
                    revision, text = self._message(kind, call)
                    if sent.get(kind) != revision:
                        sent[kind] = revision
                        yield text
                for number, fault in self._state.faults_after(seen):
                    seen = number
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
        if self._logins >= MAX_LOGINS:  # who has no token yet must not take all connections by forms that never end
            return failure(429, f"expected at most {MAX_LOGINS} logins at a time; try again", {"Retry-After": "1"})
        self._logins += 1
        try:
            form = parse_qs((await read_body(request, MAX_LOGIN)).decode("latin-1"), max_num_fields=4)
        finally:
            self._logins -= 1
        if not access.is_token(form.get("token", [""])[0], client) and access.needs_token:
            late = access.tries_later(client)
            if "text/html" in request.headers.get("accept", ""):
                return RedirectResponse(f"/login#{'wait' if late else 'wrong'}", 303)
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
            raise HTTPException(
                429, "expected fewer pictures at a time; try again in a few seconds", {"Retry-After": "5"}
            )
        return self._workbench.place()

    def _source(self, request: Request) -> str:
        source: str = request.path_params["id"]
        if not self._state.knows(source):
            raise HTTPException(404)
        return source


async def _tell(call: Callable[[], Any], _request: Request) -> Response:
    return JSONResponse(call())


async def _send_file(content: bytes, name: str, _request: Request) -> Response:
    return Response(content, media_type=mimetypes.guess_type(name)[0] or "application/octet-stream")


async def _not_there(_request: Request, error: Exception) -> Response:
    status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "")
    return failure(status, EXPECTED.get(status, detail), getattr(error, "headers", None))


async def _failed(_request: Request, error: Exception) -> Response:
    return failure(415 if isinstance(error, (ImageError, InputError)) else 503, str(error))


def _event(kind: str, content: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n"
