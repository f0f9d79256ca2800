from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from support.models.lowered import SMALL_RNN
from support.models.standin import crops

from hybrid_edge.calib import second_moments
from hybrid_edge.runtime.errors import CalibrationError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.preprocess import Preprocessor


def graph(operator: str) -> bytes:
    """``sequence`` (N, 28, 28) through one operator."""
    shape = ["N", 28, 28]
    made = helper.make_graph(
        [helper.make_node(operator, ["sequence"], ["out"], name="out")],
        "moments",
        [helper.make_tensor_value_info("sequence", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
    )
    return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(11)]
    for path, crop in zip(paths, crops(11, 3), strict=True):
        assert cv2.imwrite(str(path), crop)
    return paths


def test_moments_are_the_mean_over_images_and_timesteps(images: list[Path]) -> None:
    told: list[int] = []
    found = second_moments(graph("Identity"), images, SMALL_RNN, on_batch=told.append)["out"]
    rows = Preprocessor(SMALL_RNN)([cv2.imread(str(path)) for path in images])["sequence"].reshape(-1, 28)
    np.testing.assert_allclose(found, rows.T @ rows / (11 * 28), rtol=1e-5, atol=1e-7)
    assert told == [8, 3]


def test_an_image_that_cannot_be_read_is_passed_over(images: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with_broken = second_moments(graph("Identity"), [broken, *images], SMALL_RNN)["out"]
    np.testing.assert_allclose(with_broken, second_moments(graph("Identity"), images, SMALL_RNN)["out"], rtol=1e-6)


def test_activations_that_are_not_finite_are_refused(images: list[Path]) -> None:
    with pytest.raises(CalibrationError, match="out"):
        second_moments(graph("Log"), images, SMALL_RNN)  # of negative pixels: NaN
