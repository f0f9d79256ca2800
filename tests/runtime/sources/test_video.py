from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid_edge.runtime.sources.files import open_sources
from hybrid_edge.runtime.sources.video import _position

FRAMES = 20


def test_a_video_gives_every_frame_in_order(video: Path) -> None:
    frames = list(open_sources([video]))
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert all(frame.video for frame in frames)
    means = [float(frame.image.mean()) for frame in frames if frame.image is not None]
    np.testing.assert_allclose(means, np.arange(FRAMES) * 10 + 20, atol=3)
    np.testing.assert_allclose([frame.position for frame in frames], np.arange(FRAMES) / 10, atol=1e-3)


def test_a_truncated_video_gives_its_frames_and_an_error(video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    (tmp_path / "short.avi").write_bytes(data[: len(data) // 2])
    frames = list(open_sources([tmp_path / "short.avi"]))
    readable = [frame for frame in frames if frame.image is not None]
    assert 2 < len(readable) < FRAMES
    assert frames[-1].error == f"the video ends after {len(readable)} of {FRAMES} frames: truncated or damaged"


def test_a_whole_video_of_a_varying_rate_is_not_called_truncated(tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg to make a video of a varying rate")
    path = tmp_path / "varying.mkv"
    kept = "select=lt(n\\,3)+gt(n\\,90)+not(mod(n\\,20))"  # 16 of 100 frames, the first and the last among them
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=10"]
    subprocess.run(["ffmpeg", "-loglevel", "error", *source, "-vf", kept, "-vsync", "vfr", path], check=True)
    assert [frame.error for frame in open_sources([path])] == [None] * 16


@pytest.mark.parametrize(
    ("reached", "rate", "positions"),
    [
        ([0, 0.1, 0.5], 10, [0, 0.1, 0.5]),  # of a varying rate
        ([0, 0, 0], 10, [0, 0.1, 0.2]),
        ([0, 0, 0], 0, [None, None, None]),
        ([0, 0.2, 0.1, 0.3], 10, [0, 0.2, 0.2, 0.3]),
        ([-1e15, float("nan"), float("inf")], 10, [0, 0.1, 0.2]),
        ([0, 1, 2], 0, [None, 1, 2]),
    ],
)
def test_a_position_comes_from_the_container_or_the_rate_and_never_goes_back(
    reached: list[float], rate: float, positions: list[float | None]
) -> None:
    found: list[float | None] = []
    for index, moment in enumerate(reached):
        capture = SimpleNamespace(get=lambda _: rate)
        found.append(_position(capture, index, moment, found[-1] if found else None))
    assert found == positions
