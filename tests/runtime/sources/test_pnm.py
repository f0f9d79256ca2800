from __future__ import annotations

import numpy as np
import pytest

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.sources.pnm import PnmReader


def frame(width: int, height: int, seed: int, comment: bytes = b"") -> tuple[bytes, np.ndarray]:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return b"P6\n" + comment + b"%d %d\n255\n" % (width, height) + image[..., ::-1].tobytes(), image


def reader(data: bytes, step: int) -> PnmReader:
    """Gives ``step`` bytes at a time, and nothing every third time."""
    state = {"at": 0, "turn": 0}

    def fill(buffer: memoryview) -> int:
        state["turn"] += 1
        piece = data[state["at"] : state["at"] + min(step, len(buffer))]
        if state["turn"] % 3 == 0 or not piece:
            return 0
        buffer[: len(piece)] = piece
        state["at"] += len(piece)
        return len(piece)

    return PnmReader(fill)


@pytest.mark.parametrize("step", [1, 5, 100, 10**6])
def test_frames_of_any_size_come_out_however_they_come_in(step: int) -> None:
    frames = [frame(8, 6, 1), frame(6, 8, 2), frame(1, 1, 3), frame(31, 5, 4, b"# made by a test\n"), frame(100, 33, 5)]
    source = reader(b"".join(data for data, _ in frames), step)
    found = []
    for _ in range(100000):
        image = source.next()
        if image is not None:
            found.append(image)
        if len(found) == len(frames):
            break
    for image, (_, expected) in zip(found, frames, strict=True):
        np.testing.assert_array_equal(image, expected)
    assert source.next() is None


def test_a_frame_that_was_given_is_not_written_over() -> None:
    source = PnmReader(iter_fill(frame(8, 6, 1)[0] + frame(8, 6, 2)[0]))
    first = source.next()
    assert first is not None
    kept = first.copy()
    assert source.next() is not None
    np.testing.assert_array_equal(first, kept)


def iter_fill(data: bytes):  # type: ignore[no-untyped-def]
    left = bytearray(data)

    def fill(buffer: memoryview) -> int:
        piece = bytes(left[: len(buffer)])
        buffer[: len(piece)] = piece
        del left[: len(piece)]
        return len(piece)

    return fill


@pytest.mark.parametrize("data", [b"RIFF" * 100, b"P6\n" + b"x" * 400, b"P6\n8 6\n65535\n" + bytes(300)])
def test_what_are_no_such_frames_is_refused(data: bytes) -> None:
    with pytest.raises(SourceError, match="expected frames as PNM from the pipeline, found b'"):
        PnmReader(iter_fill(data)).next()


@pytest.mark.parametrize("size", [b"0 5", b"99999 99999"])
def test_a_size_that_can_not_be_is_refused_before_anything_is_allocated(size: bytes) -> None:
    with pytest.raises(SourceError, match="expected frames of 1 to"):
        PnmReader(iter_fill(b"P6\n" + size + b"\n255\n")).next()
