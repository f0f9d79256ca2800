"""A live page in this process, on a camera of plain frames, and a client that says just what it is told to say."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.infer_request import InferRequest
from hybrid_edge.runtime.outputs.sink import Sink
from hybrid_edge.runtime.pipeline.dataflow import Pipeline, PipelineOptions
from hybrid_edge.runtime.sources.events import Events
from hybrid_edge.runtime.web.live_page import LivePage
from support.live.pipelines import Camera, KeepingSink

PATIENCE = 20.0  # seconds, on a busy machine
TOKEN = "0123456789abcdef-a-token"  # noqa: S105  # of these tests


@dataclass(frozen=True)
class Answered:
    """What a server answered; ``status`` is 0 where it closed the connection without a word."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


def parse(raw: bytes) -> Answered:
    head, _, body = raw.partition(b"\r\n\r\n")
    if not head:
        return Answered(0, {}, b"")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _unchunked(body)
    return Answered(int(first.split()[1]), headers, body)


def _unchunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        found, body = found + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return found


class Served:
    """A pipeline with a live page that runs until the test is over, and a client of it."""

    def __init__(self, page: LivePage, pipeline: Pipeline, kept: KeepingSink, events: Events) -> None:
        self.page, self.pipeline, self.kept, self.events = page, pipeline, kept, events
        self.port = int(page.url.rstrip("/").rpartition(":")[2])
        self.tls = page.url.startswith("https")

    def connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        if not self.tls:
            return plain
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context.wrap_socket(plain)

    def say(self, sent: bytes, *, until: bytes | None = None) -> Answered:
        """Send bytes and return the answer: all of it, or as much as has ``until``."""
        with self.connect() as connection:
            received = b""
            try:
                connection.sendall(sent)
                while (until is None or until not in received) and (part := connection.recv(2**16)):
                    received += part
            except ConnectionError:
                pass  # it was answered, or not, before all was read
            return parse(received)

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        *,
        until: bytes | None = None,
        **headers: str | None,
    ) -> Answered:
        """Send one request; ``headers`` are named with underscores, and None leaves one out."""
        given: dict[str, str | None] = {"host": f"127.0.0.1:{self.port}", "connection": "close"}
        if body is not None:
            given["content-length"] = str(len(body))
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in given.items() if value is not None),
        ]
        return self.say("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""), until=until)

    def api(self, path: str, **headers: str | None) -> Any:
        answered = self.ask(f"/api/v1/{path}", **headers)
        assert answered.status == 200, answered
        return answered.json

    def until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not come"
            time.sleep(0.02)


@contextmanager
def serve(
    bundle: Path, *cameras: Any, web: str = "127.0.0.1:0", more: tuple[Sink, ...] = (), **request: Any
) -> Iterator[Served]:
    """Run a pipeline on cameras with the page, until the block is over; the first results have come by then."""
    captures = cameras or (Camera(fps=30),)
    stop, events, kept = threading.Event(), Events(), KeepingSink(keep_images=False)
    page = LivePage(InferRequest(tuple(item.name for item in captures), web=web, **request), captures)
    with Classifier.load(bundle, check=False) as classifier:
        pipeline = Pipeline(classifier, captures, [kept, page, *more], PipelineOptions(), events)
        page.start(classifier, pipeline.ask)
        thread = threading.Thread(target=pipeline.run, args=(stop,), daemon=True)
        thread.start()
        served = Served(page, pipeline, kept, events)
        try:
            served.until(lambda: kept.statuses, "the first status")
            yield served
        finally:
            stop.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()
