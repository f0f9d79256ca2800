import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hybrid_edge.runtime.spec import preset
from hybrid_edge.train.data import LabelledImage, scan
from hybrid_edge.train.features import FeatureStore

SPEC = preset("digits").replace(class_labels=("0", "3", "7"))
WEIGHTS = "a" * 64

pytestmark = pytest.mark.usefixtures("own_cache")


def extract(image: np.ndarray) -> np.ndarray:
    return image.mean(axis=(1, 2)).astype(np.float32)


@pytest.fixture
def images(few_digits: Path, tmp_path: Path) -> list[LabelledImage]:
    folder = tmp_path / "data"
    shutil.copytree(few_digits, folder)
    return list(scan(folder).train)


def test_features_are_computed_once(images: list[LabelledImage]) -> None:
    store = FeatureStore(WEIGHTS, SPEC, 3)
    first, computed = store.features(images, extract)
    again, recomputed = store.features(images[::-1], lambda _: pytest.fail("computed twice"))
    assert (computed, recomputed) == (72, 0)
    everything = np.arange(72)
    np.testing.assert_array_equal(first.rows(everything), again.rows(everything[::-1]))
    assert isinstance(first.table, np.memmap)


def test_a_changed_file_is_computed_again_and_the_others_are_not(images: list[LabelledImage]) -> None:
    store = FeatureStore(WEIGHTS, SPEC, 3)
    before, _ = store.features(images, extract)
    shutil.copy(images[40].path, images[0].path)
    after, computed = store.features(images, extract)
    assert computed == 1
    np.testing.assert_allclose(after.rows(np.array([0])), before.rows(np.array([40])))
    np.testing.assert_array_equal(after.rows(np.array([1, 2])), before.rows(np.array([1, 2])))


@pytest.mark.parametrize(
    "other",
    [
        lambda: FeatureStore("b" * 64, SPEC, 3),
        lambda: FeatureStore(WEIGHTS, SPEC.replace(resize="letterbox"), 3),
        lambda: FeatureStore(WEIGHTS, SPEC, 3, precision="mixed_float16"),
    ],
)
def test_other_weights_preprocessing_or_precision_have_a_store_of_their_own(
    images: list[LabelledImage], other: Callable[[], FeatureStore]
) -> None:
    FeatureStore(WEIGHTS, SPEC, 3).features(images, extract)
    assert other().features(images, extract)[1] == 72


def test_a_killed_computation_keeps_what_it_finished(images: list[LabelledImage]) -> None:
    class KilledError(Exception):
        pass

    calls = []

    def dies(image: np.ndarray) -> np.ndarray:
        calls.append(len(image))
        if len(calls) == 3:
            raise KilledError
        return extract(image)

    store = FeatureStore(WEIGHTS, SPEC, 3)
    with pytest.raises(KilledError):
        store.features(images, dies)
    with (store.folder / "rows.float32").open("ab") as rows:
        rows.write(os.urandom(7))  # what a kill between a row's bytes leaves
    with (store.folder / "index.txt").open("a") as index:
        index.write("0123")
    features, computed = store.features(images, extract)
    assert computed == 72 - sum(calls[:2])
    clean, _ = FeatureStore("c" * 64, SPEC, 3).features(images, extract)
    everything = np.arange(72)
    np.testing.assert_array_equal(features.rows(everything), clean.rows(everything))
