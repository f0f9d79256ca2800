from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.models.bundles import SPEC, make_weights, reference_outputs
from support.models.lowered import SMALL_RNN
from support.models.standin import crops

from hybrid_edge.calib import CalibrationImages, calibrate, choose_images, measure_statistics, second_moments
from hybrid_edge.calib.measure import RECOMMENDED_IMAGES
from hybrid_edge.runtime.backends.onnxruntime import TensorSession
from hybrid_edge.runtime.errors import BackendError, CalibrationError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.preprocess import Preprocessor, read_image
from hybrid_edge.train.data import LabelledImage


def one_node(
    operator: str, source: str, shape: list[Any], made: list[Any] | None, *constants: onnx.TensorProto
) -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(operator, [source, *(constant.name for constant in constants)], ["out"], name="out")],
        "one node",
        [value(source, TensorProto.FLOAT, shape)],
        [value("out", TensorProto.FLOAT, made)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def images(photos: list[LabelledImage]) -> CalibrationImages:
    return choose_images(photos)


def test_every_input_and_output_is_measured_over_all_images(graph: bytes, images: CalibrationImages) -> None:
    seen: list[int] = []
    found = measure_statistics(graph, images.paths, SPEC, on_batch=seen.append)
    assert seen == [8, 8, 4]
    assert found.images == 20
    inner = ["image_features", "sequence_features", "product"]
    assert list(found.statistics) == [*SPEC.inputs, "logits", "probabilities", *inner]
    tensors = Preprocessor(SPEC)([read_image(path) for path in images.paths])
    expected = {**tensors, **reference_outputs(SPEC, make_weights(SPEC), tensors)}
    for name, values in expected.items():
        item = found.statistics[name]
        assert item.count == values.size
        assert (item.low, item.high) == pytest.approx((values.min(), values.max()), rel=1e-4, abs=1e-5)
        assert item.rms == pytest.approx(np.sqrt(np.mean(np.square(values))), rel=1e-4)


@pytest.mark.parametrize(("size", "batches"), [(12, [8, 1]), (299, [2, 2, 2, 2, 1])])
def test_large_images_come_in_small_batches(photos: list[LabelledImage], size: int, batches: list[int]) -> None:
    spec = SPEC.replace(image_size=size, timesteps=size, branches="cnn")
    graph = one_node("GlobalAveragePool", "image", ["N", size, size, 3], None)
    seen: list[int] = []
    measure_statistics(graph, tuple(photo.path for photo in photos[:9]), spec, on_batch=seen.append)
    assert seen == batches


def test_never_more_than_one_batch_is_held(
    graph: bytes, images: CalibrationImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def batches(*_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        nonlocal most
        for _ in range(6):
            most = max(most, sum(item() is not None for item in alive))
            yield {name: np.ones((2, *shape), np.float32) for name, shape in SPEC.inputs.items()}

    run = TensorSession.run

    def watched(session: TensorSession, tensors: Any) -> dict[str, Any]:
        found = run(session, tensors)
        alive.extend(weakref.ref(values) for values in found.values())
        return found

    monkeypatch.setattr(TensorSession, "run", watched)
    monkeypatch.setattr("hybrid_edge.calib.measure.read_batches", batches)
    measure_statistics(graph, images.paths, SPEC)
    assert len(alive) == 6 * 5
    assert most == 0, "the outputs of a batch were still there when the next one was asked for"


def test_an_activation_that_is_not_finite_is_refused_by_name(photos: list[LabelledImage]) -> None:
    shape = ["N", *SPEC.inputs["image"]]
    graph = one_node("Div", "image", shape, shape, numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    with pytest.raises(CalibrationError, match=r"'out'.*finite"):
        measure_statistics(graph, (photos[0].path,), SPEC)


def test_the_second_calibration_reuses_the_first(graph: bytes, images: CalibrationImages, tmp_path: Path) -> None:
    path = tmp_path / "report" / "ranges.npz"
    first = calibrate(graph, images, SPEC, "1" * 64, path)
    assert first.reason.startswith("measured: ranges.npz is not there")
    second = calibrate(graph, images, SPEC, "1" * 64, path, on_batch=lambda _: pytest.fail("measured again"))
    assert second.reason.startswith("reused from ranges.npz")
    assert second.images == 20
    assert second.binding == first.binding
    assert all(np.array_equal(second.statistics[k].histogram, v.histogram) for k, v in first.statistics.items())


def test_other_weights_images_preprocessing_or_graph_are_measured_again(
    graph: bytes, images: CalibrationImages, photos: list[LabelledImage], tmp_path: Path
) -> None:
    path = tmp_path / "ranges.npz"
    calibrate(graph, images, SPEC, "1" * 64, path)
    original = path.read_bytes()
    model = onnx.load_model_from_string(graph)
    del model.graph.output[-1]
    changes = {
        "weights": (graph, images, SPEC, "2" * 64),
        "images": (graph, choose_images(photos[1:]), SPEC, "1" * 64),
        "preprocessing": (graph, images, SPEC.replace(resize="letterbox"), "1" * 64),
        "graph": (model.SerializeToString(), images, SPEC, "1" * 64),
    }
    for what, arguments in changes.items():
        path.write_bytes(original)
        found = calibrate(*arguments, path)
        assert found.reason.startswith(f"measured again: {what} differ"), found.reason
        assert calibrate(*arguments, path).reason.startswith("reused")


def test_few_images_are_warned_of_each_time_and_many_are_not(
    graph: bytes, images: CalibrationImages, tmp_path: Path
) -> None:
    path = tmp_path / "ranges.npz"
    for _ in range(2):
        warnings = calibrate(graph, images, SPEC, "1" * 64, path).warnings
        assert len(warnings) == 1
        assert f"20 images: expected {RECOMMENDED_IMAGES} or more" in warnings[0]
    many = CalibrationImages(images.paths * 15, images.sha256s * 15)
    assert calibrate(graph, many, SPEC, "1" * 64, path).warnings == ()


def test_images_that_can_not_be_read_are_named_and_none_at_all_is_refused(
    graph: bytes, photos: list[LabelledImage], tmp_path: Path
) -> None:
    photos[3].path.write_bytes(b"damaged")
    path = tmp_path / "ranges.npz"
    for _ in range(2):
        found = calibrate(graph, choose_images(photos), SPEC, "1" * 64, path)
        assert found.images == 19
        assert len(found.skipped) == 1
        assert str(photos[3].path) in found.skipped[0]
    for photo in photos:
        photo.path.write_bytes(b"damaged, " + photo.path.name.encode())
    with pytest.raises(CalibrationError, match="none that can be read of 20; the first"):
        calibrate(graph, choose_images(photos), SPEC, "1" * 64, path)


def test_ranges_that_can_not_be_saved_are_a_warning(graph: bytes, images: CalibrationImages, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    found = calibrate(graph, images, SPEC, "1" * 64, tmp_path / "file" / "ranges.npz")
    assert found.statistics
    assert "can't be saved" in found.warnings[0]


def test_a_graph_that_is_none_is_refused(images: CalibrationImages, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="refused the graph to be measured"):
        calibrate(b"no graph", images, SPEC, "1" * 64, tmp_path / "ranges.npz")


ROWS = ["N", 28, 28]


@pytest.fixture
def crop_files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(11)]
    for path, crop in zip(paths, crops(11, 3), strict=True):
        assert cv2.imwrite(str(path), crop)
    return paths


def test_moments_are_the_mean_over_images_and_timesteps(crop_files: list[Path]) -> None:
    told: list[int] = []
    found = second_moments(one_node("Identity", "sequence", ROWS, ROWS), crop_files, SMALL_RNN, on_batch=told.append)[
        "out"
    ]
    rows = Preprocessor(SMALL_RNN)([cv2.imread(str(path)) for path in crop_files])["sequence"].reshape(-1, 28)
    np.testing.assert_allclose(found, rows.T @ rows / (11 * 28), rtol=1e-5, atol=1e-7)
    assert told == [8, 3]


def test_an_image_that_cannot_be_read_is_passed_over(crop_files: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with_broken = second_moments(one_node("Identity", "sequence", ROWS, ROWS), [broken, *crop_files], SMALL_RNN)["out"]
    np.testing.assert_allclose(
        with_broken,
        second_moments(one_node("Identity", "sequence", ROWS, ROWS), crop_files, SMALL_RNN)["out"],
        rtol=1e-6,
    )


def test_activations_that_are_not_finite_are_refused(crop_files: list[Path]) -> None:
    with pytest.raises(CalibrationError, match="out"):
        second_moments(one_node("Log", "sequence", ROWS, ROWS), crop_files, SMALL_RNN)  # of negative pixels: NaN
