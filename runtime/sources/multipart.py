"""Cut a multipart/x-mixed-replace stream into its parts, as cameras really write it: with wrong or missing lengths."""

from __future__ import annotations

import re

from ..errors import SourceError

__all__ = ["Chunks", "Parts"]

MAX_PART = 2**25  # 32 MiB, a JPEG of more than 100 Mpx: what has no end by then is no such stream
MAX_HEADER = 2**14
HEADER_END = re.compile(rb"\r?\n\r?\n")
LENGTH = re.compile(rb"^content-length:\s*(\d{1,9})\s*$", re.IGNORECASE | re.MULTILINE)
TYPE = re.compile(rb"^content-type:\s*([^;\r\n]*)", re.IGNORECASE | re.MULTILINE)
JPEG_END = b"\xff\xd9"
SIZE = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;|\Z)")  # the size of a chunk, in front of its extensions
FIRST_LINE = re.compile(rb"^\s*--([^\r\n]+)\r?\n")


class Parts:
    """This class cuts what comes over the wire into the bodies of its parts.

    A part ends where its ``Content-Length`` says, or at a boundary before that, or, without a length, where the JPEG
    ends: not when the next boundary comes, which is a frame later.
    """

    def __init__(self, boundary: str | None) -> None:
        """Begin in front of the first part.

        Args:
            boundary: the boundary in the response's header, with any quotes and leading dashes; None if there is none.
        """
        self._mark = None if boundary is None else b"--" + boundary.strip('"').lstrip("-").encode("latin-1")
        self._buffer = bytearray()
        self._searched = 0  # the place up to which the end of the part was looked for

    def feed(self, data: bytes) -> None:
        """Take the bytes that came."""
        self._buffer += data

    def next(self) -> bytes | None:
        """Return the next image's bytes, whole or damaged; None where more has to come first.

        Raises:
            SourceError: ``MAX_PART`` bytes came without the end of a part.
        """
        while (part := self._cut()) is not None:
            header, body = part
            kind = TYPE.search(header)
            if kind is None or kind[1].strip().lower().startswith((b"image/", b"application/octet-stream")):
                return body
        if len(self._buffer) > MAX_PART:
            raise SourceError(f"expected JPEG frames of at most {MAX_PART} bytes, found no end of one by then")
        return None

    def _cut(self) -> tuple[bytes, bytes] | None:
        """Take one part's header and body from the buffer and return them; None while the part is incomplete."""
        mark = self._boundary()
        start = -1 if mark is None else self._buffer.find(mark)
        if mark is None or start < 0:
            return None
        header = HEADER_END.search(self._buffer, start, start + MAX_HEADER)
        if header is None:
            if len(self._buffer) > start + MAX_HEADER:  # a header has no end there, so it was no boundary
                del self._buffer[: start + len(mark)]
            return None
        fields = bytes(self._buffer[start : header.start()])
        end = self._end(mark, fields, header.end())
        if end is None:
            return None
        body = bytes(self._buffer[header.end() : end])
        del self._buffer[:end]
        self._searched = 0
        return fields, body

    def _boundary(self) -> bytes | None:
        if self._mark is None and (match := FIRST_LINE.match(self._buffer)):
            self._mark = b"--" + match[1].strip().lstrip(b"-")
        return self._mark

    def _end(self, mark: bytes, fields: bytes, body: int) -> int | None:
        """Return where the body ends in the buffer, or None where the end has not come yet."""
        length = LENGTH.search(fields)
        limit = len(self._buffer) if length is None else min(body + int(length[1]), len(self._buffer))
        found = self._buffer.find(mark, max(body, self._searched), limit)
        if found >= 0:
            return found
        self._searched = max(body, limit - len(mark))
        if length is not None:
            return limit if limit == body + int(length[1]) else None
        # without a length the part ends with its JPEG, not when the next frame's boundary comes
        return limit if self._buffer[-4:].rstrip(b"\r\n").endswith(JPEG_END) and limit > body + 4 else None


class Chunks:
    """This class takes HTTP's chunked transfer coding off: some small cameras use it whatever was asked for."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0  # bytes of the current chunk, its line end included

    def feed(self, data: bytes) -> bytes:
        """Take bytes that came and return what they hold of the stream itself.

        Raises:
            SourceError: a chunk has no size.
        """
        self._buffer += data
        found = bytearray()
        while self._buffer:
            if self._left == 0 and not self._begin():
                break
            piece = self._buffer[: self._left]
            del self._buffer[: len(piece)]
            found += piece[: max(self._left - 2, 0)]
            self._left -= len(piece)
        return bytes(found)

    def _begin(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0 and len(self._buffer) < MAX_HEADER:
            return False
        size = SIZE.match(self._buffer[: max(end, 0)])
        if size is None:
            raise SourceError("expected the size of a chunk, found something else: the stream is damaged")
        del self._buffer[: end + 2]
        self._left = int(size[1], 16) + 2
        return True
