import threading
import time
from pathlib import Path

import pytest
from support.models.bundles import sample_image

from hybrid_edge.runtime.errors import SourceError, UsageError
from hybrid_edge.runtime.frame import Frame
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.sources.capture import Capture, FileCapture, open_captures
from hybrid_edge.runtime.sources.events import Events
from hybrid_edge.runtime.sources.names import CaptureOptions


def opened(*names: str | Path, options: CaptureOptions = CaptureOptions()) -> list[Capture]:  # noqa: B008 - frozen
    return open_captures(names, options, Events())


def test_files_form_one_capture_and_each_live_source_is_its_own(photos: Path) -> None:
    captures = opened("rtsp://anna:geheim@host/a", photos / "img1.png", "0", str(photos), "csi://0")
    assert [(capture.name, capture.live) for capture in captures] == [
        ("rtsp://host/a", True),
        ("2 files", False),
        ("/dev/video0", True),
        ("csi://0", True),
    ]
    frames = list(captures[1].frames(threading.Event()))
    assert [Path(frame.source).name for frame in frames[:2]] == ["img1.png", "img0.png"]
    assert len(frames) == 13
    assert opened(photos)[0].name == str(photos)


def test_sources_that_would_look_the_same_are_told_apart() -> None:
    captures = opened("http://host/live?token=a", "http://host/live?token=b", "0", "/dev/video0", "/dev/video0")
    assert [capture.name for capture in captures] == [
        "http://host/live?token=***",
        "http://host/live?token=*** (2)",
        "/dev/video0",
        "/dev/video0 (2)",
        "/dev/video0 (3)",
    ]


def test_frames_of_files_say_when_they_were_read(photos: Path) -> None:
    before = time.monotonic(), time.time()
    frames = list(opened(photos)[0].frames(threading.Event()))
    moments = [frame.captured for frame in frames]
    assert moments == sorted(moments)
    assert before[0] <= moments[0] <= time.monotonic()
    assert before[1] <= frames[0].timestamp <= time.time()


def test_a_stop_ends_files_between_two_frames(photos: Path) -> None:
    stop = threading.Event()
    frames = opened(photos)[0].frames(stop)
    next(frames)
    stop.set()
    assert list(frames) == []


PLAYED = CaptureOptions(every_frame=False)


def clip(path: Path, frames: int = 10, rate: float = 20) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (64, 48))
    for number in range(frames):
        writer.write(sample_image(number, 48, 64))
    writer.release()
    return path


def playing(*positions: float | None) -> list[float]:
    """How long each of a video's frames is waited for, seconds; nothing waits in fact."""
    waits: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0)
            return False

    class Given(list[Frame]):
        total = None

    frames = Given(Frame("clip", index, None, position=position) for index, position in enumerate(positions))
    list(FileCapture(frames, "clip", played=True).frames(Stop()))  # type: ignore[arg-type]
    return waits


def test_what_has_no_positions_such_as_images_is_not_played_and_a_clock_that_jumps_is_not_waited_for() -> None:
    assert playing(None, None, None) == []
    assert playing(3.0, 3.5, 1e9) == pytest.approx([0, 0.5, 10.5], abs=0.4)
    assert playing(None, 3.0, 3.5) == pytest.approx([0, 0.5], abs=0.4)


def test_a_stop_does_not_wait_for_the_next_frame_of_a_video_that_plays(tmp_path: Path) -> None:
    (capture,) = opened(clip(tmp_path / "slow.avi", frames=3, rate=0.2), options=PLAYED)
    stop = threading.Event()
    frames = capture.frames(stop)
    next(frames)
    began = time.monotonic()
    threading.Timer(0.2, stop.set).start()
    assert list(frames) == []
    assert 0.1 < time.monotonic() - began < 4  # the next is due after 5
    for options in (CaptureOptions(), CaptureOptions(every_frame=True)):
        assert len(list(opened(tmp_path / "slow.avi", options=options)[0].frames(threading.Event()))) == 3
    assert time.monotonic() - began < 9  # where every frame is wanted, none is waited for


def test_what_is_wrong_is_known_before_anything_is_read(photos: Path) -> None:
    with pytest.raises(UsageError, match="at least one source"):
        opened()
    with pytest.raises(SourceError, match="found nothing of that name"):
        opened("rtsp://host/a", photos / "missing.png")
    with pytest.raises(UsageError, match="expected one of csi://"):
        opened(photos, "udp://host:1234")
    for empty in ("", "  "):
        with pytest.raises(UsageError, match="found an empty one"):
            opened("rtsp://host/a", empty)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 640}, "a width and a height together"),
        ({"width": 0, "height": 1}, "width above 0"),
        ({"fps": -1.0}, "fps above 0"),
        ({"width": 10**6, "height": 1}, "up to 32768"),
    ],
)
def test_options_that_can_not_be_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CaptureOptions(**options)  # type: ignore[arg-type]
