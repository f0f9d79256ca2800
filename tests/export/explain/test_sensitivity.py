"""``--sensitivity``: each layer alone in INT8, as a table, CSV, JSON and a plot."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from hybrid_edge.export.explain import sensitivity as sensitivity_report
from hybrid_edge.export.explain.sensitivity import (
    LayerSensitivity,
    SensitivityReport,
    group_of,
    rank_layers,
    ranked_groups,
    sensitivity_table,
    short_name,
)
from hybrid_edge.runtime.errors import BundleError

if TYPE_CHECKING:
    from support.models.whole import Whole

DAMAGED, INPUT = "cnn/conv_2_1/convolution", "cnn/conv_1_pool_1/MaxPool2d"


def layer(name: str, error: float) -> LayerSensitivity:
    return LayerSensitivity(name, group_of(name), error, 2 * error, 1 - error, 1000)


@pytest.fixture(scope="module")
def report(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> SensitivityReport:
    """Of the digits stand-in, the range of one convolution's input divided by 64."""
    out = tmp_path_factory.mktemp("sensitivity") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity_report, "prepare", lambda *_: whole.damaged(64, {INPUT}))
        return rank_layers(replace(whole.request, out=out))


def test_every_layer_is_measured_alone_and_the_damaged_one_is_the_worst(report: SensitivityReport) -> None:
    assert [short_name(item.layer) for item in report.layers] == [
        *("conv_1/convolution_2", "conv_2/convolution", "conv_3/convolution", "dense/MatMul", "rnn/lstm_1")
    ]
    assert report.images == 32
    worst, *others = sorted(report.layers, key=lambda item: -item.error)
    assert worst.layer == DAMAGED
    assert worst.error > 10 * others[0].error
    assert worst.agreement < 1
    for item in others:
        assert 0 < item.error < 0.1, "the damage is not theirs"
        assert item.error <= item.max_error * 10
        assert item.agreement >= 0.9


def test_a_layers_weights_are_counted_once(report: SensitivityReport) -> None:
    parameters = {short_name(item.layer): item.parameters for item in report.layers}
    assert parameters["conv_2/convolution"] == 3 * 3 * 32 * 64
    assert parameters["rnn/lstm_1"] == 4 * 128 * (28 + 128)


def test_csv_and_json_hold_the_same(report: SensitivityReport) -> None:
    records = json.loads(report.table.with_suffix(".json").read_text())
    with report.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: str(value) for name, value in record.items()} for record in records] == rows
    assert [record["layer"] for record in records] == [item.layer for item in report.layers]
    assert rows[0].keys() == {"layer", "group", "error", "max_error", "agreement", "parameters"}


def test_the_plot_shows_one_bar_for_each_layer(report: SensitivityReport) -> None:
    picture = cv2.imread(str(report.plot))
    assert picture.shape[1] == pytest.approx(990, abs=2)
    blue = np.all(np.abs(picture.astype(int) - (0xB3, 0x6F, 0x2F)) < 12, axis=2)
    widths = [np.flatnonzero(row).size for row in blue]
    assert max(widths) > 300, "the damaged layer's bar"
    assert sum(blue.any(axis=1)) < picture.shape[0]


def test_no_bundle_is_written(report: SensitivityReport) -> None:
    folder = report.plot.parent
    assert folder.name == "bundle-report"
    assert {path.name for path in folder.parent.iterdir()} == {"bundle-report", ".bundle.lock"}
    assert {path.name for path in folder.iterdir()} == {"sensitivity.csv", "sensitivity.json", "sensitivity.png"}


def test_the_table_has_the_worst_first(report: SensitivityReport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity_report, "MAX_ROWS", 3)
    console = Console(width=100, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(sensitivity_table(report))
    text = console.export_text()
    assert "each layer alone in INT8, 32 images" in text
    rows = [line for line in text.splitlines() if "convolution" in line or "lstm" in line or "dense" in line]
    assert rows[0].strip().startswith("conv_2/convolution")
    assert "18,432" in rows[0]
    assert len(rows) == 3
    assert "2 less sensitive layers are in sensitivity.csv" in text


def test_blocks_are_ranked_by_their_layers_together() -> None:
    errors = {"cnn/block2_a/x": 0.3, "cnn/conv_1": 0.4, "cnn/block2_b/x": 0.3, "rnn/lstm_1": 0.1}
    found = [layer(name, error) for name, error in errors.items()]
    assert ranked_groups(found) == [("cnn/block2_a/x", "cnn/block2_b/x"), ("cnn/conv_1",), ("rnn/lstm_1",)]
    assert group_of("cnn/block13_sepconv1_1/separable_conv2d/pointwise") == "cnn/block13"
    assert group_of("rnn/lstm_2") == "rnn/lstm_2"


def test_a_file_in_the_place_of_the_report_is_refused_at_once(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured_before(*_: Any) -> None:
        pytest.fail("measured before it was looked at")

    monkeypatch.setattr(sensitivity_report, "prepare", measured_before)
    (tmp_path / "bundle-report").write_text("notes")
    with pytest.raises(BundleError, match="expected a folder for the report, found a file"):
        rank_layers(replace(whole.request, out=tmp_path / "bundle"))
