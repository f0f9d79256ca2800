import contextlib
import io
import json
import os
import pty
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console
from support.live import statusline_process
from support.live.results import LABELS, make_result, make_status

from hybrid_edge.runtime.outputs import statusline
from hybrid_edge.runtime.outputs.statusline import StatusLine
from hybrid_edge.runtime.sources.events import Event


def make_log(*live: str) -> tuple[StatusLine, io.StringIO]:
    stream = io.StringIO()
    return StatusLine(Console(file=stream, width=80, color_system=None), live=live), stream


def test_in_a_log_the_state_is_one_line_a_minute_and_one_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    line, stream = make_log()
    line.status(make_status())
    assert stream.getvalue() == ""
    monkeypatch.setattr(statusline, "LOG_EVERY", 0.0)
    line.status(make_status(faults={"lost": 2, "corrupt": 5}))
    monkeypatch.setattr(statusline, "LOG_EVERY", 60.0)
    line.status(make_status())
    line.close()
    first, last = stream.getvalue().splitlines()
    assert first == (
        "1:02:05  24.8 results/s  age 31 ms (99 % under 72)  inference 28.4 ms  faults: lost 2, corrupt 5; "
        "cam0: 15 classified, 3 dropped, 1 unreadable, 1 reconnects"
    )
    assert "faults" not in last


def test_a_thousand_corrupt_frames_are_one_line_a_minute_and_the_next_one_counts_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line, stream = make_log()
    for number in range(1000):
        line.event(Event("corrupt", "cam0", f"frame {number}", time.time()))
        line.poll()
    line.event(Event("lost", "cam0", "unplugged", time.time()))
    line.event(Event("corrupt", "cam1", "frame 0", time.time()))
    monkeypatch.setattr(statusline, "REPEAT_EVERY", 0.0)
    line.event(Event("corrupt", "cam0", "frame 1000", time.time()))
    lines = stream.getvalue().splitlines()
    told = [
        "corrupt: cam0: frame 0",
        "lost: cam0: unplugged",
        "corrupt: cam1: frame 0",
        "corrupt: cam0: frame 1000 (999 more since the last one was told)",
    ]
    assert [line[9:] for line in lines] == told


def test_on_a_terminal_an_unreadable_frame_takes_the_label_away() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200, color_system=None)
    line = StatusLine(console)
    blank = make_result(index=2)
    blank = replace(blank, prediction=None, frame=replace(blank.frame, error="no ink: expected some"))
    for result, label, said in (
        (make_result(), True, ""),
        (make_result(index=1, error="torn"), False, "frame unreadable"),
        (blank, False, "no ink "),
    ):
        line.write(result)
        line.status(make_status())
        stream.truncate(0)
        line._refreshed = 0.0
        line.poll()
        shown = stream.getvalue()
        assert (LABELS[0] in shown and "75.0 %" in shown) is label
        assert said in shown
    line.close()


def test_a_file_that_could_not_be_read_is_named_and_a_streams_frame_is_not() -> None:
    streams = ("/dev/video0", "/dev/video0 (2)", "rtsp://camera/stream", "gst://videotestsrc")
    line, stream = make_log(*streams)
    line.write(make_result("photos/a\x1b.png", video=False, error="[red]torn"))
    line.write(make_result("clip.mp4", 7, error="the video ends after 7 frames"))
    line.write(make_result("photos/b.png", video=False))
    for source in streams:
        line.write(make_result(source, error="torn"))
    assert stream.getvalue().splitlines() == [
        r"unreadable: photos/a\x1b.png: [red]torn",
        "unreadable: clip.mp4: the video ends after 7 frames",
    ]


def test_a_source_can_not_steer_the_terminal() -> None:
    line, stream = make_log()
    line.event(Event("lost", "cam\x1b[2J", "[red]gone[/red]", time.time(), 3.25))
    assert stream.getvalue().strip().endswith(r"lost: cam\x1b[2J: [red]gone[/red]: after 3.2 s")


def test_on_a_terminal_json_stays_on_stdout_and_the_lines_on_stderr() -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, statusline_process.__file__],
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"},
    )
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while True:
            shown += os.read(leader, 65536)
    lines = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.wait(10) == 0
    os.close(leader)
    assert [line.get("frame") for line in lines] == [*range(10), None]
    assert lines[-1]["event"] == "lost"
    text = shown.decode()
    assert "75.0 %" in text
    assert "lost: cam0: the camera was unplugged" in text
    assert '"frame"' not in text
    assert "\x1b[1A" in text or "\x1b[2K" in text  # lines are drawn over, not added
