import os
import shutil
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.models.bundles import SPEC, make_weights, reference_outputs
from support.models.lowered import SMALL_RNN
from support.models.standin import crops

from hybrid_edge.calib import (
    CalibrationImages,
    calibrate,
    choose_images,
    measure_channels,
    measure_peaks,
    measure_statistics,
    read_batches,
    second_moments,
)
from hybrid_edge.calib.measure import RECOMMENDED_IMAGES
from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.graph_parts import split_behind_image
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
    peaks = measure_peaks(graph, images.paths, SPEC)
    assert peaks.skipped == ()
    assert peaks.largest == {
        name: pytest.approx(found.statistics[name].peak) for name in ("logits", "probabilities", *inner)
    }


@pytest.mark.parametrize(("size", "batches"), [(12, [8, 1]), (299, [2, 2, 2, 2, 1])])
def test_large_images_come_in_small_batches(photos: list[LabelledImage], size: int, batches: list[int]) -> None:
    spec = SPEC.replace(image_size=size, timesteps=size, branches="cnn")
    graph = one_node("GlobalAveragePool", "image", ["N", size, size, 3], None)
    seen: list[int] = []
    measure_statistics(graph, tuple(photo.path for photo in photos[:9]), spec, on_batch=seen.append)
    assert seen == batches


def test_at_most_one_batch_is_held(graph: bytes, images: CalibrationImages, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[weakref.ref[Any]]] = []
    run = TensorSession.run_in_place

    def watched(session: TensorSession, tensors: Any) -> dict[str, Any]:
        found = run(session, tensors)
        given.append([weakref.ref(values) for values in found.values()])
        return found

    monkeypatch.setattr(TensorSession, "run_in_place", watched)
    measure_statistics(graph, images.paths, SPEC)
    assert len(given) == 3
    assert given[0] == given[1] != given[2], "another batch of as many images is written over the one before"
    assert all(item() is None for batch in given for item in batch), "the arrays went with the session"


def taken_apart(graph: bytes) -> tuple[bytes, ...]:
    parts = split_behind_image(onnx.load_model_from_string(graph))
    assert parts is not None
    return tuple(serialize(part) for part in parts)


def test_a_graph_in_two_parts_is_measured_as_the_whole(graph: bytes, images: CalibrationImages, tmp_path: Path) -> None:
    paths, seen = images.paths, list[int]()
    parts, channels = taken_apart(graph), ["image_features"]
    whole, found = (measure_statistics(item, paths, SPEC, on_batch=seen.append) for item in (graph, parts))
    assert seen == [8, 8, 4] * 2
    assert list(whole.statistics) != list(found.statistics)
    assert whole.statistics.keys() == found.statistics.keys()
    for name, item in whole.statistics.items():
        other = found.statistics[name]
        assert np.array_equal(item.histogram, other.histogram), name
        assert (item.low, item.high, item.count) == (other.low, other.high, other.count)
        assert item.rms == pytest.approx(other.rms, rel=1e-12)
    survey = measure_channels(parts, paths, SPEC, channels)
    peaks = measure_peaks(graph, paths, SPEC, channels=channels)
    calibration = calibrate(parts, images, SPEC, "1" * 64, tmp_path / "ranges.npz", channels=channels)
    assert peaks.largest == {name: whole.statistics[name].peak for name in peaks.largest}
    for found_channels in (survey.peaks, calibration.channels):
        assert found_channels is not None
        assert found_channels.keys() == peaks.channels.keys() == set(channels)
        assert np.array_equal(found_channels["image_features"], peaks.channels["image_features"])
    again = calibrate(parts, images, SPEC, "1" * 64, tmp_path / "ranges.npz", channels=channels)
    assert again.channels is None, "the file has no channels"


def test_peaks_of_two_sets_of_images_are_those_of_all(graph: bytes, images: CalibrationImages) -> None:
    first, second, both = (
        measure_peaks(graph, paths, SPEC, channels=["product"])
        for paths in (images.paths[:8], images.paths[8:], images.paths)
    )
    joined = first.joined(second)
    assert joined.largest == both.largest
    assert np.array_equal(joined.channels["product"], both.channels["product"])
    assert joined.channels["product"].shape[0] > 1


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


def test_few_images_are_always_warned_of_many_are_not(graph: bytes, images: CalibrationImages, tmp_path: Path) -> None:
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
IDENTITY = one_node("Identity", "sequence", ROWS, ROWS)


