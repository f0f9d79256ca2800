import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.streams.servers import rtsp_missing

TESTS = Path(__file__).parents[2]


def soak(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, TESTS / "soak" / name, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    line = done.stdout.splitlines()[-1]
    # so short a run, on a machine that is busy with other tests, may be over its limits; it must say so
    assert done.returncode == ("OVER" in line), done.stderr
    return line


def test_a_short_soak_of_a_camera_counts_every_frame() -> None:
    line = soak("soak_live.py", "--minutes", 0.03)
    assert "wrong counts 0" in line
    assert int(re.search(r"waiting at most (\d+)", line)[1]) <= 2  # type: ignore[index]


def test_a_short_soak_of_inferences_makes_them_all(folder: Path) -> None:
    line = soak("soak_inferences.py", "--count", 8000, "--bundle", folder)
    assert line.startswith("soak_inferences: inferences 8000 ")
    assert "100,000" in line


@pytest.mark.skipif(rtsp_missing() is not None, reason=str(rtsp_missing()))
def test_a_short_soak_of_streams_has_each_fault_once() -> None:
    line = soak("soak_streams.py", "--repeats", 1, "--seconds", 10, "--corrupt", 50)
    for kind in ("MJPEG", "RTSP"):
        for fault in ("killed", "stalled 1 s", "stalled 10 s", "black-holed"):
            assert f"{kind} {fault} 1, read <= " in line
    assert "corrupt frames 50, and 50 packets of RTSP" in line
