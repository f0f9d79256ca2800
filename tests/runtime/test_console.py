from __future__ import annotations

import re
import sys

import pytest

from hybrid_edge.runtime import console, errors


def leave(command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "argv", ["hybrid-test"])
    with pytest.raises(SystemExit) as leaving:
        console.main(console.make_app(command))
    return int(leaving.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_of_ours_ends_with_its_code_and_its_message(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = getattr(errors, name)

    def command() -> None:
        raise kind("expected [this], found that")

    code, err = leave(command, capsys, monkeypatch)
    assert code == kind.exit_code
    assert "expected [this], found that" in err
    assert "Traceback" not in err


def test_a_command_that_returns_ends_with_0(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        return

    assert leave(command, capsys, monkeypatch) == (0, "")


def test_an_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    code, err = leave(command, capsys, monkeypatch)
    assert code == console.INTERRUPTED == 130
    assert "interrupted" in err


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["hybrid-test"])
    with pytest.raises(ZeroDivisionError):
        console.main(console.make_app(command))


def test_an_exit_code_of_the_commands_own_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        raise SystemExit(7)

    assert leave(command, capsys, monkeypatch)[0] == 7


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
