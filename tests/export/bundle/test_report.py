import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.models.bundles import make_variant

from hybrid_edge.export.bundle.report import ReportEntry, show_report, write_report
from hybrid_edge.runtime import console as terminal
from hybrid_edge.runtime.manifest import Accuracy, FileRecord, Parity

FILE = FileRecord(path="artifacts/a.onnx", size=412_345_678, sha256="0" * 64)
PARITY: dict[str, Any] = {
    "images": 300,
    "simulated": True,
    "max_logit_error": 3e-3,
    "max_probability_error": 2e-2,
    "mean_probability_error": 4e-4,
    "top1_agreement": 298 / 300,
    "agreement_limit": 0.995,
    "confident_images": 250,
    "confident_agreement": 0.99,
    "top5_overlap": 0.985,
    "accuracy": Accuracy(keras=0.613, variant=0.61, drop=0.003, drop_low=-0.004, drop_high=0.01),
    "flips": 2,
    "hidden_drift": (1e-3, 2.5e-3),
    "batch_error": 1e-4,
    "neighbour_error": 0.0,
    "neighbour_limit": 1e-5,
    "measured_on": "tests",
    "warnings": ("the outputs are nearly flat",),
}


def entry(name: str = "int8-tensorrt-unrolled", **changes: Any) -> ReportEntry:
    precision, target, *_ = name.split("-")
    fields: dict[str, Any] = {
        "name": name,
        "precision": precision,
        "targets": (target,),
        "recurrent": "unrolled" if name.endswith("unrolled") else "lstm",
        "size": 105_400_000,
        "parity": Parity(**PARITY),
        "branches": ("CNN 74/74 convolutions INT8", "recurrent branch FP16"),
    }
    return ReportEntry(**{**fields, **changes})


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> tuple[Console, Console]:
    """Stdout and stderr, 100 columns, recorded."""
    consoles = tuple(Console(width=100, record=True, quiet=False, force_terminal=False) for _ in range(2))
    monkeypatch.setattr(terminal, "stdout", consoles[0])
    monkeypatch.setattr(terminal, "status", consoles[1])
    return consoles  # type: ignore[return-value]


def test_one_row_has_every_figure_of_a_variant_unbroken_at_100_columns(shown: tuple[Console, Console]) -> None:
    show_report([entry()])
    text = shown[0].export_text()
    for expected in (
        "int8 unrolled",
        "tensorrt, simulated",
        *("105.4", "300", "99.33 %", "99.00 %", "98.50 %"),
        *("61.3 → 61.0", "0.3 (−0.4 to 1.0)"),
        *("2.0e-02", "4.0e-04", "3.0e-03", "2.5e-03"),
        "int8 unrolled for tensorrt: CNN 74/74 convolutions INT8; recurrent branch FP16",
    ):
        assert expected in text
    assert "…" not in text
    assert "warning: the outputs are nearly flat" in shown[1].export_text()


def test_targets_that_share_an_artifact_share_a_row_and_fp32_shows_its_limits(shown: tuple[Console, Console]) -> None:
    variants = [make_variant("fp32", target, FILE, FILE) for target in ("tensorrt", "cuda", "cpu")]  # type: ignore[arg-type]
    show_report([ReportEntry.of(variant) for variant in variants])
    text = shown[0].export_text()
    assert text.count("412.3") == 1
    assert "tensorrt, cuda, cpu" in text
    assert "≤ 1e-05" in text
    assert "top-1 agreement" in text
    assert "passed" in text


def test_what_failed_is_refused_with_its_limits_and_the_reason(shown: tuple[Console, Console]) -> None:
    failed = Parity(**{**PARITY, "top1_agreement": 0.9, "flips": 30})
    wrong = entry("fp16-cuda", parity=failed, refused="fp16-cuda is not the Keras model", flips="flips-fp16-cuda.png")
    show_report([wrong, entry("int8-cpu", parity=None, refused="int8-cpu could not be run")])
    text, said = (console.export_text() for console in shown)
    assert text.count("refused") == 2
    assert "90.00 %  ≥ 99.5 %  failed" in text
    assert "30 of 300 labels flipped, shown in flips-fp16-cuda.png" in text
    assert "refused: fp16-cuda is not the Keras model" in said
    assert "refused: int8-cpu could not be run" in said


def test_the_file_has_the_same_and_nan_as_null(tmp_path: Path) -> None:
    broken = Parity(**{**PARITY, "max_logit_error": float("nan"), "logit_limit": 1e-4})
    path = tmp_path / "bundle-report" / "report.json"
    write_report(path, [entry(), entry("fp32-cpu", parity=broken, refused="no")], {"seconds": {"convert": 1.5}})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    first, second = content["variants"]
    assert content["seconds"] == {"convert": 1.5}
    assert (first["name"], first["passed"], first["refused"]) == ("int8-tensorrt-unrolled", False, "")
    assert Parity.model_validate(first["parity"]) == Parity(**PARITY)
    checks = {check["name"]: check for check in second["checks"]}
    assert checks["top-1 agreement"]["limit"] == 0.995
    nan = checks["logits, max |difference| / max |logit|"]
    assert (nan["found"], nan["passed"], second["passed"]) == (None, False, False)
    assert list(path.parent.iterdir()) == [path]
