"""Open TCP connections and make HTTP requests on which nobody waits for longer than a deadline or a stop allow."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin
from urllib.request import parse_http_list

from ..errors import SourceError, UsageError
from .blocking import run_aside
from .names import split_url

POLL_INTERVAL = 0.1  # seconds between two looks at ``stop``
HTTP_TIMEOUT = 3.0  # seconds to the end of the response's header, below what connecting again may take
MAX_REQUESTS = 6  # redirects, and repetitions with the password
BUFFER_SIZE = 2**16
# hashlib's names, the strongest first
DIGESTS = {"SHA-512-256": "sha512_256", "SHA-256": "sha256", "SHA": "sha1", "MD5": "md5"}
URL_CHARACTERS = "".join(map(chr, range(0x21, 0x7F)))  # all that is visible in ASCII; the rest is percent-encoded
ADDRESS_TIMEOUT = 1.2  # seconds for each address of a name: one can be IPv6 where the way to the camera has none


class NetworkStream(io.RawIOBase):
    """This is one TCP connection as a file to read, whose reads end with a TimeoutError at a deadline or on a stop.

    ``address`` is the numeric address that answered, and ``deadline`` the ``time.monotonic()`` at which a read ends,
    whoever drips bytes meanwhile.
    """

    def __init__(self, connection: socket.socket, stop: threading.Event, deadline: float) -> None:
        """Take an open connection, which is closed with this stream."""
        connection.settimeout(POLL_INTERVAL)
        address, _, *ipv6 = connection.getpeername()
        self.address = (
            f"{address}%{ipv6[1]}" if any(ipv6[1:]) else str(address)
        )  # with the zone of a link's own address
        self.deadline = deadline
        self._socket = connection
        self._stop = stop

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer as soon as some have come; return how many, 0 at the end of the stream.

        Raises:
            SourceError: the connection failed, as when it was reset.
            TimeoutError: the deadline passed, or ``stop`` was set.
        """
        try:
            while not self._stop.is_set() and time.monotonic() < self.deadline:
                with suppress(TimeoutError):
                    return self._socket.recv_into(buffer)
        except OSError as error:
            raise SourceError(f"the connection ended: {_reason(error)}") from None
        raise TimeoutError("stopped" if self._stop.is_set() else "nothing came in time")

    def send(self, data: bytes) -> None:
        """Send a request, which has to be so short that it fits into the system's buffer."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise SourceError(f"the connection ended: {_reason(error)}") from None

    def close(self) -> None:
        """Close the connection, without waiting for the other side."""
        super().close()
        self._socket.close()


def connect(host: str, port: int, stop: threading.Event, deadline: float, *, tls: bool = False) -> NetworkStream:
    """Connect to a server on another thread, as neither the name service nor a TLS handshake can be interrupted.

    Each of the host's addresses is tried; TLS verifies the certificate. Setting ``stop`` ends this wait and every later
    one. ``deadline`` is the ``time.monotonic()`` by which the connection must stand, and the first of the stream's.
    """
    try:
        return NetworkStream(
            run_aside(lambda: _dial(host, port, deadline, tls), socket.socket.close, stop, deadline=deadline),
            stop,
            deadline,
        )
    except ssl.SSLCertVerificationError as error:
        raise SourceError(
            f"nobody vouches for the server's certificate: {error.verify_message}; one of your own is made known "
            "by SSL_CERT_FILE"
        ) from None
    except (socket.gaierror, ValueError) as error:  # ValueError: a name that no host can have
        raise SourceError(f"unknown host {host}: {_reason(error)}") from None
    except TimeoutError:
        raise SourceError(f"no answer from {host} in time: neither from the name service nor from the host") from None
    except OSError as error:
        raise SourceError(f"no connection to port {port}: {_reason(error)}") from None


def _dial(host: str, port: int, deadline: float, tls: bool) -> socket.socket:
    connection = socket.create_connection((host, port), ADDRESS_TIMEOUT)
    if not tls:
        return connection
    try:
        connection.settimeout(max(deadline - time.monotonic(), POLL_INTERVAL))  # of the handshake as a whole
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


class _ResponseFile(io.BufferedReader):
    """This file is what HTTPResponse reads from.

    It takes ICY, as some small cameras answer, for HTTP, and puts a header before pictures that begin without one.
    """

    def __init__(self, stream: NetworkStream) -> None:
        super().__init__(stream, BUFFER_SIZE)
        bare = self.peek(1).lstrip().startswith((b"--", b"\xff\xd8"))
        self._header = [b"\r\n", b"HTTP/1.0 200 OK\r\n"] if bare else []

    def makefile(self, _mode: str) -> _ResponseFile:
        return self

    def readline(self, size: int | None = -1) -> bytes:
        line = self._header.pop() if self._header else super().readline(size)
        return b"HTTP/1.0" + line[3:] if line.startswith(b"ICY ") else line


def http_get(url: str, stop: threading.Event, *, accept: str) -> tuple[HTTPResponse, NetworkStream]:
    """GET a URL; its name and password, and the cookies that come on the way, are sent to their own host only.

    A response with status 200 is returned, and the stream that its body comes over, which is the caller's to close.
    ``accept`` is the media types that are wanted; setting ``stop`` ends this wait and those for the body.

    Raises:
        SourceError: there was no connection or no complete header within ``HTTP_TIMEOUT``, the status is another one,
            or ``stop`` was set.
    """
    deadline = time.monotonic() + HTTP_TIMEOUT
    authorization = None
    cookies: dict[tuple[str, str], str] = {}  # their values, by host and name
    for _ in range(MAX_REQUESTS):
        host = split_url(url)[1]
        fields = [f"Accept: {accept}", "Accept-Encoding: identity"]
        fields += [f"Authorization: {authorization}"] if authorization else []
        kept = [f"{name}={value}" for (owner, name), value in cookies.items() if owner == host]
        fields += [f"Cookie: {'; '.join(kept)}"] if kept else []
        response, stream = _request(url, fields, stop, deadline)
        if response.status == 200:
            return response, stream
        stream.close()
        for cookie in response.headers.get_all("Set-Cookie", []):
            name, _, value = cookie.partition(";")[0].strip().partition("=")
            cookies[host, name] = value
        location = response.headers.get("Location")
        challenges = list(_challenges(response.headers.get_all("WWW-Authenticate", [])))
        stale = any(challenge.get("stale", "").lower() == "true" for _, challenge in challenges)
        if response.status in (301, 302, 303, 307, 308) and location:
            url, authorization = _redirected(url, location), None
        elif response.status == 401 and (authorization is None or stale):
            authorization = _authorize(url, challenges)
        else:
            hint = ": wrong name or password" if response.status in (401, 403) else ""
            raise SourceError(f"expected 200 OK, found {response.status} {response.reason}{hint}")
    raise SourceError("the server redirects in a circle, or never takes the password")


def _request(url: str, fields: list[str], stop: threading.Event, deadline: float) -> tuple[HTTPResponse, NetworkStream]:
    parts, host, port = split_url(url)
    stream = connect(host, port, stop, deadline, tls=parts.scheme.lower() == "https")
    try:
        # of version 1.0, as that has no chunked responses; a zone is a name of this machine's alone
        fields = [
            f"GET {_target(parts)} HTTP/1.0",
            f"Host: {re.sub('%[^]]*', '', parts.netloc.rpartition('@')[2])}",
            "User-Agent: hybrid-edge",
            *fields,
            "\r\n",
        ]
        stream.send("\r\n".join(fields).encode(errors="surrogateescape"))
        response = HTTPResponse(_ResponseFile(stream))  # type: ignore[arg-type]  # all it asks of a socket
        response.begin()
        if response.headers.get_content_maintype() != "image":
            response.length = None  # of a stream that has no end, some servers announce one
    except (HTTPException, TimeoutError) as error:
        stream.close()
        found = "silence" if isinstance(error, TimeoutError) else repr(str(error)[:40])
        raise SourceError(f"expected an HTTP response within {HTTP_TIMEOUT:.0f} s, found {found}") from None
    except BaseException:
        stream.close()
        raise
    return response, stream


def _target(parts: SplitResult) -> str:
    return quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), URL_CHARACTERS)


def _redirected(url: str, location: str) -> str:
    """Return where a redirect leads; the name and password go only to the same host, and never out of TLS."""
    try:
        new = urljoin(url, quote(location, URL_CHARACTERS, "latin-1"))  # the bytes that came, whatever they mean
        before, host, _ = split_url(url)
        after, target, _ = split_url(new)
        if after.scheme.lower() not in ("http", "https"):
            raise ValueError(after.scheme)
    except (UsageError, KeyError, ValueError):
        raise SourceError("the server redirects to something that is no http(s) URL") from None
    bared = before.scheme.lower() == "https" and after.scheme.lower() != "https"
    if "@" in before.netloc and "@" not in after.netloc and host == target and not bared:
        new = after._replace(netloc=f"{before.netloc.rpartition('@')[0]}@{after.netloc}").geturl()
    return new


def _authorize(url: str, challenges: list[tuple[str, dict[str, str]]]) -> str:
    """Return the Authorization field that answers the strongest challenge of a 401 that can be answered."""
    parts, host, _ = split_url(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user:
        raise SourceError(f"the server wants a name and password: {parts.scheme}://NAME:PASSWORD@{host}/…")
    for algorithm, hash_name in DIGESTS.items():
        for scheme, challenge in challenges:
            kind = challenge.get("algorithm", "MD5").upper().removesuffix("-SESS")
            if scheme == "digest" and kind == algorithm and _qualities(challenge) and "nonce" in challenge:
                return _digest(challenge, hash_name, user, password, _target(parts))
    schemes = {scheme for scheme, _ in challenges}
    if schemes and "basic" not in schemes:
        found = ", ".join(" ".join([scheme, *map("=".join, challenge.items())]) for scheme, challenge in challenges)
        raise SourceError(f"the server wants a password in a way that is not known here: {found}")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _qualities(challenge: Mapping[str, str]) -> list[str]:
    """Return the known qualities of protection that a challenge offers, the empty one of RFC 2069 where it has none."""
    offered = [quality.strip().lower() for quality in challenge.get("qop", "").split(",")]
    return [quality for quality in ("auth", "auth-int", "") if quality in offered]


def _challenges(fields: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each challenge's scheme and parameters, names in lower case; a field may hold several, with commas."""
    texts = [field.encode("latin-1").decode(errors="surrogateescape") for field in fields]
    items = [item for text in texts for item in parse_http_list(text)]
    starts = [place for place, item in enumerate(items) if " " in item.partition("=")[0].strip() or "=" not in item]
    for start, end in zip(starts, [*starts[1:], len(items)], strict=False):
        scheme, _, first = items[start].strip().partition(" ")
        parameters = [item.partition("=") for item in (first, *items[start + 1 : end])]
        yield (
            scheme.lower(),
            {name.strip().lower(): text.strip().removeprefix('"').removesuffix('"') for name, _, text in parameters},
        )


