"""Fetching from a real HTTP server that cuts, changes, redirects, lies and refuses."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import UpdateError
from hybrid_edge.runtime.trust import Trust
from hybrid_edge.runtime.update import fetch as fetching
from hybrid_edge.runtime.update.fetch import MIB, fetch, is_address
from hybrid_edge.runtime.update.update_bundle import UpdateRequest, update

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class Files:
    """A server of one file.

    Attributes:
        content, tag: the file and its ETag; without a tag the server has none.
        cuts: after how many bytes each of the next answers breaks off.
        status: with which every request is answered, in place of the file.
        location: where it redirects to.
        requests: the range that each request asked for; ``users``: its Authorization.
    """

    content: bytes = CONTENT
    tag: str | None = '"one"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    status: int = 200
    location: str | None = None
    declares: bool = True
    requests: list[str | None] = field(default_factory=list)
    users: list[str | None] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.requests.append(wanted)
        self.users.append(handler.headers.get("Authorization"))
        begins = 0
        if self.location or self.status != 200:
            handler.send_response(302 if self.location else self.status)
            handler.send_header("Location", self.location or "")
            handler.end_headers()
            return
        if wanted and self.ranges and handler.headers.get("If-Range") == self.tag:
            begins = int(wanted.removeprefix("bytes=").rstrip("-"))
        if begins >= len(self.content) and begins:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            handler.end_headers()
            return
        handler.send_response(206 if begins else 200)
        if begins:
            handler.send_header("Content-Range", f"bytes {begins}-{len(self.content) - 1}/{len(self.content)}")
        if self.tag:
            handler.send_header("ETag", self.tag)
        if self.declares:
            handler.send_header("Content-Length", str(len(self.content) - begins))
        handler.end_headers()
        rest = self.content[begins:]
        handler.wfile.write(rest[: self.cuts.pop(0)] if self.cuts else rest)


@pytest.fixture
def files() -> Iterator[Files]:
    served = Files()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):
                served.answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}/bundle.tar"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield served
        server.shutdown()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSES", (0.0, 0.0))


def get(files: Files, folder: Path, limit: int = 2 * MIB) -> bytes:
    return fetch(files.url, folder, limit, lambda *_: None).read_bytes()


def test_a_file_is_fetched_whole(files: Files, tmp_path: Path) -> None:
    assert get(files, tmp_path) == CONTENT
    assert files.requests == [None]


def test_a_download_that_is_cut_goes_on_where_it_was_cut(files: Files, tmp_path: Path) -> None:
    files.cuts = [300_000, 400_000, 100]
    assert get(files, tmp_path) == CONTENT
    assert files.requests[0] is None
    assert [int((item or "").strip("bytes=-")) for item in files.requests[1:]] == [300_000, 700_000, 700_100]


def test_a_later_process_goes_on_with_what_an_earlier_one_fetched(files: Files, tmp_path: Path) -> None:
    files.cuts = [200_000, 0, 0, 0, 0]
    with pytest.raises(UpdateError, match="start again to go on from there"):
        get(files, tmp_path)
    files.cuts = []
    assert get(files, tmp_path) == CONTENT
    assert files.requests[-1] == "bytes=200000-"


def test_a_file_that_is_another_one_by_now_is_fetched_from_its_beginning(files: Files, tmp_path: Path) -> None:
    files.cuts = [200_000, 0, 0, 0, 0]
    with pytest.raises(UpdateError):
        get(files, tmp_path)
    files.content, files.tag, files.cuts = CONTENT[::-1], '"two"', []
    assert get(files, tmp_path) == CONTENT[::-1]


@pytest.mark.parametrize(("tag", "ranges"), [(None, True), ('"one"', False), ('W/"weak"', True)])
def test_a_server_that_can_t_go_on_is_asked_for_the_whole(
    files: Files, tmp_path: Path, tag: str | None, ranges: bool
) -> None:
    files.tag, files.ranges, files.cuts = tag, ranges, [200_000]
    assert get(files, tmp_path) == CONTENT


def test_a_file_that_is_there_whole_is_not_fetched_again(files: Files, tmp_path: Path) -> None:
    get(files, tmp_path)
    assert get(files, tmp_path) == CONTENT
    assert files.requests[-1] == f"bytes={len(CONTENT)}-"


def test_a_file_that_shrank_is_fetched_anew(files: Files, tmp_path: Path) -> None:
    get(files, tmp_path)
    files.content = CONTENT[:1000]
    assert get(files, tmp_path) == CONTENT[:1000]


@pytest.mark.parametrize("declares", [True, False])
def test_a_file_over_the_limit_is_refused_and_not_kept(files: Files, tmp_path: Path, declares: bool) -> None:
    files.declares = declares
    with pytest.raises(UpdateError, match=r"expected at most 0\.5 MiB, found more; --max-size"):
        get(files, tmp_path, MIB // 2)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".json"]


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_final(files: Files, tmp_path: Path, status: int) -> None:
    files.status = status
    with pytest.raises(UpdateError, match=f"found HTTP {status}"):
        get(files, tmp_path)
    assert len(files.requests) == 1


def test_a_server_in_trouble_is_asked_again(files: Files, tmp_path: Path) -> None:
    files.status = 503
    with pytest.raises(UpdateError, match="breaks off"):
        get(files, tmp_path)
    assert len(files.requests) == 3


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_leads_to_no_other_kind_of_address(files: Files, tmp_path: Path, target: str) -> None:
    files.location = target
    with pytest.raises(UpdateError, match=r"redirect|found HTTP 302"):
        get(files, tmp_path)


def test_a_redirect_from_https_to_http_is_refused() -> None:
    import urllib.request

    request = urllib.request.Request("https://example.com/x")
    with pytest.raises(UpdateError, match="redirect from https to http"):
        fetching._SafeRedirects().redirect_request(request, None, 302, "", {}, "http://example.com/x")  # type: ignore[arg-type]


def test_a_user_and_password_are_sent_to_the_server_alone_and_never_shown(files: Files, tmp_path: Path) -> None:
    address = files.url.replace("://", "://anna:s%40cret@")
    assert fetch(address, tmp_path, 2 * MIB, lambda *_: None).read_bytes() == CONTENT
    assert files.users == ["Basic YW5uYTpzQGNyZXQ="]
    files.status = 403
    with pytest.raises(UpdateError) as refused:
        fetch(address + "?", tmp_path, MIB, lambda *_: None)
    assert "cret" not in str(refused.value)
    files.location, files.status = files.url.replace("127.0.0.1", "localhost") + "2", 200
    with contextlib.suppress(UpdateError):
        fetch(address + "?x", tmp_path, MIB, lambda *_: None)
    assert files.users[2:] == ["Basic YW5uYTpzQGNyZXQ=", *[None] * len(files.users[3:])]


def test_nobody_listening_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UpdateError, match="Connection refused"):
        fetch("http://127.0.0.1:9/x.tar", tmp_path, MIB, lambda *_: None)


@pytest.mark.parametrize(
    ("source", "address"),
    [("https://a/b.tar", True), ("http://a", True), ("b.tar", False), ("/a/http:/b", False), ("ftp://a", False)],
)
def test_addresses_are_told_from_paths(source: str, address: bool) -> None:
    assert is_address(source) is address


def test_a_bundle_is_fetched_verified_and_installed(files: Files, packed: Path, tmp_path: Path) -> None:
    files.content, files.cuts = packed.read_bytes(), [1000]
    fingerprint = Bundle.open(packed).fingerprint
    link = tmp_path / "device" / "bundle"
    done = update(UpdateRequest(files.url, link, Trust((fingerprint,))))
    assert (done.fingerprint, done.switched) == (fingerprint, True)
    assert not list(link.parent.glob("bundle.versions/.*"))
