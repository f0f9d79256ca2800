"""Recordings in H.264, by the encoder that this machine has."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.data.recordings import play, record, times
from support.live.results import make_result
from support.models.bundles import make_bundle
from support.streams.reading import children

from hybrid_edge.runtime.outputs import encoders
from hybrid_edge.runtime.outputs.encoders import H264Encoder, find_h264_encoder
from hybrid_edge.runtime.outputs.recorder import Recorder
from hybrid_edge.runtime.outputs.sink import Result

COLORS = [(0, 0, 250), (0, 250, 0), (250, 0, 0), (250, 250, 250)]


@pytest.fixture(scope="module")
def element() -> str:
    found = find_h264_encoder()
    if found is None:
        pytest.skip("GStreamer has no H.264 encoder here (openh264enc is in gstreamer1.0-plugins-bad)")
    return found


def live(count: int, **settings: object) -> list[Result]:
    """Frames of a camera, a tenth of a second apart, each ten of one colour."""
    return [
        make_result(index=index, captured=100 + index / 10, color=COLORS[index // 10 % 4], **settings)  # type: ignore[arg-type]
        for index in range(count)
    ]


def assert_plays(path: Path, first: int, count: int) -> None:
    """Assert that the frames from the first on are there, each with its colour, a tenth of a second apart."""
    frames = play(path)
    assert [time for time, _ in frames] == pytest.approx([index / 10 for index in range(count)], abs=0.001)
    for index, (_, image) in enumerate(frames, first):
        np.testing.assert_allclose(image[80, 160], COLORS[index // 10 % 4], atol=25)


def test_every_frame_is_played_when_it_was_captured_and_a_player_can_jump(tmp_path: Path, element: str) -> None:
    said: list[str] = []
    record(tmp_path / "out.mp4", live(70), live=["cam0"], say=said.append, h264=element)
    assert said == [f"recording to {tmp_path / 'out.mp4'}, 320x240, H.264 by {element}"]
    assert_plays(tmp_path / "out.mp4", 0, 70)
    if shutil.which("ffprobe"):
        asked = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", "stream=codec_tag_string,pix_fmt"]
        asked += ["-show_entries", "packet=flags", "-of", "csv=p=0", str(tmp_path / "out.mp4")]
        done = subprocess.run(asked, check=True, capture_output=True, text=True)
        lines = done.stdout.split()
        assert "avc1,yuv420p" in lines
        keys = [index for index, flags in enumerate(line for line in lines if "avc1" not in line) if "K" in flags]
        assert keys[0] == 0
        assert max(np.diff([*keys, len(lines) - 1])) <= encoders.KEY_INTERVAL
        assert done.stderr == ""


def test_a_file_is_whole_at_every_moment_and_a_gap_and_another_size_are_as_in_any_recording(
    tmp_path: Path, element: str
) -> None:
    path = tmp_path / "out.mp4"
    recorder = Recorder(path, live=["cam0"], h264=element)
    for count, result in enumerate(live(12), 1):
        recorder.write(result)
        shutil.copy(path, tmp_path / "copy.mp4")
        assert len(play(tmp_path / "copy.mp4")) == count
    recorder.write(make_result(index=12, captured=130.0))
    recorder.write(make_result(index=13, captured=130.1, size=(400, 300)))
    recorder.close()
    assert len(times(path)) == 14  # with the gap's notice
    assert [kept.name for kept in recorder.paths] == ["out.mp4", "out-2.mp4"]
    assert play(tmp_path / "out-2.mp4")[0][1].shape == (300, 400, 3)


def test_where_the_encoder_ends_the_recording_goes_on_as_motion_jpeg(tmp_path: Path, element: str) -> None:
    said, before = list[str](), children()
    recorder = Recorder(tmp_path / "out.mp4", live=["cam0"], say=said.append, h264=element)
    for index, result in enumerate(live(20)):
        if index == 10:
            (encoder,) = children() - before
            os.kill(encoder, signal.SIGKILL)
        recorder.write(result)
    recorder.close()
    assert_plays(tmp_path / "out.mp4", 0, 10)
    assert_plays(tmp_path / "out-2.mp4", 10, 10)
    assert any("the recording goes on as Motion JPEG" in line for line in said)
    assert not recorder.stopped


def test_an_encoder_that_does_not_answer_is_given_up(element: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "ENCODE_TIMEOUT", 0.5)
    before = children()
    encoder = H264Encoder(element, 320, 240)
    (process,) = children() - before
    os.kill(process, signal.SIGSTOP)
    with pytest.raises(encoders.EncoderError, match="expected a picture within"):
        encoder.encode(np.zeros((240, 320, 3), np.uint8))
    encoder.close()
    assert children() == before


def test_what_an_encoder_says_neither_stops_it_nor_gets_into_the_file(
    tmp_path: Path, element: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "gst-launch-1.0"
    said = r"printf 'Content-Length: 1\r\n\r\n'; yes NvMMLiteOpen | head -n 9000 >&2"  # more than a pipe holds
    program.write_text(f'#!/bin/sh\n{said}\nexec {shutil.which(program.name)} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    record(tmp_path / "out.mp4", live(20), live=["cam0"], h264=element)
    assert_plays(tmp_path / "out.mp4", 0, 20)
    assert [path.name for path in tmp_path.glob("*.mp4")] == ["out.mp4"]


def test_an_element_that_is_missing_or_fails_is_passed_over(element: str, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"nosuchenc": "nosuchenc", "failing": "videoconvert ! video/x-raw,width=1 ! openh264enc"}
    monkeypatch.setattr(encoders, "H264_ENCODERS", others | encoders.H264_ENCODERS)
    assert find_h264_encoder() == element


def test_without_gstreamer_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_h264_encoder() is None


def test_what_the_command_records_plays_after_ctrl_c(tmp_path: Path, element: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    source = "gst://videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=20/1"
    arguments = [source, "--bundle", str(bundle), "--headless", "--json", "--save", str(tmp_path / "out.mp4")]
    program = [sys.executable, "-m", "hybrid_edge.runtime.commands.infer", *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(30)]
        os.killpg(process.pid, signal.SIGINT)
        rest, messages = process.communicate(timeout=60)
    results = [line for line in [*lines, *rest.splitlines()] if b'"labels"' in line]
    assert f"H.264 by {element}".encode() in messages
    assert b"goes on as Motion JPEG" not in messages
    assert len(play(tmp_path / "out.mp4")) == len(results)
