from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable

import pytest
import typer
from support.machines.commands import Ended

from hybrid_edge.runtime import console, errors

Leave = Callable[[Callable[[], None]], tuple[int, str]]


@pytest.fixture
def leave(call: Callable[..., Ended]) -> Leave:
    """Runs a function as a command; returns its exit code and what it says."""

    def run(command: Callable[[], None]) -> tuple[int, str]:
        ended = call("hybrid-test", lambda: console.main(console.make_app(command)))
        return ended.code, ended.err

    return run


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_of_ours_ends_with_its_code_and_its_message(name: str, leave: Leave) -> None:
    kind = getattr(errors, name)

    def command() -> None:
        raise kind("expected [this], found that")

    code, err = leave(command)
    assert code == kind.exit_code
    assert "expected [this], found that" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [(None, 0, ""), (KeyboardInterrupt(), 130, "interrupted\n"), (SystemExit(7), 7, "")],
    ids=["returns", "interrupted", "an exit code of its own"],
)
def test_a_commands_own_end_has_its_code(ending: BaseException | None, code: int, said: str, leave: Leave) -> None:
    def command() -> None:
        if ending is not None:
            raise ending

    assert leave(command) == (code, said)


@pytest.mark.parametrize("fault", [ZeroDivisionError(), RuntimeError("ours"), OSError("a library's")], ids=repr)
def test_a_fault_of_ours_keeps_its_traceback(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise fault

    monkeypatch.setattr(sys, "argv", ["hybrid-test"])
    with pytest.raises(type(fault)):
        console.main(console.make_app(command))


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files", "a.png"), r"for a.png: Too many open files; .*ulimit -n"),
        (PermissionError(errno.EACCES, "Permission denied", "/b"), "for /b: Permission denied; "),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found"), "No usable temporary directory"),
        (OSError(errno.ENOSPC, "No space left"), "expected room on the disk"),
        (MemoryError("Unable to allocate 9 GiB"), "more memory .*9 GiB"),
        (RuntimeError("can't start new thread"), "threads"),
    ],
    ids=repr,
)
def test_what_the_system_refuses_is_one_line_and_what_was_printed_is_kept(
    refused: Exception, said: str, call: Callable[..., Ended]
) -> None:
    def command() -> None:
        typer.echo("a result")
        raise refused

    ended = call("hybrid-test", lambda: console.main(console.make_app(command)))
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "a result\n", 1)
    assert re.search(said, ended.err)


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert set(errors.__all__) == defined
    assert set(re.findall(r"\w+Error\b", errors.__doc__ or "")) == defined


def test_every_error_belongs_to_the_family_with_a_documented_exit_code() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.HybridEdgeError)
        expected = 2 if issubclass(kind, errors.UsageError) else 3 if issubclass(kind, errors.GateError) else 1
        assert kind.exit_code == expected
