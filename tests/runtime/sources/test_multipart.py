from __future__ import annotations

import random

import pytest
from support.streams.servers import picture

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.sources import multipart
from hybrid_edge.runtime.sources.multipart import Chunks, Parts

JPEGS = [cv2.imencode(".jpg", picture(64, 48, moment))[1].tobytes() for moment in (1, 2, 3)]


def stream(*, length: bool = True, boundary: bytes = b"--frame", kind: bytes = b"image/jpeg") -> bytes:
    parts = []
    for data in JPEGS:
        size = b"Content-Length: %d\r\n" % len(data) if length else b""
        parts.append(boundary + b"\r\nContent-Type: " + kind + b"\r\n" + size + b"\r\n" + data + b"\r\n")
    return b"".join(parts)


def bodies(parts: Parts, data: bytes, step: int) -> list[bytes]:
    found = []
    for start in range(0, len(data), step):
        parts.feed(data[start : start + step])
        while (body := parts.next()) is not None:
            found.append(body)
    return found


@pytest.mark.parametrize("step", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("length", [True, False])
def test_parts_are_found_however_they_come(step: int, length: bool) -> None:
    found = bodies(Parts("frame"), stream(length=length), step)
    assert [body.rstrip(b"\r\n") for body in found] == JPEGS


@pytest.mark.parametrize("declared", ["frame", "--frame", '"frame"', None])
def test_a_boundary_is_found_whatever_the_header_says_about_its_dashes(declared: str | None) -> None:
    assert bodies(Parts(declared), stream(), 1000) == JPEGS
    assert bodies(Parts(declared), b"\r\n" + stream(boundary=b"----frame" if declared else b"--frame"), 1000) == JPEGS


@pytest.mark.parametrize("length", [True, False])
def test_a_frame_is_given_before_the_next_one_begins(length: bool) -> None:
    parts = Parts("frame")
    end = stream(length=length).index(JPEGS[0]) + len(JPEGS[0])
    parts.feed(stream(length=length)[:end])
    assert parts.next() == JPEGS[0]


def test_a_length_that_is_too_long_ends_at_the_next_boundary() -> None:
    data = stream().replace(b"Content-Length: %d" % len(JPEGS[0]), b"Content-Length: 9999", 1)
    found = bodies(Parts("frame"), data, 100)
    assert [body.rstrip(b"\r\n") for body in found] == JPEGS


def test_a_length_that_is_too_short_costs_that_frame_only() -> None:
    data = stream().replace(b"Content-Length: %d" % len(JPEGS[0]), b"Content-Length: 100", 1)
    assert bodies(Parts("frame"), data, 100) == [JPEGS[0][:100], *JPEGS[1:]]


def test_noise_between_frames_is_skipped() -> None:
    noise = random.Random(1).randbytes(30000)
    data = b"".join(noise + part for part in (stream(), stream()))
    assert bodies(Parts("frame"), data, 4096) == JPEGS * 2


def test_parts_that_are_no_image_are_left_out() -> None:
    data = b"--frame\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello\r\n" + stream()
    assert bodies(Parts("frame"), data, 1000) == JPEGS


def test_a_stream_without_an_end_of_a_frame_is_given_up_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multipart, "MAX_PART", 10**5)
    for start in (b"", b"--frame\r\n\r\n", b"--frame\r\nContent-Length: 999999999\r\n\r\n"):
        with pytest.raises(SourceError, match="at most 100000 bytes"):
            bodies(Parts("frame"), start + bytes(3 * 10**5), 10**4)


@pytest.mark.parametrize("step", [1, 3, 50, 10**6])
def test_chunks_come_off_wherever_they_are_cut(step: int) -> None:
    data = stream()
    sizes = [1, 2, 700, len(data)]
    pieces, start = [], 0
    for size in sizes:
        piece = data[start : start + size]
        pieces.append(b"%x;note=1\r\n" % len(piece) + piece + b"\r\n")
        start += size
    coded = b"".join(pieces) + b"0\r\n\r\n"
    chunks = Chunks()
    assert b"".join(chunks.feed(coded[at : at + step]) for at in range(0, len(coded), step)) == data


@pytest.mark.parametrize(
    "size", [b"no number", b"", b"-5", b"-2", b"+5", b"0x5", b"1_0", b"123456789", b" 5", b"5 5", "٥".encode(), b";a=1"]
)
def test_a_chunk_without_a_size_is_an_error(size: bytes) -> None:
    with pytest.raises(SourceError, match="size of a chunk"):
        Chunks().feed(size + b"\r\nhello\r\n")


@pytest.mark.parametrize("size", [b"5", b"00000005", b"5 ", b"5\t;a=1", b"5;a"])
def test_the_size_of_a_chunk_is_read_with_zeros_blanks_and_extensions(size: bytes) -> None:
    assert Chunks().feed(size + b"\r\nhello\r\n") == b"hello"


@pytest.mark.parametrize("length", [b"-5", b"+5", b"1_0", b"0x5", b"9" * 5000])
def test_a_length_that_is_no_number_counts_as_none(length: bytes) -> None:
    data = stream().replace(b"Content-Length: %d" % len(JPEGS[0]), b"Content-Length: " + length, 1)
    assert [body.rstrip(b"\r\n") for body in bodies(Parts("frame"), data, 100)] == JPEGS
