"""Recordings of video files: as long as the videos, each frame where it stood in them."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from support.data.recordings import at, lasts, play, record
from support.live.results import make_result
from support.models.bundles import make_bundle

from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs.recorder import Recorder


def times(path: Path) -> list[float]:
    return [moment for moment, _ in play(path)]


@pytest.mark.parametrize("rate", [10, 25, 30_000 / 1001, 60])
def test_a_recording_lasts_as_long_as_the_video(tmp_path: Path, rate: float) -> None:
    path = tmp_path / "out.mp4"
    record(path, [at(index / rate, index) for index in range(50)])
    assert times(path) == pytest.approx([index / rate for index in range(50)], abs=0.001)
    assert lasts(path) == pytest.approx(50 / rate, abs=0.001)


def test_the_same_video_twice_plays_twice(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    video = [at(index / 10, index) for index in range(50)]
    assert record(path, [*video, *video]).paths == [path]
    assert times(path) == pytest.approx([index / 10 for index in range(100)], abs=0.001)
    assert lasts(path) == pytest.approx(10, abs=0.001)


def test_the_same_video_twice_plays_twice_also_where_nobody_knows_its_times(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    video = [make_result("clip.mp4", index) for index in range(10)]
    record(path, [*video, *video], fps=20)
    assert times(path) == pytest.approx([index / 20 for index in range(20)], abs=0.001)


def test_a_video_of_one_frame_named_often_is_seen_as_often(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    record(path, [at(0.0, 0)] * 5)
    assert times(path) == pytest.approx([0, 0.04, 0.08, 0.12, 0.16], abs=0.001)


def test_dropped_frames_leave_gaps_and_those_after_them_their_times(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    taken = (0, 1, 7, 8, 30, 49)
    video = [at(index / 10, index) for index in taken]
    record(path, [*video, *video[2:]])
    again = [5 + index / 10 - 0.7 for index in taken[2:]]
    assert times(path) == pytest.approx([*(index / 10 for index in taken), *again], abs=0.001)


def test_a_varying_rate_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    moments = [0, 0.01, 0.5, 0.6, 3.0]
    record(path, [at(moment, index) for index, moment in enumerate(moments)])
    assert times(path) == pytest.approx(moments, abs=0.001)
    assert lasts(path) == pytest.approx(3 + 2.4, abs=0.001)  # the last one as long as the one before it


def test_frames_of_one_time_are_all_seen_and_those_after_them_in_time(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    moments = [0.0, 0.1, 0.1, 0.2, 0.4, 0.5]  # as of a container that goes back a little
    record(path, [at(moment, index) for index, moment in enumerate(moments)])
    shown = times(path)
    assert shown[-1] == pytest.approx(0.5, abs=0.001)
    assert min(after - before for before, after in pairwise(shown)) > 0.01


def test_videos_and_images_in_turn_keep_their_files_and_times(tmp_path: Path) -> None:
    def image(name: str) -> object:
        return make_result(name, video=False, captured=0)

    video = [at(index / 10, index) for index in range(10)]
    results = [image("1.png"), *video[:5], image("2.png"), *video[5:], image("3.png"), *video]
    recorder = record(tmp_path / "out.mp4", results)  # type: ignore[arg-type]
    images, clip = recorder.paths
    assert times(images) == pytest.approx([0, 1, 2], abs=0.001)
    assert lasts(images) == pytest.approx(3, abs=0.001)
    assert times(clip) == pytest.approx([index / 10 for index in range(20)], abs=0.001)


def test_a_full_file_is_followed_by_another_and_no_frame_is_missing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "out.mp4", largest=30_000)
    for index in range(50):
        recorder.write(at(index / 10, index, color=(0, 0, 5 * index)))
    recorder.close()
    assert [path.name for path in recorder.paths[:3]] == ["out.mp4", "out-2.mp4", "out-3.mp4"]
    frames = [image for path in recorder.paths for _, image in play(path)]
    assert [int(image[80, 160, 2]) for image in frames] == pytest.approx([5 * index for index in range(50)], abs=4)
    assert all(30_000 <= path.stat().st_size < 40_000 for path in recorder.paths[:-1])
    assert all(times(path)[0] == 0 for path in recorder.paths)
    assert sum(lasts(path) for path in recorder.paths) == pytest.approx(5, abs=0.2)


def test_what_the_command_records_of_videos_of_ten_frames_a_second_lasts_as_long(tmp_path: Path) -> None:
    bundle, clip = make_bundle(tmp_path / "bundle"), tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for index in range(20):
        writer.write(make_result(color=(0, 0, 10 * index), size=(64, 48)).frame.image)  # type: ignore[arg-type]
    writer.release()
    arguments = (clip, clip, "--bundle", bundle, "--save", tmp_path / "twice.mp4")
    program = [sys.executable, "-m", "hybrid_edge.runtime.commands.infer", *map(str, arguments)]
    subprocess.run(program, check=True, capture_output=True, timeout=120)
    assert times(tmp_path / "twice.mp4") == pytest.approx([index / 10 for index in range(40)], abs=0.001)
    assert lasts(tmp_path / "twice.mp4") == pytest.approx(4, abs=0.001)
