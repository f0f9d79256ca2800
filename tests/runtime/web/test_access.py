import http.cookies
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from support.live.pipelines import Camera
from support.live.web_client import TOKEN, Served, serve

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.infer_request import InferRequest
from hybrid_edge.runtime.web.access import MIN_TOKEN, Access, Rate, WebAddress, listen, read_token
from hybrid_edge.runtime.web.live_page import LivePage

ELSEWHERE = WebAddress("0.0.0.0", 8787, loopback=False, everywhere=True)  # noqa: S104  # nothing is opened
FORM = "application/x-www-form-urlencoded"


def login(served: Served, token: str, **headers: str | None) -> tuple[int, dict[str, http.cookies.Morsel[str]], str]:
    answered = served.ask("/login", "POST", f"token={token}".encode(), content_type=FORM, **headers)
    cookies = http.cookies.SimpleCookie(answered.headers.get("set-cookie", ""))
    return answered.status, dict(cookies.items()), answered.headers.get("location", "")


def test_without_a_token_nothing_is_told_but_the_login(guarded: Served) -> None:
    for path in ("status", "sources", "latest", "events", "bundle", "openapi.json", "sources/camera/stream", "x"):
        refused = guarded.ask(f"/api/v1/{path}")
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert guarded.ask("/api/v1/classify", "POST", b"x").status == 401
    assert guarded.ask("/logout", "POST").status == 401
    assert guarded.ask("/static/live.js").status == 401
    assert guarded.ask("/").headers["location"] == "/login"
    assert guarded.ask("/login").status == 200
    assert guarded.ask("/static/page.css").status == 200


def test_a_login_gives_a_cookie_that_no_script_and_no_other_site_gets_and_no_token_is_in_it(
    guarded: Served,
) -> None:
    status, cookies, place = login(guarded, TOKEN, origin=f"http://127.0.0.1:{guarded.port}")
    assert (status, place) == (303, "/")
    cookie = cookies["hybrid_edge_session"]
    assert cookie["httponly"]
    assert cookie["samesite"] == "strict"
    assert cookie["path"] == "/"
    assert TOKEN not in cookie.value
    session = f"hybrid_edge_session={cookie.value}"
    assert guarded.ask("/api/v1/status", cookie=session).status == 200
    assert guarded.ask("/api/v1/status", cookie=f"{session}x").status == 401
    assert guarded.ask("/logout", "POST", b"", cookie=session).headers["location"] == "/login"
    assert guarded.ask("/api/v1/status", cookie=session).status == 401


