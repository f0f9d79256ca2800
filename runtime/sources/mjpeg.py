"""Read Motion JPEG over HTTP in Python, so that every wait ends and each damaged frame is known and counted.

OpenCV's FFmpeg was measured in its place: it ends a stream at the first damaged frame or wrong length. Besides, the
only digest that it answers is MD5, and it takes every certificate unless it is told otherwise.
"""

from __future__ import annotations

import re
import threading
import time
from http.client import HTTPException

import numpy as np
import numpy.typing as npt

from ..errors import OversizedError, SourceError
from ..preprocess import decode_image
from .events import MAX_PARTS, FloodLimit
from .names import CaptureOptions
from .network import http_get

MJPEG_PATIENCE = 2.0  # seconds without a frame after which the stream has stalled
READ_SIZE = 2**16  # bytes; without it, a chunk of any size would be asked for as a whole
PICTURE_RATE = 1.0  # single pictures a second, unless ``--fps`` asks for another rate
MAX_JPEG = 2**25  # 32 MiB, a JPEG of more than 100 Mpx: what has no end by then is no such stream
# a part's boundary, whatever the response announced, and its fields; limits keep a hostile one from taking long
PART = re.compile(rb"\n--[^\r\n]{1,200}\r?\n((?:[!-9;-~]{1,40}:[^\r\n]{0,200}\r?\n){1,16})\r?\n")
MAX_PART_HEADER = 2**13
OTHER_TYPE = re.compile(rb"^content-type:\s*(?!image/|application/octet-stream)[^\s;]", re.IGNORECASE | re.MULTILINE)
# what can't be motion JPEG; servers name it in many ways, and what can't be parsed counts as text/plain
OTHER_BODY = re.compile(r"(?!multipart/|.*jpe?g|text/plain$|application/octet-stream$)", re.IGNORECASE)
LINE_END = re.compile(rb"(?:\r?\n(?:--[^\r\n]{1,200}\s+)?)?\Z")  # what comes between an image and the next one
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
START_OF_IMAGE, END_OF_IMAGE = 0xD8, 0xD9
MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # within a scan, 0xFF 0x00 is a pixel's byte, 0xFF 0xD0 a restart


class JpegCutter:
    """This class cuts JPEGs out of a stream by their own markers, as cameras write lengths and boundaries wrongly."""

    def __init__(self) -> None:
        self.ends_seen = False  # whether an image has had its end marker
        self._buffer = bytearray(b"\n")  # a boundary begins a line, also the first one
        self._in_jpeg = False  # whether the buffer begins with a JPEG
        self._expected = False  # whether the header of an image's part came, and its JPEG has not begun
        self._searched = 0  # the place up to which a part's header was looked for
        self.parts = 0  # that a header began, or an image without one
        self._segment = 0  # the place from which the JPEG's next marker is to be looked for

    def feed(self, data: bytes) -> None:
        """Take the bytes that came."""
        self._buffer += data

    def next(self) -> bytes | None:
        """Return the next image, whole or damaged; None where more has to come, SourceError after ``MAX_JPEG``."""
        if not self._in_jpeg and (damaged := self._find_start()) is not None:
            return damaged
        if self._in_jpeg and (end := self._find_end()) is not None:
            self._in_jpeg = self._expected = False
            return self._take(end)
        if len(self._buffer) > MAX_JPEG:
            raise SourceError(f"expected JPEG frames of at most {MAX_JPEG} bytes, found no end of one by then")
        return None

    def _find_start(self) -> bytes | None:
        """Go on to the start of a JPEG; return instead what a part for an image has in the place of one."""
        while True:
            start = self._buffer.find(JPEG_START, self._searched)
            part = PART.search(self._buffer, self._searched, start if start >= 0 else len(self._buffer))
            if part is None and start < 0:
                self._searched = max(len(self._buffer) - MAX_PART_HEADER, 0)
                return None
            if part is None:
                self._take(start)
                self._in_jpeg, self._segment = True, len(JPEG_START) - 1
                self.parts += not self._expected
                return None
            self.parts += 1
            missed = self._expected
            self._expected = OTHER_TYPE.search(part[1]) is None
            body = self._take(part.start())
            self._take(part.end() - part.start() - 1)  # the line end stays: a boundary may follow at once
            if missed:
                return body[1:]

    def _find_end(self) -> int | None:
        """Return where the JPEG ends: at its last marker, or before that where another part or JPEG begins."""
        end = self._find_last_marker()
        part = PART.search(self._buffer, self._searched, len(self._buffer) if end is None else end)
        self._searched = max(len(self._buffer) - MAX_PART_HEADER, 0)
        return end if part is None else part.start()

    def _find_last_marker(self) -> int | None:
        """Walk over segments by their lengths, as a thumbnail inside one has an end of its own, and over pixels."""
        while marker := MARKER.search(self._buffer, self._segment):
            kind, body = self._buffer[marker.start() + 1], marker.end()
            if kind in (START_OF_IMAGE, END_OF_IMAGE):
                self.ends_seen |= kind == END_OF_IMAGE
                return body if kind == END_OF_IMAGE else marker.start()
            if len(self._buffer) < body + 2:
                self._segment = marker.start()
                return None
            self._segment = body + int.from_bytes(self._buffer[body : body + 2], "big")
        self._segment = max(self._segment, len(self._buffer) - 1)
        return None

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._searched = 0
        return data


