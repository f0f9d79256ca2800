import subprocess
import sys

import pytest

CODE = """
import atexit, sys, threading
import typer
from hybrid_edge.runtime import console
from hybrid_edge.runtime.errors import BackendError, UsageError
from hybrid_edge.runtime.pipeline.classify import closed_in_time

atexit.register(print, "torn down")

class Classifier:
    def close(self):
        print("closing")
        {closing}

def command():
    with closed_in_time(Classifier().close, {seconds}) as unfinished:
        unfinished.extend({left})
        {work}
        print("done")

console.main(console.make_app(command))
"""
HANG = "threading.Event().wait()"


def leave(work: str = "pass", closing: str = "pass", left: tuple[str, ...] = (), seconds: float | None = 0.5) -> object:
    code = CODE.format(work=work, closing=closing, left=left, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout.split("\n")[:-1], done.stderr


@pytest.mark.parametrize("seconds", [None, 30])
def test_a_run_that_ends_well_closes_it(seconds: float | None) -> None:
    assert leave(seconds=seconds) == (0, ["done", "closing", "torn down"], "")


def test_nothing_is_torn_down_under_a_source_that_is_still_in_a_call() -> None:
    reading = "from hybrid_edge.runtime.sources.blocking import BLOCKING_CALLS; call = BLOCKING_CALLS.noted('read')"
    assert leave(f"{reading}; call.__enter__()") == (0, ["done", "closing"], "")


@pytest.mark.parametrize("seconds", [None, 30])
def test_what_closing_raises_is_told(seconds: float | None) -> None:
    code, out, err = leave(closing="raise BackendError('no')", seconds=seconds)  # type: ignore[misc]
    assert (code, out, err) == (1, ["done", "closing", "torn down"], "error: no\n")


def test_closing_that_hangs_is_left_behind_with_the_runs_own_code() -> None:
    said = "closing the engine did not end in time and was left behind\n"
    assert leave(closing=HANG) == (0, ["done", "closing"], said)
    assert leave("raise UsageError('no')", closing=HANG) == (2, ["closing"], f"{said}error: no\n")


@pytest.mark.parametrize(
    ("work", "code", "message"),
    [
        ("pass", 0, ""),
        ("raise BackendError('no')", 1, "error: no\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("raise SystemExit(0)", 0, ""),
        ("raise SystemExit('why')", 1, ""),
        ("raise KeyError('a bug')", 1, "KeyError: 'a bug'\n"),
    ],
)
def test_an_engine_that_a_thread_hangs_in_is_not_closed(work: str, code: int, message: str) -> None:
    found, out, err = leave(work, left=("infer",))  # type: ignore[misc]
    assert (found, out) == (code, ["done"] if work == "pass" else [])
    assert err.startswith("infer did not end in time and was left behind\n")
    assert err.endswith(message)
