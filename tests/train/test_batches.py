from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("keras")

from hybrid_edge.runtime.preprocess import Preprocessor, read_image
from hybrid_edge.runtime.spec import preset
from hybrid_edge.train.augment import augment
from hybrid_edge.train.batches import Batches, KeptFrames, TrainingBatches
from hybrid_edge.train.data import LabelledImage, scan
from hybrid_edge.train.features import Features

SPEC = preset("digits").replace(class_labels=("0", "3", "7"))


@pytest.fixture(scope="module")
def images(few_digits: Path) -> tuple[LabelledImage, ...]:
    return scan(few_digits).train


def stream(images: tuple[LabelledImage, ...], **options: object) -> TrainingBatches:
    return TrainingBatches(images, SPEC, 10, **{"seed": 4, **options})  # type: ignore[arg-type]


def test_one_pass_gives_every_image_once_in_order(images: tuple[LabelledImage, ...]) -> None:
    batches = Batches(images, SPEC, 10)
    assert batches.num_batches == 8
    tensors, targets = zip(*(batches[index] for index in range(8)), strict=True)
    assert np.concatenate(tensors).shape == (72, 28, 28, 3)
    labels = [SPEC.class_labels[row.argmax()] for row in np.concatenate(targets)]
    assert labels == [image.label for image in images]
    first = Preprocessor(SPEC)([read_image(images[0].path)])["image"][0]
    np.testing.assert_array_equal(tensors[0][0], first)


def test_the_stream_shows_every_image_once_before_any_twice(images: tuple[LabelledImage, ...]) -> None:
    batches = stream(images)
    seen = np.concatenate([batches[index][0] for index in range(8)])[:72]
    assert len(np.unique(seen.reshape(72, -1), axis=0)) == len(
        np.unique(Batches(images, SPEC, 72)[0][0].reshape(72, -1), axis=0)
    )


def test_a_resumed_stream_goes_on_as_the_unbroken_one_would(images: tuple[LabelledImage, ...]) -> None:
    for augmented in (False, True):
        whole, rest = stream(images, augmented=augmented), stream(images, augmented=augmented, first=9)
        for index in (0, 3):
            np.testing.assert_array_equal(whole[9 + index][0], rest[index][0])
            np.testing.assert_array_equal(whole[9 + index][1], rest[index][1])


def test_passes_differ_in_order_and_seeds_too(images: tuple[LabelledImage, ...]) -> None:
    batches = TrainingBatches(images, SPEC, 72, seed=4)
    assert not np.array_equal(batches[0][1], batches[1][1])
    assert not np.array_equal(batches[0][1], TrainingBatches(images, SPEC, 72, seed=5)[0][1])


def test_augmentation_changes_pixels_but_not_labels(images: tuple[LabelledImage, ...]) -> None:
    plain, varied = stream(images)[0], stream(images, augmented=True)[0]
    np.testing.assert_array_equal(plain[1], varied[1])
    assert np.abs(plain[0] - varied[0]).mean() > 0.01
    assert np.abs(varied[0]).max() <= 1.0


def test_cached_features_take_the_place_of_the_image(images: tuple[LabelledImage, ...]) -> None:
    table = np.arange(72 * 4, dtype=np.float32).reshape(72, 4)
    features = Features(table, np.arange(72)[::-1].copy())
    inputs, _ = Batches(images, SPEC, 10, features=features)[1]
    np.testing.assert_array_equal(inputs["features"], table[::-1][10:20])
    assert inputs["sequence"].shape == (10, 28, 28)
    cnn_alone, _ = Batches(images, SPEC.replace(branches="cnn"), 10, features=features)[0]
    assert set(cnn_alone) == {"features"}


