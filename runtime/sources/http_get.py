"""Make an HTTP GET in which every wait ends, with redirects and Basic and Digest passwords; the body is not awaited."""

from __future__ import annotations

import base64
import http.client
import io
import re
import threading
import time
from dataclasses import dataclass
from email.message import Message
from urllib.error import URLError
from urllib.parse import SplitResult, unquote, urljoin
from urllib.request import (
    AbstractDigestAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    Request,
    parse_http_list,
    parse_keqv_list,
)

from ..errors import SourceError, UsageError
from .names import split_url
from .wire import Wire

__all__ = ["Answer", "get"]

TIME = 3.0  # seconds for the whole request, below what connecting again may take
MAX_HEAD = 2**16
STATUS = re.compile(r"\d{3}\Z", re.ASCII)
MAX_REQUESTS = 5  # redirects, and one repetition with the password


@dataclass(frozen=True)
class Answer:
    """This is the response to a GET.

    Attributes:
        wire: the open connection, over which the body comes.
        status: the HTTP status, as in 200 or 404.
        reason: the server's words for the status.
        head: the header fields.
        rest: the bytes of the body that came with the header.
    """

    wire: Wire
    status: int
    reason: str
    head: Message
    rest: bytes


def get(url: str, stop: threading.Event) -> Answer:
    """GET a URL; its name and password are sent to its own host only.

    Returns:
        A response with status 200; its ``wire`` is the caller's to close.

    Raises:
        SourceError: there was no connection or no complete header within ``TIME``, the status is another one, or
            ``stop`` was set.
    """
    deadline = time.monotonic() + TIME
    authorization = None
    for _ in range(MAX_REQUESTS):
        answer = _request(url, authorization, stop, deadline)
        if answer.status == 200:
            return answer
        answer.wire.close()
        if answer.status in (301, 302, 303, 307, 308) and answer.head.get("Location"):
            url, authorization = _redirected(url, str(answer.head["Location"])), None
        elif answer.status == 401 and authorization is None:
            authorization = _authorize(url, answer.head)
        else:
            hint = ": wrong name or password" if answer.status in (401, 403) else ""
            raise SourceError(f"expected 200 OK, found {answer.status} {answer.reason}{hint}")
    raise SourceError("the server redirects in a circle")


def _request(url: str, authorization: str | None, stop: threading.Event, deadline: float) -> Answer:
    parts, host, port = split_url(url)
    wire = Wire(host, port, stop, deadline, tls=parts.scheme.lower() == "https")
    try:
        fields = [
            f"GET {_target(parts)} HTTP/1.0",  # version 1.0, as it has no chunked answers
            f"Host: {parts.netloc.rpartition('@')[2]}",
            "User-Agent: hybrid-edge",
            "Accept: multipart/x-mixed-replace, image/jpeg",
            *([f"Authorization: {authorization}"] if authorization else []),
        ]
        wire.send("\r\n".join([*fields, "\r\n"]).encode("utf-8"), deadline)
        return _head(wire, deadline)
    except BaseException:
        wire.close()
        raise


def _head(wire: Wire, deadline: float) -> Answer:
    """Read the answer up to the end of its header."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        more = wire.receive(deadline)
        if not more or len(data) > MAX_HEAD:
            found = "silence" if more is None else f"{data[:40]!r}"
            raise SourceError(f"expected an HTTP response within {TIME:.0f} s, found {found}")
        data += more
    line, _, fields = data[: end + 4].partition(b"\r\n")
    version, status, *reason = [*line.decode("latin-1").split(" ", 2), "", ""]
    if not version.startswith(("HTTP/", "ICY")) or not STATUS.match(status):
        raise SourceError(f"expected an HTTP response, found {line[:40]!r}")
    try:
        head = http.client.parse_headers(io.BytesIO(fields))
    except http.client.HTTPException as error:
        raise SourceError(f"expected an HTTP header, found one with {error}") from None
    return Answer(wire, int(status), reason[0], head, data[end + 4 :])


def _target(parts: SplitResult) -> str:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return target.replace(" ", "%20")


def _redirected(url: str, location: str) -> str:
    """Return where a redirect leads; the name and password go only to the same host, and never out of TLS."""
    try:
        new = urljoin(url, location)
        before, host, _ = split_url(url)
        after, target, _ = split_url(new)
    except (UsageError, KeyError, ValueError):
        raise SourceError("the server redirects to something that is no http(s) URL") from None
    bared = before.scheme.lower() == "https" and after.scheme.lower() != "https"
    if "@" in before.netloc and "@" not in after.netloc and host == target and not bared:
        new = after._replace(netloc=f"{before.netloc.rpartition('@')[0]}@{after.netloc}").geturl()
    return new


def _authorize(url: str, head: Message) -> str:
    """Return the Authorization field that answers a 401."""
    parts, host, _ = split_url(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    challenges = [str(value) for value in head.get_all("WWW-Authenticate", [])]
    digest = next((value[7:] for value in challenges if value.lower().startswith("digest ")), None)
    if not user:
        raise SourceError(f"the server wants a name and password: {parts.scheme}://NAME:PASSWORD@{host}/…")
    if digest is None:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    passwords = HTTPPasswordMgrWithDefaultRealm()
    request = Request(f"http://{host}{_target(parts)}")  # never sent: it is what the digest is computed for
    passwords.add_password(None, request.full_url, user, password)
    try:
        answer = AbstractDigestAuthHandler(passwords).get_authorization(
            request, parse_keqv_list(parse_http_list(digest))
        )
    except (ValueError, URLError) as error:
        raise SourceError(f"the server wants a password in a way that is not known here: {error}") from None
    return f"Digest {answer}"
