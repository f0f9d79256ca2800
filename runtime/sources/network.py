"""Open TCP connections and make HTTP requests on which nobody waits for longer than a deadline or a stop allow."""

from __future__ import annotations

import base64
import hashlib
import io
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin
from urllib.request import parse_http_list, parse_keqv_list

from ..errors import SourceError, UsageError
from .blocking import run_aside
from .names import split_url

POLL_INTERVAL = 0.1  # seconds between two looks at ``stop``
HTTP_TIMEOUT = 3.0  # seconds to the end of the response's header, below what connecting again may take
MAX_REQUESTS = 5  # redirects, and one repetition with the password
BUFFER_SIZE = 2**16
DIGESTS = {"SHA-256": "sha256", "SHA": "sha1", "MD5": "md5"}  # hashlib's names, the strongest first
ADDRESS_TIMEOUT = 1.2  # seconds for each address of a name: one can be IPv6 where the way to the camera has none


class NetworkStream(io.RawIOBase):
    """This is one TCP connection as a file to read, whose reads end with a TimeoutError at a deadline or on a stop.

    ``address`` is the numeric address that answered, and ``deadline`` the ``time.monotonic()`` at which a read ends,
    whoever drips bytes meanwhile.
    """

    def __init__(self, connection: socket.socket, stop: threading.Event, deadline: float) -> None:
        """Take an open connection, which is closed with this stream."""
        connection.settimeout(POLL_INTERVAL)
        self.address = str(connection.getpeername()[0])
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
    """This file is what HTTPResponse reads from; it takes ICY, as some small cameras answer, for HTTP."""

    def makefile(self, _mode: str) -> _ResponseFile:
        return self

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        return b"HTTP/1.0" + line[3:] if line.startswith(b"ICY ") else line


def http_get(url: str, stop: threading.Event, *, accept: str) -> tuple[HTTPResponse, NetworkStream]:
    """GET a URL; its name and password are sent to its own host only.

    A response with status 200 is returned, and the stream that its body comes over, which is the caller's to close.
    ``accept`` is the media types that are wanted; setting ``stop`` ends this wait and those for the body.

    Raises:
        SourceError: there was no connection or no complete header within ``HTTP_TIMEOUT``, the status is another one,
            or ``stop`` was set.
    """
    deadline = time.monotonic() + HTTP_TIMEOUT
    authorization = None
    for _ in range(MAX_REQUESTS):
        response, stream = _request(url, accept, authorization, stop, deadline)
        if response.status == 200:
            return response, stream
        stream.close()
        location = response.headers.get("Location")
        if response.status in (301, 302, 303, 307, 308) and location:
            url, authorization = _redirected(url, location), None
        elif response.status == 401 and authorization is None:
            authorization = _authorize(url, response.headers.get_all("WWW-Authenticate", []))
        else:
            hint = ": wrong name or password" if response.status in (401, 403) else ""
            raise SourceError(f"expected 200 OK, found {response.status} {response.reason}{hint}")
    raise SourceError("the server redirects in a circle")


def _request(
    url: str, accept: str, authorization: str | None, stop: threading.Event, deadline: float
) -> tuple[HTTPResponse, NetworkStream]:
    parts, host, port = split_url(url)
    stream = connect(host, port, stop, deadline, tls=parts.scheme.lower() == "https")
    try:
        fields = [
            f"GET {_target(parts)} HTTP/1.0",  # of version 1.0, as that has no chunked responses
            f"Host: {parts.netloc.rpartition('@')[2]}",
            "User-Agent: hybrid-edge",
            f"Accept: {accept}",
            *([f"Authorization: {authorization}"] if authorization else []),
        ]
        stream.send("\r\n".join([*fields, "\r\n"]).encode())
        response = HTTPResponse(_ResponseFile(stream, BUFFER_SIZE))  # type: ignore[arg-type]  # all it asks of a socket
        response.begin()
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


def _authorize(url: str, fields: list[str]) -> str:
    """Return the Authorization field that answers the strongest challenge of a 401 that can be answered."""
    parts, host, _ = split_url(url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user:
        raise SourceError(f"the server wants a name and password: {parts.scheme}://NAME:PASSWORD@{host}/…")
    challenges = list(_challenges(fields))
    for algorithm, hash_name in DIGESTS.items():
        for scheme, challenge in challenges:
            kind = challenge.get("algorithm", "MD5").upper().removesuffix("-SESS")
            methods = [method.strip() for method in challenge.get("qop", "auth").split(",")]
            if scheme == "digest" and kind == algorithm and "auth" in methods and "nonce" in challenge:
                return _digest(challenge, hash_name, user, password, _target(parts))
    schemes = {scheme for scheme, _ in challenges}
    if schemes and "basic" not in schemes:
        raise SourceError(f"the server wants a password in a way that is not known here: {', '.join(fields)}")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _challenges(fields: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each challenge's scheme, in lower case, and parameters; a field may hold several, separated by commas."""
    items = [item for field in fields for item in parse_http_list(field)]
    starts = [place for place, item in enumerate(items) if " " in item.partition("=")[0].strip()]
    for start, end in zip(starts, [*starts[1:], len(items)], strict=False):
        scheme, _, first = items[start].partition(" ")
        parameters: dict[str, str] = {}
        with suppress(ValueError, IndexError):  # a parameter without a value
            parameters = parse_keqv_list([first.strip(), *items[start + 1 : end]])
        yield scheme.lower(), parameters


def _digest(challenge: Mapping[str, str], hash_name: str, user: str, password: str, target: str) -> str:
    """Return a digest as RFC 7616 has it, or RFC 2069 where the server names no quality of protection."""

    def hashed(*parts: str) -> str:
        return hashlib.new(hash_name, ":".join(parts).encode(), usedforsecurity=False).hexdigest()

    realm, nonce, client_nonce, count = challenge.get("realm", ""), challenge["nonce"], secrets.token_hex(8), "00000001"
    secret = hashed(user, realm, password)
    if challenge.get("algorithm", "").upper().endswith("-SESS"):
        secret = hashed(secret, nonce, client_nonce)
    quality = [count, client_nonce, "auth"] if "qop" in challenge else []
    response = hashed(secret, nonce, *quality, hashed("GET", target))
    quoted = {"username": user, "realm": realm, "nonce": nonce, "uri": target, "response": response}
    fields = [f'{name}="{value}"' for name, value in quoted.items()]
    fields += [f'opaque="{challenge["opaque"]}"'] if "opaque" in challenge else []
    fields += [f"algorithm={challenge['algorithm']}"] if "algorithm" in challenge else []
    fields += [f'qop=auth, nc={count}, cnonce="{client_nonce}"'] if quality else []
    return f"Digest {', '.join(fields)}"
