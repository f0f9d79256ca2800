from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import encode, sample_image
from streams import MjpegStream

from hybrid_edge.runtime.errors import SourceError, UsageError
from hybrid_edge.runtime.live.events import Events
from hybrid_edge.runtime.sources import Capture, CaptureOptions, capture, open_captures
from hybrid_edge.runtime.sources.cameras import Camera, CameraFormat


def opened(*names: str | Path, options: CaptureOptions = CaptureOptions()) -> list[Capture]:  # noqa: B008 - frozen
    return open_captures(names, options, Events())


def test_files_form_one_capture_and_each_live_source_is_its_own(photos: Path) -> None:
    captures = opened("rtsp://anna:geheim@host/a", photos / "img1.png", "0", str(photos), "csi://0")
    assert [(capture.name, capture.live) for capture in captures] == [
        ("rtsp://anna:***@host/a", True),
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


def test_a_numeric_name_that_is_a_file_stays_one(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    Path("3").write_bytes(encode(sample_image(3)))
    (capture,) = opened("3")
    assert not capture.live
    assert [frame.source for frame in capture.frames(threading.Event())] == ["3"]
    assert opened("4")[0].live


def test_what_is_wrong_is_known_before_anything_is_read(photos: Path) -> None:
    with pytest.raises(UsageError, match="at least one source"):
        opened()
    with pytest.raises(SourceError, match="found nothing of that name"):
        opened("rtsp://host/a", photos / "missing.png")
    with pytest.raises(UsageError, match="expected one of csi://"):
        opened(photos, "udp://host:1234")


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


def test_a_camera_that_is_not_there_is_waited_for_and_said() -> None:
    events = Events()
    (capture,) = open_captures(["/dev/video987"], CaptureOptions(), events)
    stop = threading.Event()
    reading = threading.Thread(target=lambda: list(capture.frames(stop)))
    reading.start()
    deadline = time.monotonic() + 10
    while not events.count("lost", "/dev/video987") and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    reading.join()
    assert events.counts() == {"lost": 1}


def test_a_sensor_that_is_named_by_a_link_is_found_among_the_cameras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [tmp_path / f"video{number}" for number in range(3)]
    for node in nodes:
        node.touch()
    link = tmp_path / "by-path"
    link.symlink_to(nodes[2])
    bayer = (CameraFormat("RG10", "10-bit Bayer", ()),)
    sensors = [Camera(str(node), "imx219", "tegra-video", bayer) for node in nodes]
    monkeypatch.setattr(capture, "inspect_camera", lambda node: replace(sensors[2], node=str(node)))
    monkeypatch.setattr(capture, "list_cameras", lambda: sensors)
    assert capture._sensor(str(link)) == capture._sensor(str(nodes[2])) == 2


def test_a_live_capture_gives_frames_as_opened() -> None:
    with MjpegStream(fps=50) as stream:
        (capture,) = opened(stream.url)
        stop = threading.Event()
        frames = []
        for frame in capture.frames(stop):
            frames.append(frame)
            if len(frames) == 5:
                stop.set()
    assert [frame.index for frame in frames] == list(range(5))
