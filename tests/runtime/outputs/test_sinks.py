from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from hybrid_edge.runtime import Frame
from hybrid_edge.runtime.classifier import Prediction
from hybrid_edge.runtime.console import printable
from hybrid_edge.runtime.outputs.sink import JsonLines, Table

LABELS = ("cat", "dog", "a lighthouse at the end of the world")


def prediction(*probabilities: float) -> Prediction:
    values = np.array(probabilities, np.float32)
    return Prediction(LABELS, values, values, 0.25, 12.5)


def table(*rows: tuple[Frame, Prediction | None], width: int = 100, terminal: bool = True, top_k: int = 3) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, color_system=None, highlight=False)
    sink = Table(top_k, LABELS, console)
    for frame, found in rows:
        sink.write(frame, found)
    return text.getvalue().splitlines()


def frame(source: str = "photo.png", index: int = 0, *, video: bool = False, error: str | None = None) -> Frame:
    return Frame(source, index, None, error, video=video)


def test_a_row_has_source_best_label_times_and_the_next_labels() -> None:
    head, row = table((frame(), prediction(0.1, 0.7, 0.2)))
    assert head.split() == ["source", "label", "prob.", "prep.", "ms", "inf.", "ms", "next"]
    assert row.split()[:6] == ["photo.png", "dog", "70.0", "%", "0.25", "12.50"]
    assert "a lighthouse" in row


def test_columns_stand_below_each_other_and_fit_the_terminal() -> None:
    rows = [(frame(f"folder/{'long' * n}{n}.png"), prediction(0.1, 0.2 * (n % 3), 0.9)) for n in range(30)]
    for width in (80, 100, 200):
        lines = table(*rows, width=width)
        assert len(lines) == 31
        assert {line.index("%") for line in lines[1:]} == {lines[1].index("%")}
        assert max(map(cell_len, lines)) <= width


def test_a_long_source_keeps_its_end_on_a_terminal_and_all_of_it_elsewhere() -> None:
    long = "/a/very/long/path" * 10 + "/photo_17.png"
    assert "/photo_17.png" in table((frame(long), prediction(0.1, 0.7, 0.2)))[1]
    assert long in table((frame(long), prediction(0.1, 0.7, 0.2)), terminal=False)[1]


def test_wide_characters_keep_the_columns() -> None:
    lines = table((frame("写真/猫.png"), prediction(0.1, 0.7, 0.2)), (frame("a.png"), prediction(0.1, 0.7, 0.2)))
    assert len({cell_len(line[: line.index("%")]) for line in lines[1:]}) == 1


def test_a_videos_rows_have_their_frame_number() -> None:
    assert "clip.mp4 #7" in table((frame("clip.mp4", 7, video=True), prediction(0.1, 0.7, 0.2)))[1]


def test_one_label_alone_leaves_the_next_ones_out() -> None:
    head, row = table((frame(), prediction(0.1, 0.7, 0.2)), top_k=1)
    assert "next" not in head
    assert "cat" not in row


def test_errors_are_left_to_stderr() -> None:
    assert table((frame(error="bad"), None)) == []


def test_control_characters_in_a_name_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in "".join(table((frame("\x1b[31mred\n.png"), prediction(0.1, 0.7, 0.2))))
    assert printable("a\x1b\n\udcffé猫") == "a\\x1b\\n\\udcffé猫"


def test_a_json_line_has_the_top_k_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    JsonLines(2).write(frame("clip.mp4", 3, video=True), prediction(0.1, 0.7, 0.2))
    assert json.loads(capsys.readouterr().out) == {
        "source": "clip.mp4",
        "frame": 3,
        "labels": ["dog", LABELS[2]],
        "probabilities": [0.7, 0.2],
        "preprocess_ms": 0.25,
        "inference_ms": 12.5,
    }


def test_a_json_line_says_how_many_frames_were_dropped_so_far_once_one_was(capsys: pytest.CaptureFixture[str]) -> None:
    for dropped in (0, 3):
        JsonLines(2).write(frame(), prediction(0.1, 0.7, 0.2), dropped)
    JsonLines(2).write(frame(error="bad"), None, 4)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("dropped") for line in lines] == [None, 3, 4]


def test_where_frames_may_be_dropped_every_json_line_says_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    JsonLines(2, newest=True).write(frame(), prediction(0.1, 0.7, 0.2))
    assert json.loads(capsys.readouterr().out)["dropped"] == 0


def test_an_unreadable_frame_is_a_json_line_with_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    JsonLines(2).write(frame("a\udcff.png", error="bad"), None)
    assert json.loads(capsys.readouterr().out) == {"source": "a\udcff.png", "frame": 0, "error": "bad"}
