from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.data.recordings import write_clip
from support.live.display import open_display
from support.live.run import COMMAND, HANGING, LiveRun, frames_of, processes_of, soon
from support.models.bundles import make_bundle, sample_image
from support.streams.servers import MjpegStream

from hybrid_edge.runtime.opencv import cv2

LINE = {"source", "frame", "captured", "age_ms", "labels", "probabilities", "dropped", "reconnects", "batch"}


Start = Callable[..., LiveRun]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("live") / "bundle")


@pytest.fixture(scope="module")
def stream() -> Iterator[MjpegStream]:
    with MjpegStream() as stream:
        yield stream


@pytest.fixture
def mark() -> Iterator[str]:
    """In the environment of everything that a run starts: nothing of it is left in the end."""
    mark = f"mark-{uuid.uuid4().hex}"
    yield mark
    assert soon(lambda: not processes_of(mark))


@pytest.fixture
def order(tmp_path: Path) -> Path:
    """The file that tells a hanging engine to hang."""
    return tmp_path / "order"


@pytest.fixture
def start(stream: MjpegStream, bundle: Path, mark: str, order: Path) -> Start:
    """Starts a run on the stream, whose engine hangs on order where ``program`` says so."""

    def start(*arguments: object, environment: dict[str, str] | None = None, **settings: Any) -> LiveRun:
        variables = {"MARK": mark, "HANG_ORDER": str(order), **(environment or {})}
        return LiveRun(stream.url, "--bundle", bundle, "--headless", *arguments, environment=variables, **settings)

    return start


def test_an_engine_that_hangs_is_replaced_and_frames_flow_again(start: Start, tmp_path: Path, order: Path) -> None:
    with start("--hang-timeout", 1.5, "--save", tmp_path / "out.mp4", program=HANGING) as run:
        run.frames(5)
        assert set(run.results[0]) >= LINE
        order.write_text("released once")
        run.until(lambda: run.events("engine-hung"), what="engine-hung")
        run.frames(5)
        assert "stage infer has been in one call" in run.events("engine-hung")[0]["detail"]
        assert not order.exists()
        order.write_text("holding always")
        assert run.end() == 1
        assert len(run.events("engine-hung")) == 3
        assert "no heartbeat for" in run.events("engine-hung")[1]["detail"]
        assert "error: 3 workers had to be given up within 60 s" in run.errors[-1]
    assert {item.name for item in tmp_path.glob("*.mp4")} >= {"out.mp4", "out-2.mp4"}  # neither written over
    assert frames_of(tmp_path / "out.mp4") >= 5


@pytest.mark.parametrize(
    ("supervise", "signum", "code"),
    [
        ("--supervise", signal.SIGINT, 130),
        ("--supervise", signal.SIGTERM, 0),
        ("--no-supervise", signal.SIGINT, 130),
    ],
)
def test_a_signal_drains_ends_as_documented_and_leaves_a_playable_video(
    start: Start, tmp_path: Path, supervise: str, signum: signal.Signals, code: int
) -> None:
    video = tmp_path / "out.mp4"
    with start("--save", video, supervise) as run:
        run.frames(5)
        before = time.monotonic()
        run.process.send_signal(signum)
        assert run.end() == code
        assert time.monotonic() - before < 3  # 2 s, on a machine that does nothing else
        assert not [line for line in run.errors if "Traceback" in line or "killed" in line]
        assert any("results/s" in line for line in run.errors)
        assert (run.errors[-1] == "interrupted") == (code == 130)
    assert frames_of(video) >= 5


def test_an_engine_that_fails_and_then_hangs_while_it_is_closed_is_replaced(start: Start, order: Path) -> None:
    with start("--hang-timeout", 1.5, program=HANGING) as run:
        run.frames(3)
        order.write_text("failing once")
        run.until(lambda: run.events("engine-hung"), what="the replacement")
        assert "it was done and did not end" in run.events("engine-hung")[0]["detail"]
        assert len(run.events("engine-failed")) == 3
        run.frames(3)
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130


