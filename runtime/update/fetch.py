"""Fetches a bundle's tar from an address: bounded in size, and going on where it was cut, also in a later process."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from ..errors import UpdateError
from ..sources.names import display_name
from ..storage import write_json

READ_TIMEOUT = 30.0  # seconds without a byte
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try in a row that brought nothing
CHUNK_BYTES = 2**18
MIB = 2**20
SCHEMES = ("http", "https")

Progress = Callable[[int, int | None], None]
"""Is called with the bytes that are there and with how many there will be, None where that is not known."""


def is_address(source: str) -> bool:
    """Whether a source is fetched, and not a path."""
    return urlsplit(source).scheme in SCHEMES and "://" in source


def fetch(address: str, folder: Path, limit: int, progress: Progress) -> Path:
    """Fetch an address into ``folder`` and return the file; of an earlier try that was cut only the rest is fetched.

    Raises:
        UpdateError: the address gives no file, one of more than ``limit`` bytes, or breaks off again and again.
        OSError: the disk is full or can't be written to; what was fetched stays for the next try.
    """
    download = _Download(address, folder, limit, progress)
    shown = display_name(address)
    failures = 0
    while True:
        before = download.size
        try:
            download.go_on()
        except (OSError, http.client.HTTPException) as error:
            _raise_unless_cut(shown, error)
            failures = 0 if download.size > before else failures + 1
            if failures > len(PAUSES):
                raise UpdateError(
                    f"{shown}: expected a file of {_mib(download.total)}, found that it breaks off after "
                    f"{_mib(download.size)} ({_reason(error)}); start again to go on from there"
                ) from None
            time.sleep(PAUSES[max(0, failures - 1)])
        else:
            return download.path


class _Download:
    """The part of a file that is there, and what the server said of the whole, kept beside it as JSON."""

    def __init__(self, address: str, folder: Path, limit: int, progress: Progress) -> None:
        name = hashlib.sha256(address.encode()).hexdigest()[:16]
        self.path = folder / f".download-{name}"
        self.total: int | None = None
        self._record = folder / f".download-{name}.json"
        self._address, self._limit, self._progress = address, limit, progress
        self._shown = display_name(address)

    @property
    def size(self) -> int:
        """The bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def go_on(self) -> None:
        """Fetch what is missing; return when the file is whole."""
        try:
            answer = _open(self._address, self._headers())
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            if error.headers.get("Content-Range") == f"bytes */{self.size}":
                return  # it was whole already
            self.path.unlink(missing_ok=True)
            raise ConnectionError("the file is another one now") from None
        with answer:
            begins = self._begins(answer)
            length = answer.headers.get("Content-Length")
            self.total = begins + int(length) if length is not None and length.isdecimal() else None
            self._check(self.total or 0)
            validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            write_json(self._record, {"address": self._address, "validator": validator})
            with self.path.open("r+b" if begins else "wb") as file:
                file.seek(begins)
                file.truncate()
                self._copy(answer, file)
        if self.total is not None and self.size < self.total:
            raise http.client.IncompleteRead(b"")

    def _copy(self, answer: Any, file: IO[bytes]) -> None:
        while chunk := answer.read(CHUNK_BYTES):
            self._check(file.tell() + len(chunk))
            file.write(chunk)
            self._progress(file.tell(), self.total)

    def _headers(self) -> dict[str, str]:
        """Ask for the rest alone, where the server can tell whether the file is still the same."""
        try:
            validator = json.loads(self._record.read_text())["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            validator = None
        strong = isinstance(validator, str) and not validator.startswith("W/")
        return {"Range": f"bytes={self.size}-", "If-Range": validator} if strong and self.size else {}

    def _begins(self, answer: Any) -> int:
        """Return at which byte the answer begins: where the part that is there ends, or at 0, as a whole file."""
        begins = str(answer.headers.get("Content-Range", "")).removeprefix("bytes ").split("-")[0]
        return self.size if answer.status == http.client.PARTIAL_CONTENT and begins == str(self.size) else 0

    def _check(self, size: int) -> None:
        if size > self._limit:
            self.path.unlink(missing_ok=True)
            raise UpdateError(
                f"{self._shown}: expected at most {_mib(self._limit)}, found more; --max-size MIB admits it"
            )


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to the new address; raise UpdateError where that is less safe than the old one."""
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after not in SCHEMES or (before == "https" and after != "https"):
            raise UpdateError(
                f"{display_name(req.full_url)}: expected a file, found a redirect from {before} to {after}: refused"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str, headers: dict[str, str]) -> Any:
    parts = urlsplit(address)
    userinfo, _, host = parts.netloc.rpartition("@")
    plain = urlunsplit(parts._replace(netloc=host))
    request = urllib.request.Request(plain, headers={"User-Agent": "hybrid-update", **headers})  # noqa: S310
    if userinfo:  # not sent on to where a redirect leads
        token = base64.b64encode(unquote(userinfo).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    opener = urllib.request.build_opener(_SafeRedirects)
    return opener.open(request, timeout=READ_TIMEOUT)


def _raise_unless_cut(address: str, error: Exception) -> None:
    """Raise what trying again does not mend: a full disk, a refusal by the server, a certificate nobody vouches for."""
    if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429:
        raise UpdateError(f"{address}: expected a bundle's tar, found HTTP {error.code} {error.reason}") from None
    if isinstance(error, OSError) and not isinstance(error, (urllib.error.URLError, ConnectionError, TimeoutError)):
        raise error
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if type(reason).__name__ == "SSLCertVerificationError":
        raise UpdateError(f"{address}: expected a certificate that this device trusts, found: {reason}") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__


def _mib(size: int | None) -> str:
    return "unknown size" if size is None else f"{size / MIB:.1f} MiB"
