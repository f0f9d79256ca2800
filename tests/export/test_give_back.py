"""``--auto``: INT8 that its gate refuses gives layers back, the most sensitive first, until it passes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.models.whole import read_report

from hybrid_edge.export import variant_maker
from hybrid_edge.runtime.classifier import Classifier

if TYPE_CHECKING:
    from support.models.whole import Whole

LAYER, INPUT = "cnn/conv_2_1/convolution", "cnn/conv_1_pool_1/MaxPool2d"
LAYERS = 5  # three convolutions, one matrix product, one LSTM


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every artifact that goes through a gate."""
    seen: list[Any] = []
    real = variant_maker.prove

    def prove(file: Path, artifact: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(artifact)
        return real(file, artifact, *arguments, **options)

    monkeypatch.setattr(variant_maker, "prove", prove)
    return seen


def test_the_layer_that_does_not_bear_int8_is_given_back_and_the_cost_is_told(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proved: list[Any]
) -> None:
    damaged = whole.damaged(64, {INPUT})
    refused = whole.again(monkeypatch, tmp_path / "without", damaged)
    assert [entry.passed for entry in refused.entries] == [False, False]
    assert len(proved) == 2
    result = whole.again(monkeypatch, tmp_path / "with", damaged, give_back=True)
    result.require_passed()
    assert len(proved) == 2 + 4, "one try with everything, one without the layer, for each artifact"
    assert result.manifest is not None
    # on the CPU the first convolution is in float anyway
    counts = ("1/3 convolutions INT8, 2/3 convolutions FP32", "2/3 convolutions INT8, 1/3 convolutions FP16")
    for item, convolutions in zip(result.manifest.variants, counts, strict=True):
        assert item.calibration is not None
        assert item.calibration["wider_layers"] == [LAYER]
        assert item.branches[0].startswith(f"CNN: {convolutions}")
        cost = item.warnings[0]
        assert cost.startswith(f"in a wider precision, without which the gate refused it: {LAYER}; ")
        assert "MB in place of" in cost
        assert ("times the time of all of them in INT8" in cost) == (item.target == "cpu"), "the other is simulated"
        assert item.file.size >= next(entry.size for entry in refused.entries if entry.name == item.name)
    assert [entry["warnings"][0] for entry in read_report(result)["variants"]] == [
        item.warnings[0] for item in result.manifest.variants
    ]
    with Classifier.load(result.bundle, backend="cpu", precision="int8") as classifier:
        assert classifier.golden is not None


def test_int8_that_passes_gives_nothing_back(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proved: list[Any]
) -> None:
    monkeypatch.setattr(variant_maker, "measure_sensitivity", lambda *_, **__: pytest.fail("nobody asked"))
    result = whole.again(monkeypatch, tmp_path / "bundle", give_back=True)
    result.require_passed()
    assert len(proved) == 2
    assert all("wider precision" not in text for item in result.entries for text in item.warnings)


def test_where_nothing_helps_it_ends_and_the_first_try_is_what_is_refused(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proved: list[Any]
) -> None:
    monkeypatch.setattr("hybrid_edge.export.convert.recurrent.KERAS_TO_ONNX", (0, 1, 2, 3))
    result = whole.again(monkeypatch, tmp_path / "bundle", give_back=True)
    assert result.written == ()
    assert not result.bundle.exists()
    # each group once; the CPU's first convolution is in float already
    assert len(proved) == 2 * (1 + LAYERS) - 1
    for entry, count in zip(result.entries, ("2/3", "3/3"), strict=True):
        assert f"{count} convolutions INT8" in entry.branches[0]
        assert "order of the LSTMs' gates" in entry.refused
