"""Tell what a user's name for a source means, how it may be shown, and how the source is to be read."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ..errors import UsageError

LiveKind = Literal["v4l2", "csi", "rtsp", "mjpeg", "gst"]
SCHEMES: dict[str, LiveKind] = {
    "csi": "csi",
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "http": "mjpeg",
    "https": "mjpeg",
    "gst": "gst",
}
SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://(.*)$", re.IGNORECASE | re.DOTALL)
DEVICE = re.compile(r"^/dev/(?:video\d+|v4l/by-(?:id|path)/[^/]+)$")  # udev's links stay with their camera
# user@ or user:password@ of a URL, also where the password has an @ or a slash that should have been %40 or %2F
USERINFO = re.compile(r"://(?:[^\s/:@]*:(?:[^\s/]*|(?!\d{1,5}/)\S*)|[^\s/?#]*)@")
# many cameras take name and password among the parameters, some in the path; pipelines quote what has spaces
PARAMETER = re.compile(
    r"(\b[\w-]*(?:user(?:[_-]?(?:name|id))?|login|pass|passwd|password|pwd?|secret|token|api_?key|auth)\s*=\s*)"
    r"""(?:"(?:\\.|[^"\\])*"|'[^']*'|(?:\\.|[^\s&;#/])+)""",
    re.IGNORECASE,
)
MAX_SHORT_NAME = 48  # characters, before the number that tells equal ones apart
NUMBER = re.compile(r"[0-9]{1,9}")  # of a camera or sensor
PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}  # the last two: of outputs
AUTHORITY = re.compile(r"([^/?#]*)([/?#]?)(.*)", re.DOTALL)  # a URL's name, password, host and port, and what follows
HOST = re.compile(r"(?:\[[^]]*\]|localhost|[^:]*\.[^:]*):[0-9]{0,5}")  # surely a host and port, no name and password


@dataclass(frozen=True)
class LiveName:
    """This is a live source as the user named it.

    ``kind`` decides what opens it, and ``address`` is what that needs: a URL, a device's path, a sensor's number or a
    pipeline. ``display`` is the name without user and password, which may be shown.
    """

    kind: LiveKind
    address: str
    display: str


def parse_live(name: str) -> LiveName | None:
    """Return the live source that a name means; None for files, folders and globs, whatever they look like.

    Raises:
        UsageError: the name is a URL of another kind than ``csi://N``, ``rtsp://``, ``http(s)://`` and
            ``gst://PIPELINE``, or one without a host, with a bad port or no sensor's number, or is not UTF-8.
    """
    if NUMBER.fullmatch(name) and not os.path.exists(name):
        name = f"/dev/video{int(name)}"
    if DEVICE.match(name):
        _check_utf8(name)
        return LiveName("v4l2", name, name)
    match = SCHEME.match(name)
    if match is None or os.path.exists(name):
        return None
    display = display_name(name)
    kind = SCHEMES.get(match[1].lower())
    if kind is None:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise UsageError(f"{display}: expected one of {known}, a camera's number or /dev/videoN, or a file")
    if kind == "csi" and not NUMBER.fullmatch(match[2]):
        raise UsageError(f"{display}: expected the number of a sensor, as in csi://0")
    if kind == "gst" and not match[2].strip():
        raise UsageError(f"{display}: expected a pipeline, as in 'gst://videotestsrc ! videoconvert'")
    if kind in ("rtsp", "mjpeg"):
        _check_userinfo(match[1], match[2])
        split_url(name)
    return LiveName(kind, match[2] if kind in ("csi", "gst") else name, display)


