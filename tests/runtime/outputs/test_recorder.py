"""Recordings: really played back, with the right pictures at the right times, also after a kill and on a full disk."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.data.recordings import play, record
from support.live import recorder_process
from support.live.results import make_prediction, make_result

from hybrid_edge.runtime.canvas.text import Pixels
from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs.mp4 import Mp4Writer
from hybrid_edge.runtime.outputs.recorder import Recorder
from hybrid_edge.runtime.sources.files import open_sources

RED, GREEN, BLUE = (0, 0, 255), (0, 255, 0), (255, 0, 0)


def boxes(path: Path) -> list[str]:
    """The kinds of a file's outermost boxes; it must end with the last of them."""
    data, place, kinds = path.read_bytes(), 0, []
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        kinds.append(kind.decode())
        place += size
    assert place == len(data)
    return kinds


def middle(picture: Pixels) -> tuple[int, ...]:
    return tuple(int(value) for value in picture[picture.shape[0] // 3, picture.shape[1] // 2])


def test_every_classified_frame_is_played_in_order_with_a_label_and_no_other_is(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    results = [make_result("clip.avi", index, color=(0, 0, 5 * index)) for index in range(50)]
    results.insert(20, make_result("clip.avi", 20, error="the decoder gave up"))
    record(path, results, fps=20)
    frames = play(path)
    assert [middle(image)[2] for _, image in frames] == pytest.approx([5 * index for index in range(50)], abs=4)
    assert [time for time, _ in frames] == pytest.approx([index / 20 for index in range(50)], abs=0.001)
    assert all(image.shape == (240, 320, 3) for _, image in frames)
    strips = np.array([image[-22:, :110] for _, image in frames])
    assert (strips.reshape(50, -1).max(axis=1) > 200).all()  # white letters
    assert all((image[:-30].max(axis=(0, 1)) < 255).all() for _, image in frames)  # and nowhere else


def test_hybrid_infer_itself_reads_a_recording_as_a_whole_video(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    moments = [100.0, 100.03, 100.4, 101.9, 102.0]  # an uneven source, as live ones are
    record(path, [make_result(index=index, captured=moment) for index, moment in enumerate(moments)], live=["cam0"])
    frames = list(open_sources([path]))
    assert [frame.error for frame in frames] == [None] * 5


def test_live_frames_are_shown_when_they_were_captured(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    moments = [100.0, 100.03, 100.4, 101.9, 102.0]
    record(path, [make_result(index=index, captured=moment) for index, moment in enumerate(moments)], live=["cam0"])
    assert [time for time, _ in play(path)] == pytest.approx([0, 0.03, 0.4, 1.9, 2.0], abs=0.001)


def test_a_camera_faster_than_expected_is_not_slowed_down(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    record(path, [make_result(index=index, captured=100 + index / 120) for index in range(120)], fps=25, live=["cam0"])
    frames = play(path)
    assert len(frames) == 120
    assert frames[-1][0] == pytest.approx(119 / 120, abs=0.001)


def test_a_gap_shows_a_notice_and_not_the_last_picture(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    record(path, [make_result(captured=100.0), make_result(index=1, captured=160.0)], live=["cam0"])
    (_, first), (begin, gap), (end, last) = play(path)
    assert middle(first)[2] > 250
    assert middle(last)[2] > 250
    assert gap.mean() < 60
    assert gap.max() > 100  # its text
    assert begin < 0.2
    assert end == pytest.approx(60, abs=0.01)


def test_a_camera_that_comes_back_after_a_weekend_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path, weekend = tmp_path / "out.mp4", 60 * 3600.0  # a fragment's 32 bits hold 13 hours
    moments = [100.0, 100.0 + weekend, 101.0 + weekend]
    record(path, [make_result(index=index, captured=moment) for index, moment in enumerate(moments)], live=["cam0"])
    times = [time for time, _ in play(path)]
    assert times[2:] == pytest.approx([weekend, weekend + 1], abs=0.01)


def test_a_killed_process_leaves_a_video_that_plays_to_its_last_frame(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, recorder_process.__file__, "killed", tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 100:
            process.send_signal(signal.SIGKILL)
    process.wait(10)
    frames = play(tmp_path / "out.mp4")
    assert len(frames) > 100
    assert [middle(image)[2] for _, image in frames[:101]] == pytest.approx(list(range(101)), abs=4)
    assert list(open_sources([tmp_path / "out.mp4"]))[-1].error is None


@pytest.mark.parametrize("lost", [1, 5, 200, 3000])
def test_a_torn_end_costs_one_frame(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "out.mp4"
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    record(path, [make_result("clip.avi", index, image=noise) for index in range(10)])
    path.write_bytes(path.read_bytes()[:-lost])
    assert len(play(path)) in {9, 10}


def fill_disk(mode: str, folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, recorder_process.__file__, mode, folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    played = len(play(folder / "out.mp4"))
    assert 2 <= played < 100
    assert boxes(folder / "out.mp4") == ["ftyp", "moov", *["moof", "mdat"] * played]  # no torn end
    assert list(open_sources([folder / "out.mp4"]))[-1].error is None
    return done.stdout.splitlines()


def test_files_that_may_not_grow_are_reported_once_and_what_was_recorded_plays(tmp_path: Path) -> None:
    assert fill_disk("limited", tmp_path) == [
        f"disk-full cam0 --save {tmp_path / 'out.mp4'}: File too large; recording stopped",
        f"disk-full cam0 --snapshots {tmp_path / 'kept'}: File too large; no more are written",
        "kept 1",
    ]
    assert len(list((tmp_path / "kept").iterdir())) == 1  # and no torn or temporary one


def test_a_full_disk_is_reported_once_and_what_was_recorded_plays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode:
        pytest.skip("may not mount a small tmpfs")
    try:
        *events, kept = fill_disk("full", disk)
        assert events == [
            f"disk-full cam0 --save {disk / 'out.mp4'}: No space left on device; recording stopped",
            f"disk-full cam0 --snapshots {disk / 'kept'}: No space left on device; no more are written",
        ]
        assert kept == f"kept {len(list((disk / 'kept').iterdir()))}"  # and no torn or temporary one
    finally:
        subprocess.run(["umount", disk], check=True)


def test_each_source_and_each_resolution_has_a_file_of_its_own(tmp_path: Path) -> None:
    results = [make_result("a", index, color=RED) for index in range(3)]
    results += [make_result("b", index, color=GREEN) for index in range(4)]
    results += [make_result("a", 3 + index, color=BLUE, size=(640, 480)) for index in range(5)]
    said: list[str] = []
    recorder = record(tmp_path / "out.mp4", results, live=["a", "b"], say=said.append)
    assert [path.name for path in recorder.paths] == ["out.mp4", "out-2.mp4", "out-3.mp4"]
    found = [
        (len(play(path)), middle(play(path)[0][1]).index(max(middle(play(path)[0][1])))) for path in recorder.paths
    ]
    assert found == [(3, 2), (4, 1), (5, 0)]
    assert play(recorder.paths[2])[0][1].shape == (480, 640, 3)
    assert said[2] == f"recording to {tmp_path / 'out-3.mp4'}, 640x480"


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "out.mp4").write_bytes(b"another recording")
    assert record(tmp_path / "out.mp4", [make_result()]).paths == [tmp_path / "out-2.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"another recording"


def test_images_share_one_file_a_second_each(tmp_path: Path) -> None:
    sizes = [(320, 240), (100, 400), (640, 480)]
    results = [make_result(f"{number}.png", size=size, video=False, captured=0) for number, size in enumerate(sizes)]
    recorder = record(tmp_path / "out.mp4", results)
    (path,) = recorder.paths
    frames = play(path)
    assert [time for time, _ in frames] == pytest.approx([0, 1, 2], abs=0.001)
    assert all(image.shape == (240, 320, 3) for _, image in frames)


@pytest.mark.parametrize(
    ("size", "recorded"),
    [
        ((28, 28), (252, 252)),
        ((1281, 721), (1280, 720)),
        ((7680, 4320), (1920, 1080)),
        ((600, 40), (1800, 120)),
        ((4000, 100), (1920, 48)),
        ((70_000, 8), (1920, 2)),
    ],
)
def test_recorded_frames_are_even_not_too_large_and_readable(
    tmp_path: Path, size: tuple[int, int], recorded: tuple[int, int]
) -> None:
    record(tmp_path / "out.mp4", [make_result(size=size)])
    ((_, image),) = play(tmp_path / "out.mp4")
    assert image.shape == (recorded[1], recorded[0], 3)


def test_many_sources_keep_few_files_open(tmp_path: Path) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = files()
    recorder = Recorder(tmp_path / "out.mp4")
    for number in range(50):
        recorder.write(make_result(f"{number}.avi"))
    assert files() - before <= 32
    recorder.close()
    assert files() == before
    assert len(recorder.paths) == 50


def test_a_result_is_left_as_it_was(tmp_path: Path) -> None:
    result = make_result()
    assert result.frame.image is not None
    image = result.frame.image.copy()
    record(tmp_path / "out.mp4", [result])
    assert np.array_equal(result.frame.image, image)
    assert np.array_equal(make_prediction().probabilities, result.prediction.probabilities)  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "message"), [("out.avi", r"ends in \.mp4, found \.avi"), ("out", "found no suffix")])
def test_a_name_that_is_no_mp4_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recorder(tmp_path / name)


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected the folder .* to exist"):
        Recorder(tmp_path / "absent" / "out.mp4")


def test_a_time_that_goes_back_keeps_the_order(tmp_path: Path) -> None:
    _, data = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))
    writer = Mp4Writer(tmp_path / "out.mp4", 16, 16)
    for start in (0.0, 0.5, 0.1, 2.0):
        writer.write(data.tobytes(), start, 1.0)
    assert writer.end == pytest.approx(3.0)
    writer.close()
    assert [time for time, _ in play(tmp_path / "out.mp4")] == pytest.approx([0, 0.5, 0.5, 2], abs=0.001)