def test_the_token_as_a_bearer_is_let_in_and_a_wrong_one_is_not(guarded: Served) -> None:
    assert guarded.ask("/api/v1/status", authorization=f"Bearer {TOKEN}").status == 200
    assert guarded.ask("/api/v1/status", authorization=f"bearer {TOKEN}").status == 200
    for wrong in (f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", TOKEN, "Bearer \xff"):
        assert guarded.ask("/api/v1/status", authorization=wrong).status == 401
    assert guarded.ask("/api/v1/status", cookie=f"hybrid_edge_session={TOKEN}").status == 401


def test_a_wrong_token_is_told_to_a_person_and_to_a_program(
    hostile_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_EDGE_WEB_TOKEN", TOKEN)
    with serve(hostile_bundle) as served:
        assert login(served, "wrong", accept="text/html")[::2] == (303, "/login#wrong")
        assert login(served, "wrong")[0] == 401
        found = [login(served, "wrong")[0] for _ in range(12)]
        assert found[-1] == 429
        assert login(served, TOKEN)[0] == 429  # not even looked at
        assert login(served, "x", accept="text/html")[::2] == (303, "/login#wait")
        assert served.ask("/login", "POST", bytes(5000)).status == 413


def test_a_session_ends_by_itself_and_of_many_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(ELSEWHERE, TOKEN, tls=False)
    sessions = [access.log_in() for _ in range(65)]
    assert [access.holds_token(None, session, "") for session in sessions[:2]] == [False, True]
    monkeypatch.setattr("hybrid_edge.runtime.web.access.SESSION_TIME", -1.0)
    assert not access.holds_token(None, access.log_in(), "")


def test_a_rate_lets_a_burst_pass_and_then_so_many_a_second() -> None:
    rate = Rate(3, 2)
    waits = [rate.take() for _ in range(5)]
    assert waits[:3] == [0, 0, 0]
    assert 0 < waits[3] <= 0.5 < waits[4] <= 1
    assert rate.spent


def test_who_failed_often_is_not_looked_at_and_others_are() -> None:
    access = Access(ELSEWHERE, TOKEN, tls=False)
    for _ in range(10):
        assert not access.is_token("wrong", "10.0.0.9")
    assert not access.is_token(TOKEN, "10.0.0.9")
    assert access.is_token(TOKEN, "10.0.0.8")


def test_where_all_addresses_are_served_only_numbers_are_hosts() -> None:
    access = Access(ELSEWHERE, TOKEN, tls=False)
    for host in ("192.168.1.20:8787", "[fe80::1]:8787", "localhost:8787", "127.0.0.1:8787"):
        assert access.stranger("GET", {"host": host}) is None
    for host in ("camera.local:8787", "evil.com:8787", "192.168.1.20", "192.168.1.20:80", "192.168.1.20.evil.com:8787"):
        assert "expected a Host" in (access.stranger("GET", {"host": host}) or "")


def test_a_name_that_was_given_is_answered_to_and_the_usual_port_may_be_left_out() -> None:
    access = Access(WebAddress("camera.example", 443, loopback=False, everywhere=False), TOKEN, tls=True)
    assert access.stranger("POST", {"host": "camera.example", "origin": "https://camera.example"}) is None
    assert access.stranger("GET", {"host": "camera.example:443"}) is None
    assert access.stranger("GET", {"host": "127.0.0.1:443"}) is not None
    assert access.stranger("POST", {"host": "camera.example", "origin": "http://camera.example"}) is not None


def test_others_than_this_machine_need_a_token_and_are_told_how_to_make_one() -> None:
    with pytest.raises(UsageError, match=r"--web 0\.0\.0\.0:8787: expected a token.*openssl rand -hex 32"):
        Access(ELSEWHERE, None, tls=False)


@pytest.mark.parametrize("text", ["", "short", "a" * (MIN_TOKEN - 1), "with blanks inside it all", "ümlaut" * 4])
def test_a_weak_token_is_refused_without_being_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.delenv("HYBRID_EDGE_WEB_TOKEN", raising=False)
    (tmp_path / "token").write_text(text)
    with pytest.raises(UsageError, match="openssl rand -hex 32") as refused:
        read_token(tmp_path / "token")
    assert not text or text not in str(refused.value).replace("--web-token-file", "")


def test_a_token_comes_from_a_file_before_the_environment_and_is_no_longer_in_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    monkeypatch.setenv("HYBRID_EDGE_WEB_TOKEN", "another-token-of-sixteen")
    assert read_token(tmp_path / "token") == TOKEN
    assert read_token(None) is None
    with pytest.raises(UsageError, match="No such file"):
        read_token(tmp_path / "nothing")


@pytest.mark.parametrize(
    "text", ["", "8787", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:8787", "a b:1", ":8787"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        listen(text)


def test_a_port_in_use_and_a_foreign_address_are_wrong_usage_before_anything_is_built() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"--web 127\.0\.0\.1:{port}: .*already in use"):
            LivePage(InferRequest(("camera",), web=f"127.0.0.1:{port}"), [Camera()])
    with pytest.raises(UsageError, match=r"--web 192\.0\.2\.1:8787: expected an address of this machine"):
        listen("192.0.2.1:8787")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = folder / "cert.pem", folder / "key.pem"
    subprocess.run([*made, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def test_with_a_certificate_all_is_by_https_and_the_cookie_goes_no_other_way(
    hostile_bundle: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_EDGE_WEB_TOKEN", TOKEN)
    with serve(hostile_bundle, web_cert=certificate[0], web_key=certificate[1]) as served:
        assert served.page.url.startswith("https://127.0.0.1:")
        status, cookies, _ = login(served, TOKEN, origin=f"https://127.0.0.1:{served.port}")
        assert status == 303
        assert cookies["hybrid_edge_session"]["secure"]
        assert login(served, TOKEN, origin=f"http://127.0.0.1:{served.port}")[0] == 403
        with socket.create_connection(("127.0.0.1", served.port), 10) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"HTTP" not in plain.recv(100)
        assert served.ask("/api/v1/status", authorization=f"Bearer {TOKEN}").status == 200


def test_a_certificate_without_its_key_is_wrong_usage(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="--web-cert FILE and --web-key FILE together"):
        InferRequest(("camera",), web="127.0.0.1:0", web_cert=certificate[0])
    with pytest.raises(UsageError, match="expected a certificate and its private key"):
        LivePage(InferRequest(("c",), web="127.0.0.1:0", web_cert=certificate[0], web_key=certificate[0]), [Camera()])
    with pytest.raises(UsageError, match="add --web"):
        InferRequest(("camera",), web_token_file=tmp_path)
