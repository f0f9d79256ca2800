import gc
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from support.data.recordings import at, lasts, play, record, times, write_clip
from support.live.results import make_result
from support.models.bundles import make_bundle, sample_image

from hybrid_edge.runtime.frame import Pixels
from hybrid_edge.runtime.outputs import recorder
from hybrid_edge.runtime.outputs.encoders import JpegEncoder
from hybrid_edge.runtime.outputs.mp4 import Mp4Writer
from hybrid_edge.runtime.outputs.recorder import Recorder
from hybrid_edge.runtime.outputs.sink import Result
from hybrid_edge.runtime.sources.files import open_sources

RED, GREEN, BLUE = (0, 0, 255), (0, 255, 0), (255, 0, 0)


def middle(picture: Pixels) -> tuple[int, ...]:
    return tuple(int(value) for value in picture[picture.shape[0] // 3, picture.shape[1] // 2])


def live(*moments: float) -> list[Result]:
    return [make_result(index=index, captured=moment) for index, moment in enumerate(moments)]


def test_every_classified_frame_is_played_in_order_with_a_label_and_no_other_is(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    results = [make_result("clip.avi", index, color=(0, 0, 5 * index)) for index in range(50)]
    results.insert(20, make_result("clip.avi", 20, error="the decoder gave up"))
    images = [result.frame.image.copy() for result in results if result.frame.image is not None]
    record(path, results, fps=20)
    frames = play(path)
    assert [middle(image)[2] for _, image in frames] == pytest.approx([5 * index for index in range(50)], abs=4)
    assert [time for time, _ in frames] == pytest.approx([index / 20 for index in range(50)], abs=0.001)
    assert all(image.shape == (240, 320, 3) for _, image in frames)
    strips = np.array([image[-22:, :110] for _, image in frames])
    assert (strips.reshape(50, -1).max(axis=1) > 200).all()  # white letters
    assert all((image[:-30].max(axis=(0, 1)) < 255).all() for _, image in frames)  # and nowhere else
    left = [result.frame.image for result in results if result.frame.image is not None]
    assert np.array_equal(images, left)  # drawn into a copy


def test_live_frames_are_shown_when_they_were_captured_and_hybrid_infer_reads_them_all(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    record(path, live(100.0, 100.008, 100.016, 100.4, 101.9), fps=25, live=["cam0"])
    assert times(path) == pytest.approx([0, 0.008, 0.016, 0.4, 1.9], abs=0.001)
    assert [frame.error for frame in open_sources([path])] == [None] * 5


def test_a_gap_shows_a_notice_and_not_the_last_picture(tmp_path: Path) -> None:
    record(tmp_path / "out.mp4", live(100, 160), live=["cam0"])
    (_, first), (begin, gap), (end, last) = play(tmp_path / "out.mp4")
    assert middle(first)[2] > 250
    assert middle(last)[2] > 250
    assert gap.mean() < 60
    assert gap.max() > 100  # its text
    assert begin < 0.2
    assert end == pytest.approx(60, abs=0.01)


def test_a_camera_that_comes_back_after_a_weekend_goes_on_in_the_same_file(tmp_path: Path) -> None:
    weekend = 60 * 3600.0  # a fragment's 32 bits hold 13 hours
    record(tmp_path / "out.mp4", live(100, 100 + weekend, 101 + weekend), live=["cam0"])
    assert times(tmp_path / "out.mp4")[2:] == pytest.approx([weekend, weekend + 1], abs=0.01)


@pytest.mark.parametrize("rate", [10, 30_000 / 1001, 60])
def test_a_recording_lasts_as_long_as_the_video(tmp_path: Path, rate: float) -> None:
    path = tmp_path / "out.mp4"
    record(path, [at(index / rate, index) for index in range(50)])
    assert times(path) == pytest.approx([index / rate for index in range(50)], abs=0.001)
    assert lasts(path) == pytest.approx(50 / rate, abs=0.001)


TAKEN = (0, 1, 7, 8, 30, 49)


@pytest.mark.parametrize(
    ("video", "shown"),
    [
        ([at(index / 10, index) for index in range(50)] * 2, [index / 10 for index in range(100)]),
        ([make_result("clip.mp4", index) for index in range(10)] * 2, [index / 20 for index in range(20)]),
        ([at(0.0, 0)] * 5, [index / 20 for index in range(5)]),
        (
            [at(index / 10, index) for index in (*TAKEN, *TAKEN[2:])],
            [*(index / 10 for index in TAKEN), *(5 + index / 10 - 0.7 for index in TAKEN[2:])],
        ),
    ],
    ids=["with times", "where nobody knows its times", "of one frame", "with dropped frames"],
)
def test_a_video_that_is_named_twice_plays_twice(tmp_path: Path, video: list[Result], shown: list[float]) -> None:
    path = tmp_path / "out.mp4"
    assert record(path, video, fps=20).paths == [path]
    assert times(path) == pytest.approx(shown, abs=0.001)


def test_a_varying_rate_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    moments = [0, 0.01, 0.5, 0.6, 3.0]
    record(path, [at(moment, index) for index, moment in enumerate(moments)])
    assert times(path) == pytest.approx(moments, abs=0.001)
    assert lasts(path) == pytest.approx(3 + 2.4, abs=0.001)  # the last one as long as the one before it


def test_frames_of_one_time_are_all_seen_and_those_after_them_in_time(tmp_path: Path) -> None:
    moments = [0.0, 0.1, 0.1, 0.2, 0.4, 0.5]  # as of a container that goes back a little
    record(tmp_path / "out.mp4", [at(moment, index) for index, moment in enumerate(moments)])
    shown = times(tmp_path / "out.mp4")
    assert shown[-1] == pytest.approx(0.5, abs=0.001)
    assert min(after - before for before, after in pairwise(shown)) > 0.01


def test_videos_and_images_in_turn_keep_their_files_and_times(tmp_path: Path) -> None:
    one, two, three = (make_result(f"{number}.png", video=False, captured=0) for number in range(3))
    video = [at(index / 10, index) for index in range(10)]
    images, clip = record(tmp_path / "out.mp4", [one, *video[:5], two, *video[5:], three, *video]).paths
    assert times(images) == pytest.approx([0, 1, 2], abs=0.001)
    assert lasts(images) == pytest.approx(3, abs=0.001)
    assert times(clip) == pytest.approx([index / 10 for index in range(20)], abs=0.001)


def test_images_share_one_file_fitted_to_the_size_of_the_first(tmp_path: Path) -> None:
    sizes = [(320, 240), (100, 400), (640, 480)]
    results = [make_result(f"{number}.png", size=size, video=False, captured=0) for number, size in enumerate(sizes)]
    (path,) = record(tmp_path / "out.mp4", results).paths
    assert [image.shape for _, image in play(path)] == [(240, 320, 3)] * 3


def test_a_full_file_is_followed_by_another_without_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_FILE_SIZE", 30_000)
    results = [at(index / 10, index, color=(0, 0, 5 * index)) for index in range(50)]
    paths = record(tmp_path / "out.mp4", results).paths
    assert [path.name for path in paths[:3]] == ["out.mp4", "out-2.mp4", "out-3.mp4"]
    frames = [image for path in paths for _, image in play(path)]
    assert [int(image[80, 160, 2]) for image in frames] == pytest.approx([5 * index for index in range(50)], abs=4)
    assert all(30_000 <= path.stat().st_size < 40_000 for path in paths[:-1])
    assert all(times(path)[0] == 0 for path in paths)
    assert sum(map(lasts, paths)) == pytest.approx(5, abs=0.2)


def test_each_source_and_each_resolution_has_a_file_of_its_own(tmp_path: Path) -> None:
    results = [make_result("a", index, color=RED) for index in range(3)]
    results += [make_result("b", index, color=GREEN) for index in range(4)]
    results += [make_result("a", 3 + index, color=BLUE, size=(640, 480)) for index in range(5)]
    said: list[str] = []
    paths = record(tmp_path / "out.mp4", results, live=["a", "b"], say=said.append).paths
    assert [path.name for path in paths] == ["out.mp4", "out-2.mp4", "out-3.mp4"]
    played = [play(path) for path in paths]
    assert [(len(frames), int(np.argmax(middle(frames[0][1])))) for frames in played] == [(3, 2), (4, 1), (5, 0)]
    assert played[2][0][1].shape == (480, 640, 3)
    assert said[2] == f"recording to {tmp_path / 'out-3.mp4'}, 640x480, Motion JPEG"


def test_a_source_that_changes_its_size_with_each_frame_loses_none_and_makes_few_files(tmp_path: Path) -> None:
    results = [
        make_result("cam0", index, captured=100 + index / 10, size=(320, 240) if index % 2 else (240, 320))
        for index in range(250)
    ]
    record(tmp_path / "out.mp4", results, live=["cam0"])
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 4  # of one frame, and of ten seconds each
    assert sum(len(times(path)) for path in paths) == 250


@pytest.mark.parametrize(
    ("size", "recorded"),
    [
        ((28, 28), (252, 252)),
        ((1281, 721), (1280, 720)),
        ((7680, 4320), (1920, 1080)),
        ((600, 40), (1800, 120)),
        ((70_000, 8), (1920, 2)),
    ],
)
def test_recorded_frames_are_even_and_not_too_large(
    tmp_path: Path, size: tuple[int, int], recorded: tuple[int, int]
) -> None:
    record(tmp_path / "out.mp4", [make_result(size=size)])
    ((_, image),) = play(tmp_path / "out.mp4")
    assert image.shape == (recorded[1], recorded[0], 3)


def test_many_sources_keep_few_files_open(tmp_path: Path) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    gc.collect()  # files that tests before this one left to it must not be closed in between
    before = files()
    recorder = Recorder(tmp_path / "out.mp4")
    for number in range(50):
        recorder.write(make_result(f"{number}.avi"))
    assert files() - before <= 32
    recorder.close()
    assert files() <= before
    assert len(recorder.paths) == 50


def test_a_picture_whose_time_goes_back_comes_behind_the_one_before(tmp_path: Path) -> None:
    writer = Mp4Writer(tmp_path / "out.mp4", JpegEncoder(16, 16))
    for start in (0.0, 0.5, 0.1, 2.0):
        writer.write(np.zeros((16, 16, 3), np.uint8), start, 1.0)
    assert writer.end == pytest.approx(3.0)
    writer.close()
    assert times(tmp_path / "out.mp4") == pytest.approx([0, 0.5, 1.5, 2], abs=0.001)


def test_what_the_command_records_of_videos_of_ten_frames_a_second_lasts_as_long(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    clip = write_clip(tmp_path / "clip.avi", [sample_image(index, 48, 64) for index in range(20)], rate=10)
    arguments = (clip, clip, "--bundle", bundle, "--save", tmp_path / "twice.mp4")
    program = [sys.executable, "-m", "hybrid_edge.runtime.commands.infer", *map(str, arguments)]
    subprocess.run(program, check=True, capture_output=True, timeout=120)
    assert times(tmp_path / "twice.mp4") == pytest.approx([index / 10 for index in range(40)], abs=0.001)
    assert lasts(tmp_path / "twice.mp4") == pytest.approx(4, abs=0.001)