def display_name(name: str) -> str:
    """Return a name or message without user and password of its addresses; parameters that hold them are ``***``."""
    return PARAMETER.sub(r"\1***", USERINFO.sub("://", name))


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each source's name, as it is shown, a short one for topics, addresses and labels, as ``video0``.

    It has up to 48 of the characters a to z, 0 to 9, ``_`` and ``-``. Where two would be equal, the later one of the
    names gets ``-2``, so that the same names in the same order always have the same short ones.
    """
    short, taken = dict[str, str](), set[str]()
    for name in dict.fromkeys(names):
        shown = re.sub(r"[\w-]+\s*=\s*\*\*\*", "", display_name(name))
        scheme, is_address, address = shown.partition("://")
        place = address if is_address and scheme != "csi" else shown if is_address else shown.rpartition("/")[2]
        plain = re.sub(r"[^a-z0-9_]+", "-", place.lower()).strip("-")
        plain = plain[:MAX_SHORT_NAME].strip("-") or "source"
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in itertools.count(1))
        short[name] = next(unique for unique in numbered if unique not in taken)
        taken.add(short[name])
    return short


def split_url(url: str) -> tuple[SplitResult, str, int]:
    """Return a URL's parts, its host and its port, the scheme's usual one where it names none."""
    _check_utf8(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        shown = re.sub(r"(://[^/@]*:)(?!\d+(?:/|$))[^/@]*", r"\1***", display_name(url))  # perhaps a password, no port
        raise UsageError(f"{shown}: expected {url.partition(':')[0]}://HOST:PORT/PATH") from None
    if not parts.hostname:
        raise UsageError(f"{display_name(url)}: expected a host after {parts.scheme}://, found none")
    return parts, unquote(parts.hostname), port or PORTS[parts.scheme.lower()]


def _check_userinfo(scheme: str, address: str) -> None:
    """Refuse an address whose password has a character that ends it, as the rest of it would be taken for the host."""
    before, delimiter, rest = AUTHORITY.fullmatch(address).groups()  # type: ignore[union-attr]  # it matches all
    whole = "@" in before or ":" not in before or HOST.fullmatch(before) is not None
    cut = "@" in rest and (delimiter == "#" or not whole)
    userinfo, _, after = (address if cut else before).rpartition("@")
    wrong = dict.fromkeys(re.findall(r"[/?#\[\]\s]", userinfo))
    if wrong:
        right = ", ".join(f"{quote(character, safe='')} for {character!r}" for character in wrong)
        shown = f"{scheme}://{after if cut else after + delimiter + rest}"
        path = "" if delimiter == "#" or not cut else "; %40 for an @ of the path"
        raise UsageError(f"{shown}: expected a name and password that end with the @: write {right}{path}")


def _check_utf8(name: str) -> None:
    """Refuse a name that is not UTF-8, as a command line's bytes can be, because OpenCV crashes at it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = display_name(name).encode(errors="backslashreplace").decode()
        raise UsageError(f"{shown}: expected a name in UTF-8; write other bytes of a URL as %FF") from None


@dataclass(frozen=True)
class CaptureOptions:
    """These options are asked of every source that can fulfil them.

    ``width`` and ``height`` go together, pixels: a camera takes the nearest it has, a GStreamer pipeline is scaled, an
    IP camera's stream stays as the camera makes it. ``fps`` below 1.5 is also how long a stream may go without a frame:
    three of them. ``every_frame`` says whether no frame may be left out; None: every frame of a file, the newest of a
    live source.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    every_frame: bool | None = None

    def __post_init__(self) -> None:
        if (self.width is None) != (self.height is None):
            raise UsageError("expected a width and a height together, found one of them")
        for name in ("width", "height", "fps"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 2**15:
                raise UsageError(f"expected a {name} above 0 and up to {2**15}, found {value}")

    @property
    def size(self) -> tuple[int, int] | None:
        """The width and height asked for, pixels; None where none are."""
        return None if self.width is None or self.height is None else (self.width, self.height)

    def patience(self, usual: float) -> float:
        """Return the seconds without a frame after which a live source has stalled: ``usual``, or three slow frames."""
        return usual if self.fps is None else max(usual, 3 / self.fps)
