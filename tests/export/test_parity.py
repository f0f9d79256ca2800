from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import DAMAGES, damaged_backend
from standin import crops

from hybrid_edge.export.graph import build_graph, serialize
from hybrid_edge.export.parity import measure_parity, require_parity
from hybrid_edge.runtime import preprocess
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.errors import ParityError
from hybrid_edge.runtime.spec import ModelSpec, preset
from hybrid_edge.train.model import build_model

SIZES = ("exported_digits", "exported_reduced")
FRAMES = crops(11, seed=5)
LABELS = tuple("0123456789")


def loaded(model: Any, spec: ModelSpec, folder: Path) -> OnnxRuntimeCpu:
    file = folder / "model.onnx"
    file.write_bytes(serialize(build_graph(model, spec)))
    return OnnxRuntimeCpu(file, spec)


@pytest.mark.parametrize("size", SIZES)
def test_an_exported_model_agrees_with_keras_within_every_limit(size: str, request: pytest.FixtureRequest) -> None:
    exported = request.getfixturevalue(size)
    with OnnxRuntimeCpu(exported.graph, exported.spec) as backend:
        parity = measure_parity(exported.model, exported.spec, backend, FRAMES)
    require_parity(parity)
    assert parity.images == 11
    assert parity.max_logit_error <= 1e-4
    assert parity.max_probability_error <= (1e-5 if size == "exported_digits" else 1e-4)
    assert parity.batch_error <= 1e-5
    assert parity.sequence_error is not None
    assert parity.sequence_error <= 1e-6
    assert parity.top1_agreement == 1
    assert parity.warnings == ()
    assert "ONNX Runtime" in parity.measured_on


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("size", SIZES)
def test_damage_by_hand_is_seen(size: str, damage: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    exported = request.getfixturevalue(size)
    with damaged_backend(damage, exported.graph, exported.spec, tmp_path) as backend:
        parity = measure_parity(exported.model, exported.spec, backend, FRAMES)
    assert parity.max_logit_error > 10 * parity.logit_limit
    assert parity.max_probability_error > 10 * parity.probability_limit
    with pytest.raises(ParityError, match=r"(?s)expected at most 0.0001, found .*Likely cause: another computation"):
        require_parity(parity)


def test_a_row_that_depends_on_its_neighbours_is_seen(exported_digits: Any) -> None:
    class Coupled(OnnxRuntimeCpu):
        def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
            logits, probabilities = super()._infer(tensors)
            return logits + np.float32(1e-3) * logits.mean(axis=0), probabilities

    with Coupled(exported_digits.graph, exported_digits.spec) as backend:
        parity = measure_parity(exported_digits.model, exported_digits.spec, backend, FRAMES)
    assert parity.batch_error > 1e-5
    with pytest.raises(ParityError, match="depends on its neighbours"):
        require_parity(parity)


def test_a_preprocessing_that_drifted_from_the_model_is_seen(
    exported_digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    luminance = np.array([[0.299, 0.587, 0.114]], np.float32)
    monkeypatch.setattr(preprocess, "MEAN", luminance)
    with OnnxRuntimeCpu(exported_digits.graph, exported_digits.spec) as backend:
        parity = measure_parity(exported_digits.model, exported_digits.spec, backend, FRAMES)
    assert parity.sequence_error is not None
    assert parity.sequence_error > 1e-2
    with pytest.raises(ParityError, match="sequence is not the model's own"):
        require_parity(parity)


def test_small_differences_are_called_a_matter_of_precision(exported_digits: Any) -> None:
    class Rounded(OnnxRuntimeCpu):
        def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
            logits, probabilities = super()._infer(tensors)
            return logits.astype(np.float16).astype(np.float32), probabilities

    with Rounded(exported_digits.graph, exported_digits.spec) as backend:
        parity = measure_parity(exported_digits.model, exported_digits.spec, backend, FRAMES)
    with pytest.raises(ParityError, match="reduced precision"):
        require_parity(parity)


def test_nan_is_over_every_limit(exported_digits: Any) -> None:
    parity = exported_digits.manifest.variants[0].parity.model_copy(update={"max_logit_error": float("nan")})
    with pytest.raises(ParityError):
        require_parity(parity)


def test_an_untrained_model_passes_with_the_warning_that_it_proves_little(tmp_path: Path) -> None:
    spec = preset("digits").replace(class_labels=LABELS)
    model = build_model(spec)
    with loaded(model, spec, tmp_path) as backend:
        parity = measure_parity(model, spec, backend, FRAMES)
    require_parity(parity)
    assert "nearly flat" in parity.warnings[0]
    assert "alike for all images" in parity.warnings[1]


def test_a_recurrent_branch_that_does_nothing_is_warned_of(exported_digits: Any, tmp_path: Path) -> None:
    model = build_model(exported_digits.spec)
    model.set_weights(exported_digits.model.get_weights())
    kernel, recurrent, bias = model.get_layer("rnn").get_layer("lstm_1").get_weights()
    model.get_layer("rnn").get_layer("lstm_1").set_weights([kernel * 0, recurrent, bias])
    with loaded(model, exported_digits.spec, tmp_path) as backend:
        parity = measure_parity(model, exported_digits.spec, backend, FRAMES)
    assert any("recurrent branch hardly counts" in warning for warning in parity.warnings)


def test_a_keras_model_that_diverged_is_called_so(tmp_path: Path, exported_digits: Any) -> None:
    model = build_model(exported_digits.spec)
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * np.nan, bias])
    with (
        OnnxRuntimeCpu(exported_digits.graph, exported_digits.spec) as backend,
        pytest.raises(ParityError, match="the training diverged"),
    ):
        measure_parity(model, exported_digits.spec, backend, FRAMES)


@pytest.mark.parametrize("branches", ["cnn", "rnn"])
def test_one_branch_alone_is_compared_too(branches: Any, tmp_path: Path) -> None:
    spec = preset("digits", branches).replace(class_labels=LABELS)
    model = build_model(spec)
    with loaded(model, spec, tmp_path) as backend:
        parity = measure_parity(model, spec, backend, FRAMES[:3])
    require_parity(parity)
    assert parity.images == 3
    assert (parity.sequence_error is None) == (branches == "cnn")
