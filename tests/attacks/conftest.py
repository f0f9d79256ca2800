"""The gallery: each test is one attack, which is refused with an error of our family, or does nothing.

``make attack`` runs it by itself and counts.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.models.bundles import make_bundle

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.errors import HybridEdgeError

LONGEST_MESSAGE = 1500  # characters, of which a bundle's path may take some hundred

Refused = Callable[[Path], str]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many attacks there were, where the gallery runs by itself."""
    found = {
        kind: [item for item in terminalreporter.stats.get(kind, []) if "tests/attacks/" in item.nodeid]
        for kind in ("passed", "failed", "error", "skipped")
    }
    done = len(found["passed"])
    terminalreporter.write_line(
        f"{done + len(found['failed']) + len(found['error'])} attacks, {done} refused or harmless, "
        f"{len(found['skipped'])} not tried here"
    )


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as an export writes it."""
    return make_bundle(tmp_path_factory.mktemp("whole") / "bundle")


@pytest.fixture
def target(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be attacked."""
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Opens a bundle to its last byte and classifies with it, also without a check; returns how that was refused."""
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))

    def refuse(path: Path) -> str:
        messages = []
        for check in (True, False):
            with pytest.raises(HybridEdgeError) as caught:
                use(path, check=check)
            messages.append(str(caught.value))
            assert len(messages[-1]) < LONGEST_MESSAGE
            assert messages[-1].isprintable()
        return messages[0]

    return refuse


def use(path: Path, *, check: bool = True) -> Bundle:
    """Do with a bundle all that a device does."""
    bundle = Bundle.open(path)
    for record in bundle.manifest.files.values():
        bundle.verified(record)
    with Classifier.load(path, backend="cpu", check=check):
        return bundle
