from __future__ import annotations

import io

import pytest
from hybrid_edge.runtime.tables import TextTable
from rich.console import Console

from hybrid_edge.runtime import console as terminal


def shown(table: TextTable, monkeypatch: pytest.MonkeyPatch, width: int, *, watched: bool = True) -> list[str]:
    """The lines that it prints on a terminal of a width, or in a file."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=watched, width=width, color_system=None, soft_wrap=not watched)
    monkeypatch.setattr(terminal, "stdout", console)
    table.show()
    return [line.rstrip() for line in screen.getvalue().splitlines()]


@pytest.fixture
def table() -> TextTable:
    table = TextTable("times", ("", "batch"), ("first\nfigure", "second"), ("verdict",), left=("verdict",))
    table.caption = "a caption of several words that is wrapped where the terminal ends"
    table.add("a-name", "1", "1234.5", "2", "faster")
    table.add("[b]", "16", "3", "4567.89", "same")
    return table


def test_a_table_that_fits_is_one_and_a_narrower_one_is_closer(
    table: TextTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width, gap in ((41, 2), (40, 1), (37, 1)):
        between = " " * gap
        lines = shown(table, monkeypatch, width)
        assert lines[0] == "times"
        assert f" a-name{between}    1{between}1234.5{between}      2{between}faster" in lines
        assert f" [b]   {between}   16{between}     3{between}4567.89{between}same" in lines


def test_what_does_not_fit_is_printed_below_with_the_keys_and_nothing_is_cut(
    table: TextTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(table, monkeypatch, 31)
    assert max(map(len, lines)) <= 31
    rows = [line.split() for line in lines if "a-name" in line]
    assert rows == [["a-name", "1", "1234.5", "2"], ["a-name", "1", "faster"]], "blocks are not torn"
    rows = [line.split() for line in shown(table, monkeypatch, 23) if "[b]" in line]
    assert rows == [["[b]", "16", "3"], ["[b]", "16", "4567.89"], ["[b]", "16", "same"]]


def test_a_row_that_is_wider_than_the_terminal_by_itself_is_left_to_the_terminal(
    table: TextTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shown(table, monkeypatch, 12)
    assert any(line.split() == ["[b]", "16", "4567.89"] for line in lines)
    assert not any("…" in line for line in lines)


def test_a_file_gets_each_row_as_one_line(table: TextTable, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(table, monkeypatch, 20, watched=False)
    assert ["a-name", "1", "1234.5", "2", "faster"] in [line.split() for line in lines]


def test_a_row_has_a_cell_for_each_head(table: TextTable) -> None:
    with pytest.raises(ValueError, match="expected 5 cells, one for each head, found 1"):
        table.add("a-name")