class MjpegConnection:
    """This connection reads the frames of an HTTP response, or of one after the other where each has one picture."""

    def __init__(self, url: str, stop: threading.Event, options: CaptureOptions) -> None:
        """Ask a server for a stream, with the name and password in the URL if the server wants them.

        Setting ``stop`` ends every wait; ``options`` have the rate at which single pictures are asked for.
        """
        self.patience = options.patience(MJPEG_PATIENCE)
        self._limit = FloodLimit(MAX_PARTS, "parts")
        self._period = 1 / (options.fps or PICTURE_RATE)
        self._url = url
        self._stop = stop
        self._open()

    def _open(self) -> None:
        self._asked = time.monotonic()
        self._cutter = JpegCutter()
        self._parts = 0  # of these, those that were counted
        self._pictures = 0  # of this response
        response, self._stream = http_get(self._url, self._stop, accept="multipart/x-mixed-replace, image/jpeg, */*")
        self._response = response
        kind, encoding = response.headers.get_content_type(), response.headers.get("Content-Encoding", "identity")
        if OTHER_BODY.match(kind) or encoding != "identity":
            self.close()
            found = kind if encoding == "identity" else f"{kind} in {encoding}"
            raise SourceError(f"expected motion JPEG (multipart/x-mixed-replace) or a JPEG, found {found}")

    def read(self) -> npt.NDArray[np.uint8] | None:
        """Return the next frame, as ``Connection`` says; None if none was complete within ``patience``."""
        # a chunk's size that was read in part is lost, so no read ends before the connection is to be given up
        self._stream.deadline = time.monotonic() + self.patience
        try:
            while (image := self._cutter.next()) is None:
                self._limit.count(self._new_parts())  # of other kinds, or without an end
                data = self._response.read1(READ_SIZE)
                if data:
                    self._cutter.feed(data)
                elif not self._ask_again():
                    return None
        except TimeoutError:
            return None
        except HTTPException:
            raise SourceError("a chunk of the stream is damaged, or was cut off") from None
        self._new_parts()  # its frame is counted by whoever takes it
        self._pictures += 1
        if not self._cutter.ends_seen:  # some cameras never write the end marker; where one did, its want is damage
            image = LINE_END.sub(JPEG_END, image, 1)
        try:
            return decode_image(image, "frame")
        except OversizedError as error:  # it would go on as it began
            raise SourceError(str(error)) from None

    def _new_parts(self) -> int:
        before, self._parts = self._parts, self._cutter.parts
        return self._parts - before

    def _ask_again(self) -> bool:
        """Ask for the next picture when it is due, where a response was one picture; return False on a stop."""
        if self._pictures != 1:
            raise SourceError("the server ended the stream")
        self.close()
        if self._stop.wait(max(self._asked + self._period - time.monotonic(), 0)):
            return False
        self._open()
        return True

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
