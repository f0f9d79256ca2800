"""Decides who is let in: where the page is served, which names it answers to, who holds the token, and how often."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .. import listening
from ..errors import UsageError

TOKEN_VARIABLE = "HYBRID_EDGE_WEB_TOKEN"  # noqa: S105  # its name
MIN_TOKEN = 16  # characters
MAX_TOKEN_FILE = 4096  # bytes
HOW_TO = f"openssl rand -hex 32 > token, then --web-token-file token, or the token itself in {TOKEN_VARIABLE}"
SESSION_TIME = 12 * 3600.0  # seconds after a login
MAX_SESSIONS = 64  # the oldest beyond them are logged out
MAX_ADDRESSES = 1024  # whose failed logins are remembered
LOGINS = (10, 0.5)  # failed ones of an address at a time, and a second after that
SAFE_METHODS = ("GET", "HEAD")


class Rate:
    """This class counts how often something may happen: ``burst`` times at once, ``per_second`` after that."""

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = self._left = burst
        self._per_second = per_second
        self._then = time.monotonic()

    def take(self) -> float:
        """Take one turn; return the seconds until it comes, 0 where it is there."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._then) * self._per_second) - 1
        self._then = now
        return max(0.0, -self._left / self._per_second)

    @property
    def spent(self) -> bool:
        """Whether no turn is left at this moment."""
        return self._left + (time.monotonic() - self._then) * self._per_second < 1


@dataclass(frozen=True)
class WebAddress:
    """Where the page is served: a host as it was named, its port, and whether only this machine reaches it."""

    host: str
    port: int
    loopback: bool
    everywhere: bool

    @property
    def shown(self) -> str:
        """The host and port as they stand in a URL."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def listen(text: str) -> tuple[socket.socket, WebAddress]:
    """Open the socket of ``HOST:PORT``; port 0 takes one that is free.

    Raises:
        UsageError: the text is no address, the host is unknown or not this machine's, or the port is in use.
    """
    listener = listening.listen("--web", text)
    listener.setblocking(False)
    bound = listener.getsockname()
    address = ipaddress.ip_address(bound[0].partition("%")[0])
    host = text.rpartition(":")[0].strip("[]")
    return listener, WebAddress(host, bound[1], address.is_loopback, address.is_unspecified)


def read_token(file: Path | None) -> str | None:
    """Return the token from a file, or from the environment, out of which it is taken; None where there is none.

    Raises:
        UsageError: the file can't be read, or the token is short or holds what no header may.
    """
    found = os.environ.pop(TOKEN_VARIABLE, None)
    where = TOKEN_VARIABLE
    if file is not None:
        where = f"--web-token-file {file}"
        try:
            with file.open("rb") as opened:
                found = opened.read(MAX_TOKEN_FILE).decode("ascii").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no text in ASCII"
            raise UsageError(f"{where}: expected a file with a token, found: {reason}; make one: {HOW_TO}") from None
    if found is None:
        return None
    if len(found) < MIN_TOKEN or not re.fullmatch(r"[!-~]+", found):
        raise UsageError(
            f"{where}: expected a token of at least {MIN_TOKEN} printable ASCII characters without spaces, found "
            f"{len(found)} characters; make one: {HOW_TO}"
        )
    return found


class Access:
    """This class judges requests by their headers, and keeps the sessions of those who logged in, in memory alone.

    Without a ``token`` everybody on this machine is let in. ``tls`` says that the page is served by HTTPS.

    Raises:
        UsageError: others than this machine reach the address, and there is no token.
    """

    def __init__(self, address: WebAddress, token: str | None, *, tls: bool) -> None:
        if token is None and not address.loopback:
            raise UsageError(
                f"--web {address.shown}: expected a token, as others than this machine reach that address, found none; "
                f"make one: {HOW_TO}"
            )
        self.tls = tls
        self.address = address
        self._token = token
        self._sessions: OrderedDict[bytes, float] = OrderedDict()  # hashes, and when they end
        self._failures: OrderedDict[str, Rate] = OrderedDict()
        self._usual_port = address.port == (443 if tls else 80)
        names = {"localhost", "127.0.0.1", "[::1]"} if address.loopback or address.everywhere else set()
        self._names = {*names, address.shown.rpartition(":")[0].lower()}

    @property
    def url(self) -> str:
        """The page's address for people; of all addresses of the machine, the one that works on it."""
        host = f"127.0.0.1:{self.address.port}" if self.address.everywhere else self.address.shown
        return f"{self._scheme}://{host}/"

    @property
    def needs_token(self) -> bool:
        """Whether a token was set."""
        return self._token is not None

    def stranger(self, method: str, headers: Mapping[str, str]) -> str | None:
        """Return why a request with these headers (names in lower case) comes from elsewhere; None where it does not.

        Against rebinding of names, Host must be one of ours to the letter; against other sites, Origin must be Host,
        and where a browser says that another site asks, only the opening of a page is let through.
        """
        host = headers.get("host", "")
        if not self._is_ours(host):
            return f"expected a Host that this page is served at, found {host!r}; open {self.url}"
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{self._scheme}://{host.lower()}":
            return f"expected a request of this page, found one of the origin {origin!r}"
        site = headers.get("sec-fetch-site", "none")
        opens = method in SAFE_METHODS and headers.get("sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not (opens and headers.get("sec-fetch-dest") == "document"):
            return f"expected a request of this page, found one that is {site}"
        return None

    def holds_token(self, bearer: str | None, session: str | None, client: str) -> bool:
        """Return whether a request comes with the token or with the session of a login that has not ended."""
        if self._token is None:
            return True
        if session and self._sessions.get(_hash(session), 0.0) > time.monotonic():
            return True
        return bearer is not None and self.is_token(bearer, client)

    def is_token(self, found: str, client: str) -> bool:
        """Compare a token, in constant time; False too where the client has failed too often to be answered."""
        if self._token is None or self.tries_later(client):
            return False
        right = hmac.compare_digest(_hash(found), _hash(self._token))
        if not right:
            self._failures.setdefault(client, Rate(*LOGINS)).take()
            self._failures.move_to_end(client)
            while len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
        return right

    def tries_later(self, client: str) -> bool:
        """Return whether a client has failed so often that no token of it is looked at now."""
        return client in self._failures and self._failures[client].spent

    def log_in(self) -> str:
        """Begin a session and return its secret, for a cookie; the token is not in it."""
        secret = secrets.token_urlsafe(32)
        self._sessions[_hash(secret)] = time.monotonic() + SESSION_TIME
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return secret

    def log_out(self, session: str) -> None:
        """End a session."""
        self._sessions.pop(_hash(session), None)

    @property
    def _scheme(self) -> str:
        return "https" if self.tls else "http"

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.lower().rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host.lower(), ""
        if port != str(self.address.port) and not (self._usual_port and not port):
            return False
        return name in self._names or (self.address.everywhere and _is_address(name))


def _is_address(name: str) -> bool:
    """Return whether a Host names an IP address, which no name server can point elsewhere."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