def test_digits_get_bolder_finer_and_sharper_strokes_and_are_never_mirrored(few_digits: Path) -> None:
    seven = read_image(min((few_digits / "train" / "7").iterdir()))
    rng = np.random.default_rng(0)
    varied = np.stack([augment(seven, rng, "digits") for _ in range(200)])
    assert varied.shape == (200, *seven.shape)
    ink = varied.mean(axis=(1, 2, 3)) / seven.mean()
    assert ink.min() < 0.6
    assert ink.max() > 1.4
    soft = ((varied > 40) & (varied < 215)).mean(axis=(1, 2, 3)) / ((seven > 40) & (seven < 215)).mean()
    assert soft.min() < 0.5
    likeness = [np.corrcoef(one.ravel(), seven.ravel())[0, 1] for one in varied]
    mirrored = [np.corrcoef(one.ravel(), seven[:, ::-1].ravel())[0, 1] for one in varied]
    assert np.mean(likeness) > np.mean(mirrored) + 0.2


def test_paper_stays_black_under_every_pen() -> None:
    rng = np.random.default_rng(0)
    paper = np.zeros((28, 28, 3), np.uint8)
    assert not any(augment(paper, rng, "digits").any() for _ in range(300))


def test_photographs_keep_their_own_variations() -> None:
    photograph = np.random.default_rng(1).integers(0, 200, (32, 32, 3), np.uint8)
    varied = [augment(photograph, np.random.default_rng(seed), "xception") for seed in range(20)]
    assert all((one > 0).mean() > 0.9 for one in varied)  # reflected at the border, not black


@pytest.fixture
def photographs(tmp_path: Path) -> tuple[LabelledImage, ...]:
    """Four JPEGs of 120 x 90 random pixels in coarse blocks."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(4):
        path = tmp_path / f"{number}.jpg"
        coarse = rng.integers(0, 256, (9, 12, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (120, 90)))
        images.append(LabelledImage(path, "037"[number % 3]))
    return tuple(images)


@pytest.mark.parametrize("resize", ["stretch", "center-crop", "letterbox"])
def test_large_photographs_are_read_once_and_stay_the_same(photographs: tuple[LabelledImage, ...], resize: str) -> None:
    batches = Batches(photographs, SPEC.replace(resize=resize), 4)
    first = batches[0][0]
    for image in photographs:
        image.path.unlink()
    np.testing.assert_array_equal(batches[0][0], first)


def test_passes_over_the_same_images_share_what_is_kept(photographs: tuple[LabelledImage, ...]) -> None:
    kept = KeptFrames()
    first = Batches(photographs, SPEC, 4, kept=kept)[0][0]
    assert len(kept) == 4
    for image in photographs:
        image.path.unlink()
    stream = TrainingBatches(photographs, SPEC, 4, seed=0, kept=kept)
    np.testing.assert_array_equal(np.sort(stream[0][0], axis=0), np.sort(first, axis=0))


def test_what_one_pass_kept_is_still_varied_in_another(photographs: tuple[LabelledImage, ...]) -> None:
    kept = KeptFrames()
    plain = TrainingBatches(photographs, SPEC, 4, seed=0, kept=kept)[0][0]
    varied = TrainingBatches(photographs, SPEC, 4, seed=0, kept=kept, augmented=True)[0][0]
    alone = TrainingBatches(photographs, SPEC, 4, seed=0, augmented=True)[0][0]
    assert not np.array_equal(varied, plain)
    np.testing.assert_array_equal(varied, alone)


def test_kept_frames_hold_no_more_than_their_budget_and_nothing_small() -> None:
    preprocessor = Preprocessor(SPEC)
    kept = KeptFrames(budget=2 * 28 * 28 * 3)
    large, small = np.zeros((200, 200, 3), np.uint8), np.zeros((56, 56, 3), np.uint8)
    for name, frame in zip("abcd", (small, large, large, large), strict=True):
        kept.offer(Path(name), frame, preprocessor)
        kept.offer(Path(name), frame, preprocessor)
    assert [name for name in "abcd" if kept.get(Path(name)) is not None] == ["b", "c"]
    found = kept.get(Path("b"))
    assert found.shape == (28, 28, 3)
