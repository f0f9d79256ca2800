"""``make bench`` on a small model: real engines in real processes, from the command to the page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_small_model_is_measured_on_keras_onnx_runtime_and_our_backend(
    exported_digits: Any, photos: Path, tmp_path: Path
) -> None:
    places = {"model": exported_digits.file, "bundle": exported_digits.bundle, "images": photos}
    places |= {"work": tmp_path / "work", "out": tmp_path / "results", "docs": tmp_path / "docs"}
    options = {**places, "batch": "1,3", "rounds": 2, "threads": 1, "python": "openvino=/nonexistent/python"}
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    words += ["--only", "plain graph", "--only", "hybrid-edge", "--only", "OpenVINO FP32"]
    command = [sys.executable, str(BENCHMARKS / "cpu_peers.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "results" / "peers.json").read_text()
    assert str(tmp_path) not in text
    assert "/nonexistent" not in text
    content = json.loads(text)
    rows = {row["name"]: row for row in content["peers"]}
    assert set(rows) == {"Keras tf.function", "ONNX Runtime, plain graph", "hybrid-edge FP32"}
    assert [row["agreement"] for row in rows.values()] == [1, 1, 1]
    assert all(len(row["rounds"][batch]) == 2 for row in rows.values() for batch in ("1", "3"))
    assert all(time > 0 for row in rows.values() for batch in ("1", "3") for time in row["rounds"][batch])
    assert content["skipped"]["OpenVINO FP32"].startswith("python can't be started")
    assert content["skipped"]["LiteRT FP32"] == content["skipped"]["Keras predict"] == "left out by --only"
    assert {(row["batch"], row["question"]) for row in content["comparisons"]} == {
        (batch, question)
        for batch in (1, 3)
        for question in ("Keras tf.function", "the fastest peer", "the fastest peer in FP32")
    }
    page = (tmp_path / "docs" / "benchmarks.md").read_text()
    named = f"MODEL=digits.keras BUNDLE=bundle IMAGES={photos.name} CALIBRATION={photos.name}"
    only = "--only 'plain graph' --only hybrid-edge --only 'OpenVINO FP32'"
    assert f'make bench {named} BENCH="--batch 1,3 --rounds 2 --threads 1 {only}"\n' in page
    assert all(f"| {name} |" in page for name in ("Keras tf.function", "**hybrid-edge FP32**"))
    assert "OpenVINO FP32: " in page
    assert "- LiteRT INT8: left out by --only" in page
    assert str(tmp_path) not in page
    assert (tmp_path / "docs" / "pictures" / "peers.png").stat().st_size > 10_000
