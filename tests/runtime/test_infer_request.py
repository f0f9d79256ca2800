from pathlib import Path
from typing import Any

import pytest

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.infer_request import InferRequest

CAMERAS = ("0", "/dev/video0", "csi://0", "rtsp://user:secret@camera/live", "http://camera/mjpeg", "gst://videotestsrc")
FILES = ("photo.png", "photos", "**/*.jpg", "clip.mp4", "missing.avi")


@pytest.mark.parametrize("name", CAMERAS + FILES)
def test_cameras_and_streams_are_live_and_supervised_and_files_are_not(name: str) -> None:
    request = InferRequest((name,))
    assert (request.live, request.supervised) == (name in CAMERAS, name in CAMERAS)


def test_a_number_that_is_a_file_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert InferRequest(("7",)).live
    (tmp_path / "7").touch()
    assert not InferRequest(("7",)).live


def test_files_go_in_batches_of_eight_and_live_frames_alone() -> None:
    assert InferRequest(("a.png",)).batch_size == 8
    assert InferRequest(("a.png", "0")).batch_size == 1
    assert InferRequest(("0", "1"), batch=2).batch_size == 2


@pytest.mark.parametrize(
    ("regions", "live", "files"),
    [
        (("a=0,0,1,1",), 1, 8),
        (("a=0,0,1,1", "b=0,0,1,1", "c=0,0,1,1"), 3, 9),
        (("a=0,0,1,1", "b@video0=0,0,1,1", "c@video0=0,0,1,1", "d@video1=0,0,1,1"), 3, 9),
        (tuple(f"r{number}=0,0,1,1" for number in range(11)), 11, 11),
    ],
)
def test_the_regions_of_a_picture_go_in_one_batch_by_default(regions: tuple[str, ...], live: int, files: int) -> None:
    assert InferRequest(("0",), regions=regions).batch_size == live
    assert InferRequest(("a.png",), regions=regions).batch_size == files
    assert InferRequest(("0",), regions=regions, batch=2).batch_size == 2


def test_who_asks_for_a_supervisor_gets_one_and_who_does_not_want_one_has_none() -> None:
    assert InferRequest(("a.png",), supervise=True).supervised
    assert not InferRequest(("0",), supervise=False).supervised


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": ()}, "Missing argument 'SOURCE'"),
        ({"snapshots": Path("kept")}, "--snapshots DIR and --when"),
        ({"when": "cat>0.8"}, "--snapshots DIR and --when"),
        ({"sources": ("ftp://camera",)}, "rtsp://"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _ = InferRequest(**{"sources": ("0",), **settings}).live
