import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hybrid_edge.runtime.bench.bench_report import BenchReport, Stats, write_csv
from hybrid_edge.runtime.errors import BenchError
from hybrid_edge.runtime.roofline import Limit

Alter = Callable[..., BenchReport]


def test_percentiles_are_over_all_calls_and_the_medians_of_the_rounds_are_kept() -> None:
    stats = Stats.of([np.array([1.0, 2.0, 3.0]), np.array([10.0])])
    assert (stats.p50, stats.mean, stats.count, stats.rounds) == (2.5, 4.0, 4, (2.0, 10.0))
    assert (stats.p90, stats.p99) == (pytest.approx(7.9), pytest.approx(9.79))


def test_a_case_is_noisy_when_its_rounds_differ_and_not_when_single_calls_do() -> None:
    steady = Stats.of([np.array([1.0, 1.0, 1.0, 50.0])] * 10)
    drifting = Stats.of([np.full(4, 1 + number / 50) for number in range(10)])
    assert (steady.spread, steady.noisy) == (0, False)
    assert drifting.spread == pytest.approx(0.144 / 1.09)
    assert drifting.noisy
    assert [Stats.of([np.array([1.0])] * count).noisy for count in (1, 4, 5)] == [True, True, False]
    with pytest.raises(ValueError, match="rounds"):
        Stats(p50=1, p90=1, p99=1, mean=1, count=0, rounds=())


def test_the_stages_are_the_inference_without_its_copies_shared_out(measured: BenchReport) -> None:
    case = measured.cases[0]
    copies = {
        "copy_in": case.preprocess.model_copy(update={"p50": 1.0}),
        "copy_out": case.preprocess.model_copy(update={"p50": 0.5}),
    }
    inference = case.inference.model_copy(update={"p50": 5.5})
    shares = {"cnn": 0.5, "recurrent": 0.25, "head": 0.25}
    stages = case.model_copy(update={**copies, "inference": inference, "shares": shares}).stages
    assert stages == {
        "preprocess": case.preprocess.p50,
        "copy in": 1.0,
        "cnn": 2.0,
        "recurrent": 1.0,
        "head": 1.0,
        "copy out": 0.5,
    }
    unsplit = case.model_copy(update={"inference": inference, "shares": {}}).stages
    assert unsplit == {"preprocess": case.preprocess.p50, "copy in": 0.0, "inference": 5.5, "copy out": 0.0}


def test_throughput_and_the_share_of_the_limit(measured: BenchReport) -> None:
    limit = Limit(ms=2.0, overlapped_ms=1.5, by_branch={}, limited_by={})
    inference = measured.cases[1].inference.model_copy(update={"p50": 8.0, "mean": 10.0})
    case = measured.cases[1].model_copy(update={"inference": inference, "limit": limit})
    assert (case.batch, case.images_per_s, case.of_limit) == (3, 300.0, 0.25)


def test_a_report_reads_back_as_it_was_written(measured: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    measured.save(path)
    assert BenchReport.load(path) == measured
    content = json.loads(path.read_text())
    assert (content["format"], content["format_version"]) == ("hybrid-edge-bench", 1)
    assert [len(case["inference"]["rounds"]) for case in content["cases"]] == [5, 5]


def test_the_json_has_what_follows_from_the_measured_too(measured: BenchReport, tmp_path: Path) -> None:
    limit = Limit(ms=0.001, overlapped_ms=0.001, by_branch={}, limited_by={})
    report = measured.model_copy(update={"cases": (measured.cases[0].model_copy(update={"limit": limit}),)})
    report.save(tmp_path / "report.json")
    content, case = json.loads((tmp_path / "report.json").read_text()), report.cases[0]
    names = ("name", "images_per_s", "whole_images_per_s", "spread", "few", "noisy", "of_limit", "stages")
    assert {name: content["cases"][0][name] for name in names} == {name: getattr(case, name) for name in names}
    parts = ("spread", "few", "noisy")
    assert [content["cases"][0]["whole"][name] for name in parts] == [getattr(case.whole, name) for name in parts]
    assert content["noisy"] == list(report.noisy)


def test_what_is_computed_is_not_read_and_a_report_without_it_is(measured: BenchReport, tmp_path: Path) -> None:
    content = json.loads(measured.model_dump_json())
    without = {key: value for key, value in content.items() if key != "noisy"}
    kept = set(type(measured.cases[0]).model_fields) - {"file_sha256"}
    without["cases"] = [{key: value for key, value in case.items() if key in kept} for case in content["cases"]]
    wrong = {**content, "cases": [{**case, "images_per_s": None, "noisy": "?"} for case in content["cases"]]}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(wrong))
    assert BenchReport.load(path) == measured
    path.write_text(json.dumps(without))
    older = BenchReport.load(path)
    assert [case.file_sha256 for case in older.cases] == [None, None]
    assert [case.images_per_s for case in older.cases] == [case.images_per_s for case in measured.cases]


def test_a_clock_that_saw_nothing_pass_leaves_neither_nan_nor_infinity_in_the_json(measured: BenchReport) -> None:
    standing = Stats.of([np.zeros(2)] * 5)
    assert (standing.spread, Stats.of([np.zeros(1)] * 4 + [np.ones(1)]).spread) == (0, math.inf)
    case = measured.cases[0].model_copy(update={"inference": standing})
    text = measured.model_copy(update={"cases": (case,)}).model_dump_json()
    assert not re.search("nan|inf(inity)?[,}]", text, re.IGNORECASE)
    assert json.loads(text)["cases"][0]["images_per_s"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "No such file"),
        ("hello", "Invalid JSON"),
        ({"format": "other"}, "found: format: Input should be 'hybrid-edge-bench'; measure again"),
        ({"format_version": 2}, "version 1 or older, found: format_version: .*; measure again, or upgrade here"),
        ({"cases": [{}]}, "found: cases.0.variant: Field required; measure again"),
    ],
)
def test_no_file_no_json_and_another_json_are_refused_with_what_was_found(
    measured: BenchReport, tmp_path: Path, change: dict[str, object] | str | None, message: str
) -> None:
    path = tmp_path / "report.json"
    if isinstance(change, str):
        path.write_text(change)
    elif change is not None:
        path.write_text(json.dumps({**json.loads(measured.model_dump_json()), **change}))
    with pytest.raises(BenchError, match=message):
        BenchReport.load(path)


def test_the_csv_has_a_flat_row_for_each_case(altered: Alter, measured: BenchReport, tmp_path: Path) -> None:
    names = [case.name for case in measured.cases]
    report = altered({names[0]: ([1.25] * 3, [2.5] * 3), names[1]: ([4.0] * 3, [6.0] * 3)})
    path = tmp_path / "report.csv"
    write_csv(report, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["batch"] for row in rows] == ["1", "3"]
    assert [row["inference_p50_ms"] for row in rows] == ["1.25", "4.0"]
    assert [row["whole_p50_ms"] for row in rows] == ["2.5", "6.0"]
    assert [float(row["images_per_s"]) for row in rows] == [800, 750]
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in rows[0])
    assert sum(float(rows[0][f"{name}_ms"]) for name in ("cnn", "recurrent", "head")) == pytest.approx(1.25, rel=1e-4)
