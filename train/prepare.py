"""Makes the class folders that hybrid-train reads out of public data sets."""

from __future__ import annotations

import contextlib
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.console import progress
from ..runtime.draw.digits import mnist_frame
from ..runtime.errors import DataError
from ..runtime.opencv import cv2
from .class_folders import ClassFolders, Prepared
from .quiet import import_tensorflow
from .tiny_imagenet import prepare_tiny_imagenet

__all__ = ["prepare_digits", "prepare_mnist", "prepare_tiny_imagenet"]

SEED = 0
DIGITS_TEST = 360  # a fifth of 1797, rounded up
DIGITS_VAL = 287  # a fifth of the other 1437; one image is 0.35 points of accuracy
MNIST_VAL = 5_000
MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
NETWORK_TIMEOUT = 20  # seconds without an answer; urllib would wait for ever

Images = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]


def prepare_digits(dst: Path) -> Prepared:
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


def prepare_mnist(dst: Path) -> Prepared:
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


def _write_frames(dst: Path, plan: dict[str, Images], *, normalise: bool) -> Prepared:
    folders = ClassFolders(dst, plan.keys())
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
    place = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets" / "mnist.npz"
    remedy = (
        f"put that file at {place} by hand, or use scikit-learn's digits, which need no network: "
        "hybrid-prepare digits DST"
    )
    if not place.exists():
        _check_network(remedy)
    import_tensorflow()
    from keras.datasets import mnist  # noqa: PLC0415  takes seconds

    with _timeout(NETWORK_TIMEOUT):
        try:
            data: tuple[tuple[Images, Images], tuple[Images, Images]] = mnist.load_data()
        except Exception as error:  # keras.utils.get_file raises a bare Exception when a download fails
            raise DataError(f"MNIST can't be loaded from {MNIST_URL}: {error}; {remedy}") from None
    return data


def _check_network(remedy: str) -> None:
    """Fail before Keras is imported where there is no network."""
    request = urllib.request.Request(MNIST_URL, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=NETWORK_TIMEOUT).close()  # noqa: S310  our own https address
    except urllib.error.HTTPError:
        return  # a server answers, and the download's own error says more
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"MNIST can't be downloaded from {MNIST_URL}: {reason}; {remedy}") from None


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Limit how long sockets that the block opens wait, seconds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
