import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.live.display import Display, open_display
from support.machines.commands import Ended, call_command
from support.models.bundles import encode, make_bundle, sample_image

from hybrid_edge.runtime.bundle import Bundle


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
