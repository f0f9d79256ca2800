"""What every output makes of regions: each is a row, a tile, a recording and a file's name of its own."""

import io
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from support.data.recordings import play, record
from support.live.display import Display
from support.live.results import LABELS, make_result, make_status

from hybrid_edge.runtime.outputs.result_lines import JsonLines, ResultTable
from hybrid_edge.runtime.outputs.sink import Status
from hybrid_edge.runtime.outputs.snapshots import Snapshots, parse_condition
from hybrid_edge.runtime.outputs.statusline import StatusLine
from hybrid_edge.runtime.outputs.window import Window
from hybrid_edge.runtime.sources.events import Event

GATE, DIAL = "cam0 [gate]", "cam0 [dial]"


def status_of(*names: str) -> Status:
    status = make_status()
    return replace(status, sources=tuple(replace(status.sources[0], name=name) for name in names))


def test_a_json_line_and_a_row_name_source_and_region() -> None:
    lines, rows = io.StringIO(), io.StringIO()
    table = ResultTable(1, LABELS, Console(file=rows, width=120, color_system=None))
    sink = JsonLines(1, lines)
    for region in ("gate", ""):
        result = make_result("cam0", 7, region=region)
        sink.write(result)
        table.write(result)
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["source"], line.get("region"), line["frame"]) for line in found] == [
        ("cam0", "gate", 7),
        ("cam0", None, 7),
    ]
    assert [re.split(r"\s{2,}", row)[0] for row in rows.getvalue().splitlines()[1:]] == ["cam0 [gate] #7", "cam0 #7"]


def test_each_region_is_recorded_in_a_file_of_its_own_of_its_size(tmp_path: Path) -> None:
    results = [
        make_result("cam0", index, captured=100 + index / 10, region=region, size=size)
        for index in range(4)
        for region, size in (("gate", (320, 240)), ("dial", (400, 400)))
    ]
    recorder = record(tmp_path / "out.mp4", results, live=[GATE, DIAL])
    assert [path.name for path in recorder.paths] == ["out.mp4", "out-2.mp4"]
    assert [[image.shape for _, image in play(path)] for path in recorder.paths] == [
        [(240, 320, 3)] * 4,
        [(400, 400, 3)] * 4,
    ]
    photos = [
        make_result(f"{index}.png", video=False, captured=0.0, region=region)
        for index in range(3)
        for region in ("gate", "dial")
    ]
    assert len(record(tmp_path / "photos.mp4", photos).paths) == 2


def test_snapshots_of_each_region_are_spaced_by_themselves_and_named(tmp_path: Path) -> None:
    sink = Snapshots(tmp_path, parse_condition("cat>0.5", LABELS))
    for index in range(31):
        for region in ("gate", "dial A"):
            sink.write(make_result("clip.mp4", index, captured=0.0, region=region))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"clip_{region}_{index:06d}_cat_0.750.jpg" for region in ("dial-A", "gate") for index in (0, 30)
    ]


def test_the_status_line_has_a_line_for_each_region_with_its_own_label() -> None:
    stream = io.StringIO()
    line = StatusLine(Console(file=stream, force_terminal=True, width=160, color_system=None), live=[GATE, DIAL])
    line.write(make_result(region="gate"))
    line.write(make_result(region="dial", probabilities=(0.1, 0.9, 0, 0, 0)))
    line.status(status_of(GATE, DIAL))
    line.poll()
    line.close()
    shown = stream.getvalue()
    assert re.search(r"cam0 \[gate\] +cat +75\.0 %", shown)
    assert re.search(r"cam0 \[dial\] +dog +90\.0 %", shown)


@pytest.fixture
def drawn(display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows open on a display of their own."""
    for name, value in display.environment.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("drawn")
def test_a_window_has_a_tile_for_each_region_and_a_loss_is_shown_in_those_of_its_source() -> None:
    window = Window(LABELS, live=[GATE, DIAL, "cam0 (2) [gate]", "cam1"])
    try:
        for region in ("gate", "dial"):
            window.write(make_result(region=region))
        window.event(Event("lost", "cam0", "unplugged", time.time()))
        assert [tile.silence() is not None for tile in window._tiles.values()] == [True, True, False, False]
    finally:
        window.close()


@pytest.mark.usefixtures("drawn")
def test_a_window_of_files_has_a_tile_for_each_region_and_none_that_waits_for_ever() -> None:
    window = Window(LABELS)
    try:
        assert list(window._tiles) == [""]
        for source in ("a.png", "b.png"):
            for region in ("gate", "dial"):
                window.write(make_result(source, video=False, region=region))
        assert [(key, tile.name) for key, tile in window._tiles.items()] == [
            ("gate", "b.png [gate]"),
            ("dial", "b.png [dial]"),
        ]
    finally:
        window.close()
