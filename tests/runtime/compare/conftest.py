"""Three bundles of the same classes, images in class folders, and the command in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.models.bundles import LABELS, SPEC, encode, make_bundle, sample_image

from hybrid_edge.runtime.commands import compare as command

BRANCHES = ("hybrid", "cnn", "rnn")
COUNT = 80


@dataclass(frozen=True)
class Done:
    """What a call of the command left."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Stdout's JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def comparison(self) -> dict[str, Any]:
        """The last line's figures."""
        found: dict[str, Any] = self.lines[-1]["comparison"]
        return found


Compare = Callable[..., Done]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders ``hybrid``, ``cnn`` and ``rnn``, each with a bundle that answers in its own way."""
    runs = tmp_path_factory.mktemp("runs")
    for branches in BRANCHES:
        (runs / branches).mkdir()
        make_bundle(runs / branches / "bundle", SPEC.replace(branches=branches))
    return runs


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """``COUNT`` images in class folders; which class is which means nothing."""
    folders = tmp_path / "test"
    for number in range(COUNT):
        folder = folders / LABELS[number % len(LABELS)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"img{number}.png").write_bytes(encode(sample_image(number, 16 + number, 90 - number)))
    return folders


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Compare:
    """Calls hybrid-compare in a folder where no bundle is found by default."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["hybrid-compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            command.main()
        return Done(int(leaving.value.code or 0), *capfd.readouterr())

    return call