@pytest.fixture
def crop_files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(11)]
    for path, crop in zip(paths, crops(11, 3), strict=True):
        assert cv2.imwrite(str(path), crop)
    return paths


def test_moments_are_the_mean_over_images_and_timesteps(crop_files: list[Path]) -> None:
    told: list[int] = []
    found = second_moments(IDENTITY, crop_files, SMALL_RNN, on_batch=told.append)["out"]
    rows = Preprocessor(SMALL_RNN)([cv2.imread(str(path)) for path in crop_files])["sequence"].reshape(-1, 28)
    np.testing.assert_allclose(found, rows.T @ rows / (11 * 28), rtol=1e-5, atol=1e-7)
    assert told == [11]


def test_an_image_that_cannot_be_read_is_passed_over(crop_files: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    found, expected = (
        second_moments(IDENTITY, files, SMALL_RNN)["out"] for files in ([broken, *crop_files], crop_files)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_activations_that_are_not_finite_are_refused(crop_files: list[Path]) -> None:
    with pytest.raises(CalibrationError, match="out"):
        second_moments(one_node("Log", "sequence", ROWS, ROWS), crop_files, SMALL_RNN)  # of negative pixels: NaN


def labels(paths: tuple[Path, ...]) -> Counter[str]:
    return Counter(path.parent.name for path in paths)


def test_a_choice_of_any_size_is_stratified(photos: list[LabelledImage]) -> None:
    assert labels(choose_images(photos, count=3).paths) == {"a": 1, "b": 1, "c": 1}
    assert labels(choose_images(photos, count=10).paths) == {"a": 6, "b": 3, "c": 1}
    assert labels(choose_images(photos).paths) == {"a": 12, "b": 6, "c": 2}


def test_the_choice_does_not_depend_on_the_order_of_the_candidates(photos: list[LabelledImage]) -> None:
    chosen = choose_images(photos, count=8)
    assert choose_images(photos, count=8) == chosen
    assert labels(choose_images(photos[::-1], count=8).paths) == labels(chosen.paths)


def test_validation_images_are_left_out_by_path_link_and_content(photos: list[LabelledImage], tmp_path: Path) -> None:
    copy, link = tmp_path / "copy.png", tmp_path / "link.png"
    shutil.copy(photos[0].path, copy)
    link.symlink_to(photos[1].path)
    held_out = [copy, link, photos[2].path, tmp_path / "gone.png"]
    chosen = choose_images(photos, validation=held_out)
    assert chosen.excluded == 3
    assert set(chosen.paths) == {photo.path for photo in photos[3:]}


def test_copies_of_an_image_count_once(photos: list[LabelledImage], tmp_path: Path) -> None:
    copy = tmp_path / "copy.png"
    shutil.copy(photos[5].path, copy)
    chosen = choose_images([*photos, LabelledImage(copy, "c")])
    assert (len(chosen.paths), chosen.duplicates) == (20, 1)
    assert len(set(chosen.sha256s)) == 20


def test_files_that_are_gone_or_no_files_are_named(photos: list[LabelledImage], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    odd = [
        LabelledImage(tmp_path / "gone.png", "a"),
        LabelledImage(tmp_path / "pipe.png", "a"),
        LabelledImage(tmp_path, "b"),
    ]
    chosen = choose_images([*odd, *photos])
    assert len(chosen.paths) == 20
    assert len(chosen.skipped) == 3
    assert any("gone.png: No such file" in line for line in chosen.skipped)
    assert any("pipe.png: not a regular file" in line for line in chosen.skipped)


def test_nothing_to_calibrate_on_is_refused(photos: list[LabelledImage]) -> None:
    with pytest.raises(CalibrationError, match="of 0 candidates"):
        choose_images([])
    with pytest.raises(CalibrationError, match="20 validate the model too"):
        choose_images(photos, validation=[photo.path for photo in photos])


def test_batches_hold_what_the_preprocessing_gives_and_name_what_can_not_be_read(photos: list[LabelledImage]) -> None:
    paths = [photo.path for photo in photos[:10]]
    paths[4].write_bytes(b"no image")
    skipped: list[str] = []
    batches = list(read_batches(paths, SPEC, batch=4, on_skip=skipped.append))
    assert [len(batch["image"]) for batch in batches] == [4, 4, 1]
    expected = Preprocessor(SPEC)([read_image(path) for path in paths if path != paths[4]])
    for name, values in expected.items():
        assert np.array_equal(np.concatenate([batch[name] for batch in batches]), values)
    (said,) = skipped
    assert str(paths[4]) in said
