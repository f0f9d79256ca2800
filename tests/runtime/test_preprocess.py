import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.models.bundles import SPEC, sample_image

from hybrid_edge.runtime.errors import InputError
from hybrid_edge.runtime.preprocess import Preprocessor, contract, contract_hash
from hybrid_edge.runtime.spec import ModelSpec

POLICIES = ("stretch", "center-crop", "letterbox")


def pixels(image: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The 8-bit BGR values that an `image` tensor was scaled from."""
    return np.rint((image[..., ::-1] + 1) * 127.5).astype(np.int64)


def test_it_equals_the_plain_numpy_definition_without_a_resize() -> None:
    frame = sample_image(1, 12, 12)
    tensors = Preprocessor(SPEC)([frame])
    image = frame[:, :, ::-1].astype(np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(tensors["image"][0], image)
    sequence = image.mean(axis=2).reshape(SPEC.sequence_shape)
    np.testing.assert_allclose(tensors["sequence"][0], sequence, atol=2e-7, rtol=0)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize(("scaling", "mode"), [("xception", "tf"), ("torch", "torch"), ("caffe", "caffe")])
def test_every_value_equals_kerass_preprocess_input_to_the_bit(scaling: str, mode: str, channels: str) -> None:
    imagenet_utils = pytest.importorskip("keras").applications.imagenet_utils
    values = np.arange(256, dtype=np.uint8)
    frame = np.stack([values, values[::-1], np.roll(values, 7)], axis=-1).reshape(16, 16, 3)
    spec = ModelSpec.make(branches="adopted", image_size=16, backbone="digits", scaling=scaling, channels=channels)
    image = Preprocessor(spec)([frame])["image"][0]
    expected = imagenet_utils.preprocess_input(frame[..., ::-1].astype(np.float32), mode=mode)  # caffe gives BGR
    np.testing.assert_array_equal(image, expected[..., :: 1 if (channels == "bgr") == (mode == "caffe") else -1])


@pytest.mark.parametrize(("scaling", "divisor"), [("unit", 255), ("raw", 1)])
def test_gray_is_the_luma_of_a_frame_in_one_channel(scaling: str, divisor: int) -> None:
    frame = sample_image(1, 12, 12)
    spec = ModelSpec.make(branches="adopted", image_size=12, backbone="digits", scaling=scaling, channels="gray")
    image = Preprocessor(spec)([frame])["image"]
    assert image.shape == (1, 12, 12, 1)
    np.testing.assert_allclose(image[0, ..., 0] * divisor, frame @ (0.114, 0.587, 0.299), atol=0.51)


def test_patches_are_the_cells_of_a_grid_in_reading_order() -> None:
    frame = sample_image(1, 12, 12)
    gray = Preprocessor(SPEC)([frame])["sequence"][0].reshape(12, 12)
    patches = Preprocessor(SPEC.replace(timesteps=9, sequence_order="patches"))([frame])["sequence"][0]
    np.testing.assert_array_equal(patches[5].reshape(4, 4), gray[4:8, 8:12])
    assert patches.shape == (9, 16)


def test_the_sequence_is_row_major_with_the_earliest_rows_first() -> None:
    frame = np.zeros((12, 12, 3), np.uint8)
    frame[0] = 255
    sequence = Preprocessor(SPEC)([frame])["sequence"][0]
    assert sequence.shape == (6, 24)
    np.testing.assert_allclose(sequence[0, :12], 1, atol=1e-6)
    np.testing.assert_allclose(sequence[0, 12:], -1, atol=1e-6)
    np.testing.assert_allclose(sequence[1:], -1, atol=1e-6)


def test_a_center_crop_keeps_the_largest_centred_square() -> None:
    frame = np.zeros((12, 30, 3), np.uint8)
    frame[:, 9:21] = sample_image(3, 12, 12)
    tensors = Preprocessor(SPEC.replace(resize="center-crop"))([frame])
    np.testing.assert_array_equal(pixels(tensors["image"][0]), frame[:, 9:21])


@pytest.mark.parametrize(
    ("height", "width", "inside"), [(6, 12, np.s_[3:9, :]), (12, 6, np.s_[:, 3:9]), (1, 12, np.s_[5:6, :])]
)
def test_a_letterbox_keeps_the_frame_and_pads_with_128(height: int, width: int, inside: tuple[slice, slice]) -> None:
    frame = sample_image(4, height, width)
    image = pixels(Preprocessor(SPEC.replace(resize="letterbox"))([frame])["image"][0])
    np.testing.assert_array_equal(image[inside], frame)
    image[inside] = 128
    assert (image == 128).all()


def test_a_letterbox_leaves_nothing_of_the_frame_before() -> None:
    preprocessor = Preprocessor(SPEC.replace(resize="letterbox"))
    wide, tall = sample_image(1, 6, 40), sample_image(2, 40, 6)
    together = preprocessor([wide, tall, wide])
    np.testing.assert_array_equal(together["image"][0], together["image"][2])
    np.testing.assert_array_equal(together["image"][1], preprocessor([tall])["image"][0])


@pytest.mark.parametrize("resize", POLICIES)
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (12, 12), (13, 11), (2, 3)])
def test_any_size_gives_finite_values_in_range(resize: str, size: tuple[int, int]) -> None:
    tensors = Preprocessor(SPEC.replace(resize=resize))([sample_image(5, *size)])
    for name, tensor in tensors.items():
        assert tensor.shape == (1, *SPEC.inputs[name])
        assert tensor.min() >= -1
        assert tensor.max() <= 1


@pytest.mark.parametrize("resize", POLICIES)
@pytest.mark.parametrize(
    "view", [np.s_[:, ::-1], np.s_[::-1], np.s_[5:30:2, 3:27], np.s_[:, :, ::-1], np.s_[3:15, 4:16]]
)
def test_a_view_gives_what_its_contiguous_copy_gives(resize: str, view: tuple[slice, ...]) -> None:
    preprocessor = Preprocessor(SPEC.replace(resize=resize))
    frame = sample_image(6, 40, 33)[view]
    ours, copied = preprocessor([frame]), preprocessor([np.ascontiguousarray(frame)])
    for name in ours:
        np.testing.assert_array_equal(ours[name], copied[name])


@pytest.mark.parametrize("branches", ["rnn", "cnn", "hybrid"])
def test_only_the_inputs_of_the_branches_are_computed_and_they_agree(branches: str) -> None:
    frame = sample_image(7, 30, 50)
    both = Preprocessor(SPEC)([frame])
    ours = Preprocessor(SPEC.replace(branches=branches))([frame])
    assert list(ours) == list(SPEC.replace(branches=branches).inputs)
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, both[name])


@pytest.mark.parametrize("resize", POLICIES)
def test_a_frame_is_preprocessed_without_allocating(resize: str) -> None:
    spec = ModelSpec.make(image_size=128, timesteps=64, backbone="digits", resize=resize)
    preprocessor = Preprocessor(spec)
    tensors = preprocessor.allocate(2)
    frames = [sample_image(1, 300, 400), sample_image(2, 200, 100)]
    preprocessor.fill(frames[0], tensors, 0)
    tracemalloc.start()
    for index in range(20):
        preprocessor.fill(frames[index % 2], tensors, index % 2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 128 * 128  # the smallest of its buffers is three times that


def test_rows_of_a_batch_do_not_depend_on_each_other() -> None:
    frames = [sample_image(seed, 10 + seed, 60 - seed) for seed in range(5)]
    preprocessor = Preprocessor(SPEC)
    batch = preprocessor(frames)
    for row, frame in enumerate(frames):
        np.testing.assert_array_equal(preprocessor([frame])["image"][0], batch["image"][row])
    assert [tensor.shape for tensor in preprocessor([]).values()] == [(0, 12, 12, 3), (0, 6, 24)]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 4), "uint8"), ((4, 4, 4), "uint8"), ((4, 4, 3), "float32"), ((0, 4, 3), "uint8"), ((1, 4, 4, 3), "uint8")],
)
def test_what_is_not_a_bgr_frame_is_refused_with_both_sides(shape: tuple[int, ...], dtype: str) -> None:
    frame = np.zeros(shape, dtype)
    with pytest.raises(InputError, match=r"expected a frame of shape \(H, W, 3\), uint8, BGR; found shape"):
        Preprocessor(SPEC)([frame])


def test_the_contract_changes_with_whatever_changes_the_tensors() -> None:
    changes: list[dict[str, Any]] = [{}, {"resize": "letterbox"}, {"timesteps": 12}, {"interpolation": "nearest-exact"}]
    assert len({contract_hash(SPEC.replace(**change)) for change in changes}) == 4
    assert contract(SPEC.replace(class_labels=("x",))) == contract(SPEC)
