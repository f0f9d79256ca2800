"""Attacks on the live page, each through a socket against the server that a run starts: none gets through."""

import pytest
from support.live.web_client import TOKEN, Served

API = "/api/v1/status"


@pytest.mark.parametrize(
    "host",
    [
        "evil.com:{port}",
        "127.evil.com:{port}",
        "127.0.0.1.evil.com:{port}",
        "localhost.evil.com:{port}",
        "evil.com@127.0.0.1:{port}",
        "127.0.0.1:{port}.evil.com",
        "127.0.0.1",
        "127.0.0.1:1",
        "192.168.1.20:{port}",
        "[::2]:{port}",
        "",
        None,
    ],
)
def test_a_foreign_host_is_refused_so_that_rebinding_a_name_gives_nothing(served: Served, host: str | None) -> None:
    for path in (API, "/", "/static/page.css", "/login"):
        answered = served.ask(path, host=None if host is None else host.format(port=served.port))
        assert answered.status in (400, 403)
        assert b"seconds" not in answered.body


def test_two_hosts_are_refused(served: Served) -> None:
    ours = f"Host: 127.0.0.1:{served.port}\r\n"
    sent = f"GET {API} HTTP/1.1\r\n{ours}Host: evil.com\r\nConnection: close\r\n\r\n"
    assert served.say(sent.encode()).status == 400


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_every_name_of_this_machine_is_let_in(served: Served, name: str) -> None:
    assert served.ask(API, host=f"{name}:{served.port}").status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.com",
        "null",
        "http://127.0.0.1",
        "https://127.0.0.1:{port}",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.com",
        "",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/classify"),
        ("POST", "/login"),
        ("POST", "/logout"),
        ("GET", "/api/v1/events"),
        ("GET", "/api/v1/sources/camera/stream"),
    ],
)
def test_a_foreign_origin_is_refused(served: Served, method: str, path: str, origin: str) -> None:
    answered = served.ask(path, method, b"" if method == "POST" else None, origin=origin.format(port=served.port))
    assert answered.status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_what_a_browser_says_comes_from_another_site_is_refused_without_an_origin_too(
    served: Served, site: str
) -> None:
    assert served.ask("/api/v1/classify", "POST", b"x", sec_fetch_site=site).status == 403
    assert served.ask("/api/v1/sources/camera/stream", sec_fetch_site=site, sec_fetch_dest="image").status == 403
    frame = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}
    assert served.ask("/", **frame).status == 403
    assert served.ask("/", **{**frame, "sec_fetch_dest": "document"}).status in (200, 404)  # a link to the page


def test_no_answer_may_be_framed_kept_or_taken_for_something_else(served: Served) -> None:
    for path in ("/", API, "/login", "/nothing", "/api/v1/openapi.json"):
        headers = served.ask(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == ("same-origin" if path == "/login" else "no-referrer")
        assert not {"server", "access-control-allow-origin"} & set(headers)


@pytest.mark.parametrize(
    "path",
    [f"{API}?token={TOKEN}", f"{API}?access_token={TOKEN}", f"/?token={TOKEN}", f"{API}?hybrid_edge_session={TOKEN}"],
)
def test_a_token_in_the_address_is_no_token(guarded: Served, path: str) -> None:
    answered = guarded.ask(path)
    assert answered.status in (303, 401)
    assert "set-cookie" not in answered.headers


@pytest.mark.parametrize(
    "path",
    [
        "/static/../access.py",
        "/static/..%2faccess.py",
        "/static/%2e%2e/access.py",
        "/static/%2e%2e%2faccess.py",
        "/static/..%5caccess.py",
        "/static/%252e%252e%252faccess.py",
        "/static/..%c0%afaccess.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/page.css%00.py",
        "/static/",
        "/static",
        "/api/v1/sources/..%2f..%2f/snapshot",
        "/api/v1/../../etc/passwd",
        "//etc/passwd",
        "http://127.0.0.1/static/../access.py",
    ],
)
def test_no_path_leads_out_of_the_pages_files(served: Served, path: str) -> None:
    answered = served.ask(path)
    assert answered.status in (400, 404)
    assert b"import" not in answered.body
    assert b"root:" not in answered.body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "POST", "BREW"])
def test_other_methods_do_nothing(served: Served, method: str) -> None:
    assert served.ask(API, method).status in (400, 404, 405)
    assert served.ask("/", method).status in (400, 404, 405)


def test_a_websocket_is_not_opened(served: Served) -> None:
    upgrade = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": "13"}
    answered = served.ask(API, **upgrade, sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==", until=b"}")
    assert answered.status == 200  # as if nothing had been asked
    assert "upgrade" not in answered.headers


def test_what_is_no_http_is_refused(served: Served) -> None:
    for sent in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"GET\x00 / HTTP/1.1\r\n\r\n",
        b"\r\n" * 9000,
    ):
        assert served.say(sent).status in (0, 400)


def test_smuggled_lengths_are_refused(served: Served) -> None:
    head = f"POST /api/v1/classify HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n"
    for wrong in ("Content-Length: 5\r\nContent-Length: 6\r\n", "Transfer-Encoding: chunked, identity\r\n"):
        assert served.say((head + wrong + "\r\n").encode() + b"12345").status in (0, 400, 501)


def test_names_with_markup_and_escapes_are_data(served: Served) -> None:
    hostile = next(item for item in served.api("sources") if "img" in item["name"])
    assert hostile["name"].startswith("<img src=x")
    for path in ("sources", "latest", "status", "bundle", "timeline"):
        answered = served.ask(f"/api/v1/{path}")
        assert answered.headers["content-type"] == "application/json"
        assert b"\x1b" not in answered.body
    assert hostile["id"].replace("-", "").replace("_", "").isalnum()
    refused = served.ask(f"/api/v1/latest?source={'%3Cscript%3E'}")
    assert refused.status == 404
    assert b"<script" not in refused.body


def test_answers_cannot_be_split_by_what_is_asked(served: Served) -> None:
    for path in ("/static/x%0d%0aSet-Cookie:%20a=b", "/login%0d%0aLocation:%20http://evil.com", "/%0d%0a"):
        answered = served.ask(path)
        assert answered.status == 404
        assert not {"set-cookie", "location"} & set(answered.headers)
