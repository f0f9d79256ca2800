"""Class folders are made of scikit-learn's and of MNIST's handwritten digits."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.console import progress
from ..runtime.digits import mnist_frame
from ..runtime.errors import DataError
from ..runtime.opencv import cv2
from .class_folders import ClassFolderWriter, WrittenFolders
from .tensorflow_import import import_tensorflow

SEED = 0
DIGITS_TEST = 360  # a fifth of 1797, rounded up
DIGITS_VAL = 287  # a fifth of the other 1437; one image is 0.35 points of accuracy
MNIST_VAL = 5_000
MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
NETWORK_TIMEOUT = 20  # seconds without an answer; urllib would wait for ever

Images = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


def prepare_digits(dst: Path) -> WrittenFolders:
    """Write scikit-learn's 1,797 handwritten digits as 28 x 28 gray PNGs, centred and scaled as MNIST's are.

    The split is seeded and stratified: 360 images in ``DST/test/DIGIT``, 1,150 in ``train/``, 287 in ``val/``. A file's
    number is the image's place in ``sklearn.datasets.load_digits``. The call is safe to repeat.

    Raises:
        DataError: ``dst`` holds other things, or scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415  slow to import, and only this needs it
    except ImportError:
        raise DataError("scikit-learn, which brings the digits, is missing: pip install 'hybrid-edge[train]'") from None
    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), 0..16
    rest, test = _stratified(np.arange(len(images)), data.target, DIGITS_TEST)
    train, val = _stratified(rest, data.target, DIGITS_VAL)
    plan = {
        f"{split}/{data.target[i]}/digit_{i:04d}.png": images[i]
        for split, indices in (("train", train), ("val", val), ("test", test))
        for i in indices
    }
    return _write_frames(dst, plan, normalise=True)


def prepare_mnist(dst: Path) -> WrittenFolders:
    """Write MNIST as 28 x 28 gray PNGs: its test set in ``DST/test/``, 5,000 of its training images in ``val/``.

    The images come through ``keras.datasets``, which downloads 11 MB the first time. The split is seeded and
    stratified. The call is safe to repeat.

    Raises:
        BackendUnavailableError: TensorFlow, which Keras needs, is not installed.
        DataError: the download failed, or ``dst`` holds other things.
    """
    (x, y), (x_test, y_test) = _load_mnist()
    train, val = _stratified(np.arange(len(x)), y, MNIST_VAL)
    plan = {
        f"{split}/{y[i]}/mnist_{i:05d}.png": x[i]
        for split, indices in (("train", train), ("val", val))
        for i in indices
    }
    plan |= {f"test/{label}/mnist_test_{i:05d}.png": x_test[i] for i, label in enumerate(y_test)}
    return _write_frames(dst, plan, normalise=False)


def _write_frames(dst: Path, plan: dict[str, Images], *, normalise: bool) -> WrittenFolders:
    folders = ClassFolderWriter(dst, plan.keys())
    with progress(unit="images") as bar:
        for name, image in bar.track(plan.items(), description="writing"):
            folders.write(name, _png(mnist_frame(image) if normalise else image))
    return folders.summary()


def _png(frame: Images) -> bytes:
    return bytes(cv2.imencode(".png", frame)[1])


def _stratified(indices: Indices, labels: npt.NDArray[Any], held_out: int) -> tuple[Indices, Indices]:
    """Split off ``held_out`` of the indices, each class in proportion; return both parts in ascending order."""
    from sklearn.model_selection import train_test_split  # noqa: PLC0415  slow to import

    rest, chosen = train_test_split(indices, test_size=held_out, stratify=labels[indices], random_state=SEED)
    return np.sort(rest), np.sort(chosen)


def _load_mnist() -> tuple[tuple[Images, Images], tuple[Images, Images]]:
    import_tensorflow()
    from keras.datasets import mnist  # noqa: PLC0415  takes seconds

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Keras draws the download's progress on stdout
            data: tuple[tuple[Images, Images], tuple[Images, Images]] = mnist.load_data()
    except Exception as error:  # keras.utils.get_file raises a bare Exception when a download fails
        place = Path(os.environ.get("KERAS_HOME", "~/.keras")) / "datasets" / "mnist.npz"
        raise DataError(
            f"MNIST can't be loaded from {MNIST_URL}: {error}; put that file at {place} by hand, or use scikit-learn's "
            "digits, which need no network: hybrid-prepare digits DST"
        ) from None
    finally:
        socket.setdefaulttimeout(before)
    return data