def test_an_engine_that_hangs_while_it_is_closed_holds_up_no_end_without_a_supervisor(
    start: Start, order: Path
) -> None:
    with start("--no-supervise", "--hang-timeout", 1, program=HANGING) as run:
        run.frames(3)
        order.write_text("failing once")
        assert run.end() == 1
    assert "closing the engine did not end in time and was left behind" in run.errors
    assert run.errors[-1] == "error: the engine was told to fail"


@pytest.mark.parametrize("signals", [1, 2])
def test_an_engine_that_hangs_holds_up_no_end_without_a_supervisor_either(
    start: Start, order: Path, signals: int
) -> None:
    with start("--no-supervise", program=HANGING) as run:
        run.frames(3)
        order.write_text("released once")
        run.until(lambda: not order.exists(), what="the hang")
        begun = time.monotonic()
        for _ in range(signals):
            run.process.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert run.end() == 130
        if signals == 1:
            assert "infer did not end in time and was left behind" in run.errors
        else:
            assert time.monotonic() - begun < 1.5  # it would have waited for 1.8 s


def test_systemd_is_told_ready_watchdog_status_and_stopping_at_an_abstract_address(start: Start) -> None:
    address = f"\0hybrid-edge-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(30)
        environment = {"NOTIFY_SOCKET": address.replace("\0", "@"), "WATCHDOG_USEC": "400000"}
        with start(environment=environment) as run:
            told: list[str] = []
            while not told or "classified" not in told[-1]:
                told += systemd.recv(4096).decode().splitlines()
            status = told[-1]
            for _ in range(5):
                told += systemd.recv(4096).decode().splitlines()
            run.process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in told:
                told += systemd.recv(4096).decode().splitlines()
            assert run.end() == 0
    assert told.count("READY=1") == 1
    assert told.count("WATCHDOG=1") >= 4
    expected = r"STATUS=running: results/s [\d.]+, classified \d+, dropped \d+, reconnects 0; workers replaced 0"
    assert re.fullmatch(expected, status)


@pytest.mark.skipif(not shutil.which("gst-launch-1.0"), reason="needs gst-launch-1.0")
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv (util-linux)")
@pytest.mark.parametrize("victim", ["supervisor", "worker"])
def test_no_child_pipeline_is_left_by_whom_it_is_killed(bundle: Path, mark: str, victim: str) -> None:
    source = "gst://videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=25/1"
    with LiveRun(source, "--bundle", bundle, "--headless", environment={"MARK": mark}) as run:
        run.frames(3)
        run.until(lambda: len(processes_of(mark)) == 3, what="supervisor, worker and pipeline")
        supervisor, worker, pipeline = sorted(processes_of(mark))
        assert supervisor == run.process.pid
        os.kill(supervisor if victim == "supervisor" else worker, signal.SIGKILL)
        if victim == "worker":
            run.until(lambda: run.events("engine-hung"), what="engine-hung")
            run.until(lambda: pipeline not in processes_of(mark), what="the end of the pipeline")
            run.frames(3)
            run.process.send_signal(signal.SIGINT)
            assert run.end() == 130
            assert any("faults: engine-hung 1" in line for line in run.errors)  # counted beyond its worker's life


def test_q_in_the_window_ends_worker_and_supervisor_with_0(stream: MjpegStream, bundle: Path) -> None:
    with open_display() as display, LiveRun(stream.url, "--bundle", bundle, environment=display.environment) as run:
        run.frames(5)
        display.key("hybrid-edge", "q")
        assert run.end() == 0
        assert "interrupted" not in run.errors


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_unit_of_the_documentation(tmp_path: Path) -> None:
    docs = Path(__file__).parents[3] / "docs"
    text = (docs / "hybrid-edge.service").read_text()
    command = re.search(r"^ExecStart=(\S+) (.*)$", text, re.MULTILINE)
    unit = tmp_path / "hybrid-edge.service"
    here = {
        command[1]: sys.executable,
        "User=camera": "User=root",
        "WorkingDirectory=/home/camera": "WorkingDirectory=/",
    }
    for there, ours in here.items():
        text = text.replace(there, ours)
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    options = command[2].replace("/etc/hybrid-edge", str(docs)).split()
    refused = subprocess.run([*COMMAND, *options, "--help"], capture_output=True, text=True, check=False)
    assert refused.returncode == 0  # every option of it exists


