import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.live.run import COMMAND, frames_of
from support.models.bundles import encode, sample_image

FULL = "/dev/full"


@pytest.fixture
def full() -> Iterator[int]:
    """A file descriptor on a full disk."""
    descriptor = os.open(FULL, os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def unread() -> Iterator[int]:
    reading, writing = os.pipe()
    yield writing
    os.close(reading)
    os.close(writing)


def run(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 60}
    return subprocess.run([*COMMAND, *map(str, arguments)], text=True, check=False, **{**defaults, **settings})  # type: ignore[call-overload, no-any-return]


def shell(redirection: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run with what only a shell says: closed streams."""
    line = ["bash", "-c", f'"$@" {redirection}', "-", *COMMAND, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_full_disk_under_stderr_costs_no_result(folder: Path, photos: Path, full: int, form: list[str]) -> None:
    (photos / "img5.png").write_bytes(b"damaged")
    done = run(photos, "--bundle", folder, *form, stderr=full)
    assert done.returncode == 1  # of the damaged file
    assert sum("img" in line and "error" not in line for line in done.stdout.splitlines()) == 11
    (photos / "img5.png").unlink()
    assert run(photos, "--bundle", folder, *form, stderr=full).returncode == 0


def test_a_reader_of_stderr_that_goes_away_costs_no_result(folder: Path, photos: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run(photos, "--bundle", folder, "--json", stderr=writing)
    os.close(writing)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 12)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["missing.png"], 1), (["ftp://camera"], 2), (["--no-such-option"], 2)]
)
def test_an_error_that_stderr_can_not_take_keeps_its_code(full: int, arguments: list[str], code: int) -> None:
    assert run(*arguments, stderr=full).returncode == code


def test_a_full_disk_under_stdout_ends_with_1_also_where_stderr_is_full(folder: Path, photos: Path, full: int) -> None:
    done = run(photos, "--bundle", folder, "--json", stdout=full)
    assert (done.returncode, "expected room on the disk" in done.stderr) == (1, True)
    assert run(photos, "--bundle", folder, "--json", stdout=full, stderr=full).returncode == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("form", [["--json"], [], ["--supervise"]])
def test_a_closed_stream_is_one_to_nowhere(folder: Path, photos: Path, closed: str, form: list[str]) -> None:
    done = shell(closed, photos, "--bundle", folder, *form)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == (0 if " >&-" in f" {closed}" else 12 if form == ["--json"] else 13)
    assert ("12 classified" in done.stderr) == ("2>&-" not in closed)


def test_what_is_printed_does_not_end_in_a_file_that_took_a_closed_streams_number(folder: Path, photos: Path) -> None:
    before = {path: path.read_bytes() for path in [*folder.rglob("*.*"), *photos.iterdir()]}
    assert shell("<&- >&- 2>&-", photos, "--bundle", folder, "--save", photos.parent / "out.mp4").returncode == 0
    assert {path: path.read_bytes() for path in before} == before
    assert frames_of(photos.parent / "out.mp4") == 12


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_name_in_another_alphabet_is_escaped(folder: Path, tmp_path: Path, form: list[str]) -> None:
    (tmp_path / "é.png").write_bytes(encode(sample_image(1, 20, 20)))
    (tmp_path / "猫.png").write_bytes(b"damaged")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = run(tmp_path / "é.png", tmp_path / "猫.png", "--bundle", folder, *form, env=environment)
    assert done.returncode == 1
    assert r"\u732b.png: not an image" in done.stderr
    assert (r"\u00e9.png" if form else r"\xe9.png") in done.stdout


def test_frames_of_files_that_were_dropped_are_counted_in_the_summary_and_the_lines(folder: Path, photos: Path) -> None:
    done = run(*[photos] * 20, "--bundle", folder, "--json", "--latest")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert len(lines) < 240, "nothing was dropped: it proves nothing"
    assert all("dropped" in line for line in lines)
    assert lines[-1]["dropped"] == 240 - len(lines)
    assert f"{len(lines)} classified, {240 - len(lines)} dropped in " in done.stderr
    whole = run(photos, "--bundle", folder, "--json")
    assert "dropped" not in whole.stdout + whole.stderr


@pytest.mark.parametrize(
    ("signum", "stderr_too"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)]
)
def test_a_signal_is_obeyed_while_nobody_reads_stdout_and_the_video_is_whole(
    folder: Path, photos: Path, tmp_path: Path, unread: int, signum: signal.Signals, stderr_too: bool
) -> None:
    video = tmp_path / "out.mp4"
    arguments = [*COMMAND, *map(str, [photos] * 200), "--bundle", str(folder), "--json", "--save", str(video)]
    with subprocess.Popen(arguments, stdout=unread, stderr=unread if stderr_too else subprocess.DEVNULL) as process:
        try:
            wait_until_blocked(unread)
            process.send_signal(signum)
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert frames_of(video) > 50


def wait_until_blocked(pipe: int) -> None:
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    since, deadline = None, time.monotonic() + 60
    while since is None or time.monotonic() < since + 2:
        assert time.monotonic() < deadline, "the pipe is never full"
        if poll.poll(0):
            since = None
        elif since is None:
            since = time.monotonic()
        time.sleep(0.05)
