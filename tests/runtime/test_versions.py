import os
import re
import socket
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from support.models.bundles import make_bundle

from hybrid_edge.runtime.service.heartbeat import WORKER
from hybrid_edge.runtime.versions import (
    LAST_ONNXRUNTIME_FOR_PYTHON_310,
    SAFE_ONNXRUNTIME,
    below,
    onnxruntime_remark,
    release,
)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("12.6.2.post1", (12, 6, 2)),
        ("v10.3.0.30-1+cuda12.5", (10, 3, 0, 30)),
        ("1:4.6.0", (1,)),
        ("2!1.0rc1", (1, 0)),
        ("", ()),
        (None, ()),
        ("unknown", ()),
    ],
)
def test_a_release_is_read_from_what_packages_call_themselves(text: str | None, numbers: tuple[int, ...]) -> None:
    assert release(text) == numbers


def test_an_unknown_version_is_below_nothing_and_a_short_one_is_filled_up() -> None:
    assert not below(None, "1.28")
    assert not below("1.28", "1.28.0")
    assert below("1", "1.28")
    assert below("1.9", "1.28")


def test_the_bounds_are_those_that_the_package_asks_for() -> None:
    asked = {re.sub(r"[\"' ]", "", line) for line in requires("hybrid-edge") or ()}
    assert f"onnxruntime>={SAFE_ONNXRUNTIME};python_version>=3.11andextra==cpu" in asked
    assert f"onnxruntime>={LAST_ONNXRUNTIME_FOR_PYTHON_310};python_version<3.11andextra==cpu" in asked


@pytest.mark.parametrize(
    ("version", "python", "said"),
    [
        ("1.23.2", (3, 10), "the last for Python 3.10"),
        ("1.22.1", (3, 10), "pip install -U 'onnxruntime>=1.23.2'"),
        ("1.27.0", (3, 11), "expected ONNX Runtime 1.31 or later, found 1.27.0"),
        ("1.30.0", (3, 12), "which has known holes"),
        ("1.31.1", (3, 13), None),
        ("", (3, 13), None),
    ],
)
def test_a_version_with_known_holes_is_told_with_what_can_be_done_on_this_python(
    version: str, python: tuple[int, int], said: str | None
) -> None:
    remark = onnxruntime_remark(version, python)
    assert (said is None) == (remark is None)
    assert said is None or said in str(remark)
    assert "\n" not in str(remark)


OLD_ENGINE = """
from types import SimpleNamespace
from hybrid_edge.runtime.backends import onnxruntime as ours
old = SimpleNamespace(**{**vars(ours.import_onnxruntime()), "__version__": "1.20.0"})
ours.import_onnxruntime = lambda: old
from hybrid_edge.runtime.commands.infer import main
main()
"""


@pytest.mark.parametrize(("replaced", "times"), [(None, 1), (0, 1), (1, 0)])
def test_it_is_one_line_at_the_start_and_none_of_a_worker_that_replaces_another(
    tmp_path: Path, photos: Path, replaced: int | None, times: int
) -> None:
    arguments = [str(photos / "img0.png"), "--bundle", str(make_bundle(tmp_path / "bundle"))]
    ours, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, workers:
        told = {} if replaced is None else {WORKER: f"{workers.fileno()} {replaced}"}
        done = subprocess.run(
            [sys.executable, "-c", OLD_ENGINE, *arguments],
            env={**os.environ, **told},
            pass_fds=[workers.fileno()],
            capture_output=True,
            text=True,
            check=True,
        )
    assert sum("known holes" in line for line in done.stderr.splitlines()) == times, done.stderr