def test_snapshots_smoothing_and_two_sources_in_one_run(start: Start, stream: MjpegStream, tmp_path: Path) -> None:
    second, kept = f"{stream.url}?second", tmp_path / "kept"
    wanted = ("--smooth", 0.5, "--batch", 2, "--max-wait", 20, "--snapshots", kept, "--when", "cat>=0")
    with start(second, "--no-supervise", *wanted) as run:
        run.until(lambda: {line["source"] for line in run.results} == {stream.url, second})
        run.frames(3)
        assert all(line["smoothed_s"] == 0.5 for line in run.results)
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
    assert cv2.imread(str(next(kept.iterdir()))).shape == (240, 320, 3)


def test_a_bundle_that_is_not_there_ends_worker_and_supervisor_with_its_code(tmp_path: Path) -> None:
    arguments = [*COMMAND, "rtsp://127.0.0.1:9/none", "--bundle", str(tmp_path / "none"), "--headless"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("expected a bundle") == 1
    assert "Traceback" not in done.stderr


def test_a_video_under_a_supervisor_ends_by_itself(bundle: Path, tmp_path: Path) -> None:
    video = write_clip(tmp_path / "clip.avi", [sample_image(number, 48, 64) for number in range(20)])
    with LiveRun(video, "--bundle", bundle, "--supervise") as run:
        assert run.end() == 0
        assert [line["frame"] for line in run.results] == list(range(20))


def test_a_worker_that_is_killed_while_stderr_is_on_a_full_disk_is_replaced(
    stream: MjpegStream, bundle: Path, mark: str
) -> None:
    arguments = [*COMMAND, stream.url, "--bundle", str(bundle), "--headless", "--json"]
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=full, text=True, env={**os.environ, "MARK": mark}
        ) as process,
    ):
        try:
            assert '"labels"' in process.stdout.readline()
            (worker,) = (pid for pid in processes_of(mark) if pid != process.pid)
            os.kill(worker, signal.SIGKILL)
            assert any('"engine-hung"' in line for line in process.stdout)
            assert '"labels"' in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_full_disk_under_stdout_ends_a_live_run_with_1_and_says_so(stream: MjpegStream, bundle: Path) -> None:
    arguments = [*COMMAND, stream.url, "--bundle", str(bundle), "--headless", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "expected room on the disk, found none" in done.stderr


def test_files_beside_a_stream_that_could_not_be_read_are_named(
    start: Start, stream: MjpegStream, tmp_path: Path
) -> None:
    for name in ("one.png", "two\x1b.png"):
        (tmp_path / name).write_bytes(b"damaged")
    (tmp_path / "clip.avi").write_bytes(b"damaged")
    with start(tmp_path, "--no-supervise") as run:
        run.until(lambda: len([line for line in run.errors if line.startswith("unreadable: ")]) == 3)
        stream.corrupt(10)
        run.until(lambda: [line for line in run.lines if line.get("source") == stream.url and "error" in line])
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 0
    named = sorted(line for line in run.errors if line.startswith("unreadable: "))
    assert named[1] == f"unreadable: {tmp_path}/one.png: not an image that OpenCV reads, or damaged"
    assert [line.split(": ")[1] for line in named] == [
        f"{tmp_path}/{name}" for name in ("clip.avi", "one.png", r"two\x1b.png")
    ]
