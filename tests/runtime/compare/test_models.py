from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest

from hybrid_edge.runtime.compare.models import find_bundles


def copied(run: Path, target: Path) -> Path:
    shutil.copytree(run / "bundle", target)
    return target


def test_a_bundle_is_called_as_its_run_or_its_tar(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "small.tar", "w") as tar:
        tar.add(runs / "cnn" / "bundle", ".")
    (tmp_path / "latest").symlink_to(runs / "rnn")
    found = find_bundles(runs / "hybrid" / "bundle" / "manifest.json", [tmp_path / "small.tar", tmp_path / "latest"])
    assert list(found) == ["hybrid", "small", "rnn"]
    assert found["small"][0] == str(tmp_path / "small.tar")
    assert [bundle.spec.branches for _, bundle in found.values()] == ["hybrid", "cnn", "rnn"]


def test_bundles_of_one_name_are_told_apart_by_their_folders(runs: Path, tmp_path: Path) -> None:
    other = copied(runs / "cnn", tmp_path / "old" / "cnn" / "bundle")
    assert list(find_bundles(runs / "cnn", [other.parent])) == [f"{runs.name}/cnn", "old/cnn"]


def test_the_usual_bundle_is_the_first_unless_the_others_do_without(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    others = [runs / "cnn", runs / "rnn"]
    assert list(find_bundles(None, others)) == ["cnn", "rnn"]
    assert "only the bundles of --with: no bundle here" in capfd.readouterr().err
    copied(runs / "hybrid", tmp_path / "bundle")
    assert list(find_bundles(None, others)) == [tmp_path.name, "cnn", "rnn"]
    monkeypatch.chdir(runs / "rnn")
    assert list(find_bundles(None, others)) == ["cnn", "rnn"]
    assert capfd.readouterr().err == ""
