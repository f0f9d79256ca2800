import sys
import types
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.data.tiny_imagenet import contents, run

from hybrid_edge.runtime.errors import DataError
from hybrid_edge.runtime.preprocess import read_image
from hybrid_edge.train import handwritten_digits
from hybrid_edge.train.handwritten_digits import prepare_digits, prepare_mnist


def test_digits_are_split_in_three_stratified_parts(digits: Path) -> None:
    files = [path.relative_to(digits).parts for path in digits.rglob("*.png")]
    splits = {split: [label for s, label, _ in files if s == split] for split in ("train", "val", "test")}
    assert {split: len(labels) for split, labels in splits.items()} == {"train": 1150, "val": 287, "test": 360}
    for split, size in (("train", 115.0), ("val", 28.7), ("test", 36.0)):
        counts = [splits[split].count(str(digit)) for digit in range(10)]
        assert all(abs(count - size) < size * 0.05 + 1 for count in counts)
    assert {name for _, _, name in files} == {f"digit_{i:04d}.png" for i in range(1797)}


def test_digits_are_gray_28_pixel_frames_centred_by_mass(digits: Path) -> None:
    rows, columns = np.mgrid[:28, :28]
    for path in sorted(digits.rglob("*.png"))[::37]:
        frame = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert (frame.shape, frame.dtype) == ((28, 28), np.uint8)
        mass = frame.astype(float)
        assert abs((mass * rows).sum() / mass.sum() - 13.5) <= 0.5
        assert abs((mass * columns).sum() / mass.sum() - 13.5) <= 0.5
        assert np.array_equal(read_image(path)[..., 1], frame)


def test_a_digit_lies_in_the_folder_of_its_label_and_shows_the_original(digits: Path) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    for path in sorted(digits.rglob("*.png"))[::61]:
        index = int(path.stem.removeprefix("digit_"))
        assert path.parent.name == str(data.target[index])
        frame, original = read_image(path)[..., 0], data.images[index]
        left, top, width, height = cv2.boundingRect((original > 0).astype(np.uint8))
        x, y, w, h = cv2.boundingRect(frame)
        small = cv2.resize(frame[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_AREA)
        correlation = np.corrcoef(small.ravel(), original[top : top + height, left : left + width].ravel())[0, 1]
        assert correlation > 0.95


def test_digits_made_twice_are_the_same_and_a_rerun_keeps_them(digits: Path, tmp_path: Path) -> None:
    prepare_digits(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(digits)
    made = prepare_digits(digits)
    assert (made.written, made.kept) == (0, 1797)


def test_digits_into_a_folder_of_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").touch()
    with pytest.raises(DataError, match=r"found report\.pdf"):
        prepare_digits(tmp_path)


def fake_mnist(monkeypatch: pytest.MonkeyPatch, load_data: Callable[[], object]) -> None:
    """Keras's data set without importing TensorFlow."""
    monkeypatch.setattr(handwritten_digits, "import_tensorflow", lambda: None)
    datasets = types.ModuleType("keras.datasets")
    datasets.mnist = types.SimpleNamespace(load_data=load_data)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))
    monkeypatch.setitem(sys.modules, "keras.datasets", datasets)


def test_mnist_is_written_unchanged_with_its_own_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    x, x_test = (random.integers(0, 256, (count, 28, 28)).astype(np.uint8) for count in (200, 30))
    y, y_test = (np.arange(200) % 10).astype(np.uint8), (np.arange(30) % 10).astype(np.uint8)
    fake_mnist(monkeypatch, lambda: ((x, y), (x_test, y_test)))
    monkeypatch.setattr(handwritten_digits, "MNIST_VAL", 50)
    made = prepare_mnist(tmp_path / "out")
    assert {split: counts.total() for split, counts in made.counts.items()} == {"train": 150, "val": 50, "test": 30}
    assert made.counts["val"] == {str(digit): 5 for digit in range(10)}
    for split, pixels in (("train", x), ("val", x), ("test", x_test)):
        for path in (tmp_path / "out" / split / "3").iterdir():
            assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), pixels[int(path.stem.split("_")[-1])])
    assert prepare_mnist(tmp_path / "out").kept == 230


def test_mnist_without_a_network_names_the_file_its_place_and_the_alternative(tmp_path: Path) -> None:
    dead = "http://127.0.0.1:9"
    ended = run("mnist", tmp_path / "out", KERAS_HOME=str(tmp_path), https_proxy=dead, HTTPS_PROXY=dead, no_proxy="")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "error: MNIST can't be loaded from https://storage.googleapis.com/" in ended.stderr
    assert "hybrid-prepare digits" in ended.stderr
    assert f"{tmp_path}/datasets/mnist.npz" in ended.stderr.replace("\n", "")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()
