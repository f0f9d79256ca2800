import io
import json
import os
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console
from support.live.results import LABELS, make_result

from hybrid_edge.runtime.foreign_text import printable
from hybrid_edge.runtime.outputs.result_lines import JsonLines, ResultTable
from hybrid_edge.runtime.outputs.sink import Result
from hybrid_edge.runtime.sources.events import Event


def json_lines(
    *results: Result | Event, top_k: int = 2, live: bool = True, newest: bool = False
) -> list[dict[str, object]]:
    stream = io.StringIO()
    sink = JsonLines(top_k, stream, live=live, newest=newest)
    for item in results:
        sink.event(item) if isinstance(item, Event) else sink.write(item)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def image(source: str = "photo.png", *, error: str | None = None, dropped: int = 0, **settings: object) -> Result:
    """The result of a file that nobody measures an age of."""
    made = make_result(source, video=False, captured=0, error=error, **settings)  # type: ignore[arg-type]
    return replace(made, dropped=dropped)


def test_a_line_of_a_stream_has_all_that_is_known() -> None:
    assert json_lines(make_result("rtsp://camera", 7, captured=100.5)) == [
        {
            "source": "rtsp://camera",
            "frame": 7,
            "captured": 1_800_000_100.75,
            "age_ms": 31.4,
            "labels": ["cat", "dog"],
            "probabilities": [0.75, 0.2],
            "preprocess_ms": 0.5,
            "inference_ms": 12.25,
            "batch": 2,
            "dropped": 3,
            "reconnects": 1,
        }
    ]


def test_a_line_of_an_image_beside_a_stream_claims_no_age_and_no_drops() -> None:
    (line,) = json_lines(image(), top_k=1)
    assert line.keys() == {"source", "frame", "labels", "probabilities", "preprocess_ms", "inference_ms", "batch"}


def test_a_line_of_a_run_of_files_has_the_top_k_and_times_alone() -> None:
    result = replace(make_result("clip.mp4", 3), dropped=0)
    (line,) = json_lines(result, Event("corrupt", "clip.mp4", "", 1.0), live=False)
    assert line.keys() == {"source", "frame", "labels", "probabilities", "preprocess_ms", "inference_ms"}


def test_a_line_of_files_says_how_many_frames_were_dropped_once_one_was_or_where_they_may_be() -> None:
    lines = json_lines(image(), image(dropped=3), image(error="bad", dropped=4), live=False)
    assert [line.get("dropped") for line in lines] == [None, 3, 4]
    assert json_lines(image(), live=False, newest=True)[0]["dropped"] == 0


@pytest.mark.parametrize("live", [False, True])
def test_an_unreadable_frame_has_its_error_and_no_label(live: bool) -> None:
    assert json_lines(image("a\udcff.png", error="bad"), live=live) == [
        {"source": "a\udcff.png", "frame": 0, "error": "bad"}
    ]


def test_events_are_lines_of_their_own() -> None:
    event = Event("reconnected", "cam0", "frames flow again", 1_800_000_000.25, 2.5)
    assert json_lines(event, Event("corrupt", "cam0", "a\nb", 1.0)) == [
        {
            "event": "reconnected",
            "source": "cam0",
            "detail": "frames flow again",
            "time": 1_800_000_000.25,
            "seconds": 2.5,
        },
        {"event": "corrupt", "source": "cam0", "detail": "a\nb", "time": 1.0, "seconds": None},
    ]


def test_a_reader_that_is_gone_is_an_error_and_not_silence() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        with pytest.raises(BrokenPipeError):
            JsonLines(1, stream).write(make_result())
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # what is buffered can be flushed at the end


def table(*results: Result, width: int = 100, terminal: bool = True, top_k: int = 3, live: bool = False) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, color_system=None, highlight=False)
    sink = ResultTable(top_k, LABELS, console, live=live)
    for result in results:
        sink.write(result)
    return text.getvalue().splitlines()


def test_a_row_has_source_best_label_times_and_the_next_labels() -> None:
    head, row = table(image(probabilities=(0.1, 0.7, 0.2, 0, 0)))
    assert head.split() == ["source", "label", "prob.", "prep.", "ms", "inf.", "ms", "next"]
    assert row.split()[:6] == ["photo.png", "dog", "70.0", "%", "0.50", "12.25"]
    assert "a lighthouse" in row


def test_columns_stand_below_each_other_and_fit_the_terminal() -> None:
    results = [image(f"folder/{'long' * n}{n}.png", probabilities=(0.1, 0.2 * (n % 3), 0.9, 0, 0)) for n in range(30)]
    for width in (80, 100, 200):
        lines = table(*results, width=width)
        assert len(lines) == 31
        assert {line.index("%") for line in lines[1:]} == {lines[1].index("%")}
        assert max(map(cell_len, lines)) <= width


def test_a_long_source_keeps_its_end_on_a_terminal_and_all_of_it_elsewhere() -> None:
    long = "/a/very/long/path" * 10 + "/photo_17.png"
    assert "/photo_17.png" in table(image(long))[1]
    assert long in table(image(long), terminal=False)[1]


def test_wide_characters_keep_the_columns() -> None:
    lines = table(image("写真/猫.png"), image("a.png"))
    assert len({cell_len(line[: line.index("%")]) for line in lines[1:]}) == 1


def test_one_label_alone_leaves_the_next_ones_out() -> None:
    head, row = table(image(), top_k=1)
    assert "next" not in head
    assert "dog" not in row


def test_control_characters_in_a_name_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in "".join(table(image("\x1b[31mred\n.png")))
    assert printable("a\x1b\n\udcffé猫") == "a\\x1b\\n\\udcffé猫"


@pytest.mark.parametrize(("live", "terminal"), [(True, True), (True, False), (False, True)])
def test_rows_of_a_stream_leave_a_terminal_to_the_status_line_and_errors_to_stderr(live: bool, terminal: bool) -> None:
    results = make_result("cam0", 12), image(), make_result("cam0", 13, error="torn")
    shown = "\n".join(table(*results, live=live, terminal=terminal))
    assert "photo.png" in shown
    assert ("cam0 #12" in shown) is not (live and terminal)
    assert "#13" not in shown
