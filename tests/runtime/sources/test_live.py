"""What every live source does alike, shown on a connection that does what it is told."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from hybrid_edge.runtime.errors import ImageError, SourceError
from hybrid_edge.runtime.frame import Frame
from hybrid_edge.runtime.sources import capture as module
from hybrid_edge.runtime.sources.capture import LiveCapture
from hybrid_edge.runtime.sources.events import Event, Events

IMAGE = np.zeros((6, 8, 3), np.uint8)


class Scripted:
    """A connection that gives, or raises, one thing after the other, and is lost after the last."""

    patience = 0.0

    def __init__(self, script: Iterator[object]) -> None:
        self.script = script
        self.closed = False

    def read(self) -> object:
        step = next(self.script, SourceError("gone"))
        if isinstance(step, BaseException):
            raise step
        return step

    def close(self) -> None:
        self.closed = True


def read(*scripts: list[object] | Exception, until: Callable[[list[Frame], list[Event]], bool]):  # type: ignore[no-untyped-def]
    told: list[Event] = []
    opened: list[Scripted] = []
    stop = threading.Event()
    left = iter(scripts)

    def opener(_: threading.Event) -> Scripted:
        script = next(left, None)
        if script is None:
            stop.set()
            raise SourceError("the end")
        if isinstance(script, Exception):
            raise script
        opened.append(Scripted(iter(script)))
        return opened[-1]

    frames: list[Frame] = []
    capture = LiveCapture("camera", opener, Events(told.append))  # type: ignore[arg-type]
    for frame in capture.frames(stop):
        frames.append(frame)
        if until(frames, told):
            stop.set()
    return frames, told, opened


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_DELAY", "MAX_DELAY", "SIGNAL_LAG"):
        monkeypatch.setattr(module, name, getattr(module, name) / 50)


def test_every_connection_is_closed_and_frames_are_numbered_on() -> None:
    frames, told, opened = read([IMAGE, IMAGE], [IMAGE], [], until=lambda *_: False)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert all(connection.closed for connection in opened)
    assert [(event.kind, event.detail) for event in told] == [
        ("lost", "gone"),
        ("reconnected", "frames flow again"),
        ("lost", "gone"),
    ]


def test_an_outage_is_said_once_for_each_reason() -> None:
    refused, unknown = SourceError("port 80: refused"), SourceError("unknown host")
    tries = [refused, refused, unknown, refused, unknown, SourceError("port 81: refused")]
    _, told, _ = read(*tries, [IMAGE], until=lambda *_: True)
    assert [(event.kind, event.detail) for event in told] == [
        ("lost", "port 80: refused"),
        ("lost", "unknown host"),
        ("reconnected", "frames flow again"),
    ]
    assert told[-1].seconds > 0


def test_a_password_in_a_reason_is_not_said() -> None:
    _, told, _ = read(SourceError("no rtsp://anna:geheim@host/a"), [IMAGE], until=lambda *_: True)
    assert told[0].detail == "no rtsp://host/a"


def test_a_silent_connection_is_given_up_after_its_patience() -> None:
    frames, told, opened = read([IMAGE, None, IMAGE], [IMAGE], until=lambda frames, _: len(frames) == 2)
    assert [event.kind for event in told] == ["stalled", "reconnected"]
    assert len(opened) == 2
    assert len(frames) == 2


def test_damage_and_want_of_memory_cost_one_frame_each() -> None:
    script = [IMAGE, ImageError("damaged"), MemoryError(), IMAGE]
    frames, told, opened = read(script, until=lambda frames, _: len(frames) == 4)
    assert [frame.error for frame in frames] == [None, "damaged", "not enough memory for a frame", None]
    assert [event.kind for event in told] == ["corrupt", "memory-short"]
    assert [frame.index for frame in frames] == [0, 1, 2, 3]
    assert len(opened) == 1


def test_another_resolution_is_said_also_over_a_loss() -> None:
    wide = np.zeros((6, 16, 3), np.uint8)
    _, told, _ = read([IMAGE, wide], [IMAGE], until=lambda frames, _: len(frames) == 3)
    assert [event.detail for event in told if event.kind == "resized"] == ["from 8x6 to 16x6", "from 16x6 to 8x6"]


def test_delays_double_up_to_three_seconds_with_chance_in_them_and_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    for name in ("FIRST_DELAY", "MAX_DELAY", "SIGNAL_LAG"):
        monkeypatch.setattr(module, name, getattr(module, name) * 50)

    class Clock(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout != module.SIGNAL_LAG:
                waits.append(timeout or 0)
            return self.is_set()

    stop = Clock()

    def opener(_: threading.Event) -> Scripted:
        if len(waits) >= 6:
            stop.set()
        raise SourceError("gone")

    list(LiveCapture("camera", opener, Events()).frames(stop))
    for wait, nominal in zip(waits, [0.5, 1, 2, 3, 3, 3], strict=False):
        assert 0.69 * nominal <= wait <= nominal
    assert len({round(wait / nominal, 6) for wait, nominal in zip(waits, [0.5, 1, 2, 3, 3, 3], strict=False)}) > 1


def test_what_nobody_expected_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        read([IMAGE, ZeroDivisionError()], until=lambda *_: False)


UNFORESEEN = [OSError(5, "Input/output error"), ValueError("Invalid IPv6 URL"), RuntimeError("can't start new thread")]


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_an_error_of_a_kind_that_nobody_foresaw_is_a_loss(error: Exception) -> None:
    frames, told, opened = read(error, [IMAGE, error], [IMAGE], until=lambda frames, _: len(frames) == 2)
    assert len(frames) == len(opened) == 2
    assert [event.kind for event in told] == ["lost", "reconnected", "lost", "reconnected"]
    assert told[0].detail == told[2].detail == f"an error that was not expected: {type(error).__name__}: {error}"
    assert opened[0].closed


def test_a_connection_that_can_not_be_closed_is_given_up_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    def close(_: Scripted) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Scripted, "close", close)
    frames, told, _ = read([IMAGE], [IMAGE], until=lambda frames, _: len(frames) == 2)
    assert len(frames) == 2
    assert [event.detail for event in told if event.kind == "lost"] == ["gone"]


def test_an_error_of_whoever_listens_is_not_taken_for_one_of_the_source() -> None:
    def listener(event: Event) -> None:
        raise BrokenPipeError

    capture = LiveCapture("camera", lambda _: Scripted(iter([ImageError("damaged")])), Events(listener))  # type: ignore[arg-type,return-value]
    with pytest.raises(BrokenPipeError):
        next(capture.frames(threading.Event()))


def test_a_reader_that_takes_its_time_is_no_stall() -> None:
    def slowly(frames: list[Frame], _: list[Event]) -> bool:
        time.sleep(0.02)
        return len(frames) == 3

    _, told, _ = read([IMAGE, IMAGE, IMAGE], until=slowly)
    assert told == []