def _digest(challenge: Mapping[str, str], hash_name: str, user: str, password: str, target: str) -> str:
    """Return a digest as RFC 7616 has it, or RFC 2069 where the server names no quality of protection."""

    def hashed(*parts: str) -> str:
        data = ":".join(parts).encode(errors="surrogateescape")
        return hashlib.new(hash_name, data, usedforsecurity=False).hexdigest()

    def quoted(value: str) -> str:
        return '"{}"'.format(re.sub(r'(["\\])', r"\\\1", value))

    realm, nonce, client_nonce, count = challenge.get("realm", ""), challenge["nonce"], secrets.token_hex(8), "00000001"
    secret = hashed(user, realm, password)
    session = challenge.get("algorithm", "").upper().endswith("-SESS")
    if session:
        secret = hashed(secret, nonce, client_nonce)
    quality = _qualities(challenge)[0]
    call = hashed("GET", target, hashed("")) if quality == "auth-int" else hashed("GET", target)
    response = hashed(secret, nonce, *([count, client_nonce, quality] if quality else []), call)
    hidden = challenge.get("userhash", "").lower() == "true"
    fields = {"username": quoted(hashed(user, realm) if hidden else user), "realm": quoted(realm)}
    fields |= {"nonce": quoted(nonce), "uri": quoted(target), "response": quoted(response)}
    fields |= {"opaque": quoted(challenge["opaque"])} if "opaque" in challenge else {}
    fields |= {"algorithm": challenge["algorithm"]} if "algorithm" in challenge else {}
    fields |= {"cnonce": quoted(client_nonce)} if quality or session else {}
    fields |= {"qop": quality, "nc": count} if quality else {}
    fields |= {"userhash": "true"} if hidden else {}
    return "Digest " + ", ".join(map("=".join, fields.items()))
