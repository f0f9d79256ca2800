from __future__ import annotations

import logging
import os
from typing import Any

import pytest
import tf2onnx

from hybrid_edge.export.convert.fp32_graph import GraphBuilder
from hybrid_edge.runtime.errors import ConversionError
from hybrid_edge.runtime.spec import preset
from hybrid_edge.train.model import build_model

SPEC = preset("digits", "cnn").replace(class_labels=("a", "b"))


def test_a_failure_of_tf2onnx_is_a_conversion_error_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyError("CudnnRNNV3")

    monkeypatch.setattr(tf2onnx.convert, "from_function", fail)
    with pytest.raises(ConversionError, match=r"could not convert the CNN branch.*CudnnRNNV3"):
        GraphBuilder(build_model(SPEC), SPEC).build()


def test_a_captured_constant_that_became_an_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = tf2onnx.convert.from_function

    def with_extra_input(*arguments: Any, **options: Any) -> Any:
        model, storage = original(*arguments, **options)
        model.graph.input.add().name = "captured"
        return model, storage

    monkeypatch.setattr(tf2onnx.convert, "from_function", with_extra_input)
    with pytest.raises(ConversionError, match="image, captured"):
        GraphBuilder(build_model(SPEC), SPEC).build()


def test_tf2onnx_settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF2ONNX_CATCH_ERRORS", "TRUE")
    level = logging.getLogger("tf2onnx").level
    GraphBuilder(build_model(SPEC), SPEC).build()
    assert os.environ["TF2ONNX_CATCH_ERRORS"] == "TRUE"
    assert logging.getLogger("tf2onnx").level == level
