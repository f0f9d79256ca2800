from __future__ import annotations

import io

import pytest
from rich.console import Console

from hybrid_edge.runtime import terminal
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.engines.messages import KEPT, SHOWN, Messages, make_logger
from hybrid_edge.runtime.engines.progress import show_progress


def test_errors_are_kept_in_order_each_once_and_in_one_line() -> None:
    messages = Messages()
    for severity, text in [
        ("VERBOSE", "chatter"),
        ("ERROR", "the\n  cause."),
        ("INFO", "more chatter"),
        ("WARNING", "careful"),
        ("INTERNAL_ERROR", "what follows"),
        ("ERROR", "the cause"),
    ]:
        messages.add(severity, text)
    assert messages.summary == "the cause; what follows"
    assert messages.warnings == ["careful"]


def test_without_errors_the_warnings_speak() -> None:
    messages = Messages()
    assert messages.summary == "it gave no reason"
    messages.add("WARNING", "no memory for this tactic")
    assert messages.summary == "no memory for this tactic"


def test_what_is_said_for_a_year_takes_no_more_memory_than_what_is_said_in_a_minute() -> None:
    messages = Messages()
    for number in range(100_000):
        messages.add("WARNING", f"number {number % 1000}")
    assert len(messages.warnings) == KEPT
    messages.clear()
    assert messages.summary == "it gave no reason"


def test_a_flood_of_errors_is_cut() -> None:
    messages = Messages()
    for number in range(SHOWN + 5):
        messages.add("ERROR", f"error {number}")
    assert messages.summary.endswith("and 5 more")


def test_tensorrts_logger_writes_into_them(rtx: Library) -> None:
    messages = Messages()
    logger = make_logger(rtx, messages)
    logger.log(rtx.module.ILogger.ERROR, "an error")
    logger.log(rtx.module.ILogger.VERBOSE, "chatter")
    assert messages.errors == ["an error"]


def test_phases_are_shown_as_bars_and_go_when_they_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(terminal, "status", console)
    with show_progress() as bar:
        bar.start("Building engine", None, 6)
        bar.start("Timing kernels", "Building engine", 40)
        bar.step("Timing kernels", 9)
        bar.step("unheard of", 1)
        progress = bar._progress  # type: ignore[attr-defined]
        progress.refresh()
        assert [(task.description, task.completed, task.total) for task in progress.tasks] == [
            ("Building engine", 0, 6),
            ("  Timing kernels", 10, 40),
        ]
        bar.finish("Timing kernels")
        bar.finish("unheard of")
        assert [task.description for task in progress.tasks] == ["Building engine"]
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Timing kernels" in shown
    assert "10/40" in shown
