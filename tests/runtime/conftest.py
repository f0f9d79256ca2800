import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.data.drawings import Drawing, read_drawings
from support.live.display import Display, open_display
from support.machines.commands import Ended, call_command
from support.models import bundles
from support.models.bundles import encode, make_bundle, sample_image

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.digits import mnist_frame
from hybrid_edge.runtime.spec import ModelSpec

DIGITS_SPEC = ModelSpec(
    image_size=28, timesteps=28, backbone="digits", branches="cnn", class_labels=tuple("0123456789"), rnn_layers=1
)
VARIATIONS = 3  # of each training image
RIDGE = 3000.0
SHARPNESS = 10.0  # makes the logits of a linear fit, which lie between 0 and 1, decide


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return Bundle.open(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    target = tmp_path / "photos"
    target.mkdir()
    for number in range(12):
        (target / f"img{number}.png").write_bytes(encode(sample_image(number, 20 + 3 * number, 40 - number)))
    return target


def pack(folder: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for item in sorted(folder.rglob("*")):
            tar.add(item, item.relative_to(folder).as_posix(), recursive=False)
    return path


@pytest.fixture
def packed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    return pack(folder, tmp_path / "bundle.tar")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a command in this process, given its name, its ``main`` and its arguments."""
    return lambda name, main, *arguments: call_command(name, main, monkeypatch, capfd, *arguments)


@pytest.fixture(scope="module")
def display() -> Iterator[Display]:
    with open_display() as opened:
        yield opened


@pytest.fixture(scope="session")
def drawings() -> list[Drawing]:
    return read_drawings()


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a linear classifier fitted to scikit-learn's digits, varied as hybrid-train varies them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "make_weights", lambda _: fitted_weights())
        return bundles.make_bundle(tmp_path_factory.mktemp("reader") / "bundle", DIGITS_SPEC)


def fitted_weights() -> dict[str, Any]:
    """Ridge regression of the ten classes on the gray pixels, as the small bundles' two matrices."""
    from sklearn.datasets import load_digits

    from hybrid_edge.train.augment import augment

    data = load_digits()
    frames = [mnist_frame(image) for image in np.rint(data.images * (255 / 16)).astype(np.uint8)]
    rng = np.random.default_rng(0)
    colored = [np.repeat(frame[:, :, None], 3, 2) for frame in frames] * VARIATIONS
    varied = [augment(frame, rng, "digits")[..., 0] for frame in colored]
    pixels = (np.stack(varied).reshape(len(varied), -1) / 127.5 - 1).astype(np.float32)
    wanted = np.eye(10, dtype=np.float32)[np.tile(data.target, VARIATIONS)] - 0.1
    found = np.linalg.solve(pixels.T @ pixels + RIDGE * np.eye(784, dtype=np.float32), pixels.T @ wanted)
    image = np.zeros((2352, bundles.HIDDEN), np.float32)
    image[:, :10] = np.repeat(found / 3, 3, axis=0)
    head = np.zeros((bundles.HIDDEN, 10), np.float32)
    head[:10] = SHARPNESS * np.eye(10)
    return {"image": image, "head": head}
