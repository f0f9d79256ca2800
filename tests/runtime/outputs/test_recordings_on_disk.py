import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.data.recordings import play, record, times
from support.live import recorder_process
from support.live.results import make_result
from support.live.run import COMMAND
from support.models.bundles import encode, make_bundle, sample_image

from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs import recorder
from hybrid_edge.runtime.outputs import recorder as module
from hybrid_edge.runtime.outputs.encoders import JpegEncoder
from hybrid_edge.runtime.outputs.mp4 import Mp4Writer
from hybrid_edge.runtime.outputs.recorder import Recorder
from hybrid_edge.runtime.sources.files import open_sources

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


class Run:
    """A recording of ten frames a second that goes on while its file is handled."""

    def __init__(self, path: Path) -> None:
        self.said: list[str] = []
        self.recorder = Recorder(path, live=["cam0"], say=self.said.append)
        self._index = 0

    def frames(self, count: int) -> None:
        for _ in range(count):
            self.recorder.write(make_result(index=self._index, captured=100 + self._index / 10))
            self._index += 1


def move(path: Path) -> None:
    path.rename(path.with_name("kept.mp4"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def copy_and_truncate(path: Path) -> None:
    shutil.copy(path, path.with_name("kept.mp4"))
    os.truncate(path, 0)


@pytest.mark.parametrize("clear", [Path.unlink, move, empty, copy_and_truncate])
def test_a_recording_cleared_away_begins_anew_under_its_name(tmp_path: Path, clear: Callable[[Path], None]) -> None:
    path = tmp_path / "out.mp4"
    run = Run(path)
    for _ in range(3):
        run.frames(5)
        clear(path)
    run.frames(4)
    run.recorder.close()
    assert times(path) == pytest.approx([0, 0.1, 0.2, 0.3], abs=0.001)
    assert run.recorder.paths == [path]
    assert sum("begins anew" in line for line in run.said) == 3
    assert not run.recorder.stopped
    for kept in tmp_path.glob("kept.mp4"):
        assert len(play(kept)) == 5


def test_a_file_that_is_emptied_while_a_frame_is_written_is_found_at_the_next(tmp_path: Path) -> None:
    path, picture = tmp_path / "out.mp4", sample_image(0, 16, 16)
    writer = Mp4Writer(path, JpegEncoder(16, 16))
    writer.write(picture, 0.0, 0.1)
    assert not writer.is_taken_away()
    empty(path)
    writer.write(picture, 0.1, 0.1)  # behind a hole: a file that is as long as if it were whole
    assert path.stat().st_size == writer.size
    assert writer.is_taken_away()
    assert not path.exists()
    writer.close()


def test_a_removed_files_space_is_freed_while_its_source_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> list[str]:
        links = list(Path("/proc/self/fd").iterdir())
        return [str(link.readlink()) for link in links if link.is_symlink() and str(path) in str(link.readlink())]

    monkeypatch.setattr(module, "LOOK_EVERY", 0.0)
    path = tmp_path / "out.mp4"
    run = Run(path)
    run.frames(3)
    run.recorder.poll()
    assert opened() == [str(path)]
    path.unlink()
    run.recorder.poll()
    assert opened() == []
    run.frames(2)
    run.recorder.close()
    assert len(play(path)) == 2


def test_a_folder_that_is_removed_stops_the_recording_and_not_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    run = Run(folder / "out.mp4")
    run.frames(3)
    shutil.rmtree(folder)
    run.frames(3)
    run.recorder.close()
    assert run.recorder.stopped


def test_nothing_is_written_over_not_even_a_file_in_the_place_of_one_that_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_FILE_SIZE", 1)
    (tmp_path / "out-2.mp4").write_bytes(b"another run's")
    run = Run(tmp_path / "out.mp4")
    run.frames(2)
    move(tmp_path / "out-3.mp4")
    (tmp_path / "out-3.mp4").write_bytes(b"mine")
    run.frames(1)
    run.recorder.close()
    assert [path.name for path in run.recorder.paths] == ["out.mp4", "out-3.mp4", "out-4.mp4"]
    assert (tmp_path / "out-2.mp4").read_bytes() == b"another run's"
    assert (tmp_path / "out-3.mp4").read_bytes() == b"mine"


def test_a_killed_process_leaves_a_video_that_plays_to_its_last_frame(tmp_path: Path) -> None:
    command = [sys.executable, recorder_process.__file__, "killed", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    for line in process.stdout:
        if int(line) == 100:
            process.send_signal(signal.SIGKILL)
    process.wait(10)
    frames = play(tmp_path / "out.mp4")
    assert len(frames) > 100
    assert [int(image[80, 160, 2]) for _, image in frames[:101]] == pytest.approx(list(range(101)), abs=4)
    assert list(open_sources([tmp_path / "out.mp4"]))[-1].error is None


@pytest.mark.parametrize("lost", [1, 200, 3000])
def test_a_torn_end_costs_one_frame(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "out.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    record(path, [make_result("clip.avi", index, image=noise) for index in range(10)])
    path.write_bytes(path.read_bytes()[:-lost])
    assert len(play(path)) in {9, 10}


def boxes(path: Path) -> list[str]:
    """The kinds of a file's outermost boxes; it must end with the last of them."""
    data, place, kinds = path.read_bytes(), 0, []
    while place < len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        kinds.append(kind.decode())
        place += size
    assert place == len(data)
    return kinds


def process(mode: str, path: Path) -> list[str]:
    command = [sys.executable, recorder_process.__file__, mode, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=ENVIRONMENT)
    return done.stdout.splitlines()


def test_files_that_may_not_grow_are_reported_once_and_what_was_recorded_plays(tmp_path: Path) -> None:
    assert process("limited", tmp_path) == [
        f"disk-full cam0 --save {tmp_path / 'out.mp4'}: File too large; recording stopped",
        f"disk-full cam0 --snapshots {tmp_path / 'kept'}: File too large; no more are written",
    ]
    played = len(play(tmp_path / "out.mp4"))
    assert 2 <= played < 100
    assert boxes(tmp_path / "out.mp4") == ["ftyp", "moov", *["moof", "mdat"] * played]  # no torn end
    assert list(open_sources([tmp_path / "out.mp4"]))[-1].error is None
    (kept,) = (tmp_path / "kept").iterdir()  # and no torn or temporary one
    assert cv2.imread(str(kept)) is not None


def test_a_run_of_files_whose_outputs_are_incomplete_says_so_and_ends_with_1(tmp_path: Path) -> None:
    bundle, photos = make_bundle(tmp_path / "bundle"), tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        (photos / f"{number}.png").write_bytes(encode(sample_image(number), ".png"))

    def infer(*arguments: object, limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, str(photos), "--bundle", str(bundle), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )

    done = infer("--save", tmp_path / "out.mp4", limit=20_000)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 13
    assert f"disk-full: --save {tmp_path / 'out.mp4'}: File too large" in done.stderr
    assert "12 classified" in done.stderr
    assert done.stderr.splitlines()[-1] == "the recording is incomplete, for the reason named above"
    done = infer("--snapshots", tmp_path / "kept", "--when", "cat>=0", limit=100)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "the snapshots are incomplete, for the reason named above"
    assert infer("--save", tmp_path / "whole.mp4", limit=10_000_000).returncode == 0


@pytest.mark.parametrize("name", ["out.mp4", "below/out.mp4"])
def test_a_folder_that_may_not_be_entered_is_refused_before_the_run(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "closed"
    (folder / "below").mkdir(parents=True)
    folder.chmod(0)
    (said,) = process("closed", folder / name)
    folder.chmod(0o700)
    assert said.startswith(f"--save {folder / name}: expected ")
