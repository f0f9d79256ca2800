"""A live run takes what hybrid-update brings, between two frames, and goes back where it fails."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from support.live.run import LiveRun
from support.machines.commands import command
from support.models.bundles import SPEC, change_manifest, make_bundle
from support.models.varied import failing_bundle, other_bundle, slow_bundle
from support.streams.servers import MjpegStream

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.bundle_store import BundleStore
from hybrid_edge.runtime.manifest import Provenance


@pytest.fixture
def store(folder: Path) -> BundleStore:
    return BundleStore(folder)


@pytest.fixture
def stream() -> Iterator[MjpegStream]:
    with MjpegStream(fps=25) as opened:
        yield opened


@pytest.fixture
def live(folder: Path, stream: MjpegStream) -> Iterator[LiveRun]:
    options = ["--every-frame", "--headless", "--backend", "cpu", "--web", "127.0.0.1:0"]
    with LiveRun(stream.url, "--bundle", folder, *options) as run:
        run.frames(5)
        yield run


def shown_provenance(run: LiveRun) -> str:
    """What the live page's API says of the bundle in use: when it was made."""
    (page,) = [line.partition(": ")[2] for line in run.errors if line.startswith("live page: ")]
    with urllib.request.urlopen(f"{page}api/v1/bundle") as answer:  # noqa: S310  # http
        return str(json.load(answer)["provenance"]["created"])


def white(width: int, height: int, _: float | None = None) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), 255, np.uint8)


def update(folder: Path, new: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    options = ["--bundle", folder, "--health", 3, "--max-slower", 50, "--timeout", 60, "--json", *arguments]
    return command("hybrid-update", new, *options)


def assert_no_frame_was_lost(run: LiveRun) -> None:
    numbers = [line["frame"] for line in run.results]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert {line["dropped"] for line in run.results} == {0}


def test_a_live_run_takes_the_new_bundle_without_losing_a_frame(
    live: LiveRun, folder: Path, store: BundleStore, tmp_path: Path
) -> None:
    other_bundle(tmp_path / "new")
    new = change_manifest(tmp_path / "new", provenance=Provenance(created="later", hybrid_edge="0.1.0"))
    done = update(folder, new.root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["watched"] == 1
    assert store.current == new.fingerprint
    live.frames(30)
    (changed,) = live.events("bundle-changed")
    assert changed["detail"].startswith(new.fingerprint[:16])
    assert shown_provenance(live) == "later"
    assert_no_frame_was_lost(live)
    done = command("hybrid-update", "--back", "--bundle", folder)
    assert done.returncode == 0, done.stderr
    live.until(lambda: len(live.events("bundle-changed")) == 2, what="the way back")
    live.frames(10)
    assert shown_provenance(live) != "later"
    assert_no_frame_was_lost(live)


def test_a_bundle_that_fails_on_live_frames_is_taken_back_and_no_frame_is_lost(
    live: LiveRun, folder: Path, store: BundleStore, stream: MjpegStream, tmp_path: Path
) -> None:
    assert update(folder, other_bundle(tmp_path / "first"), "--health", 0).returncode == 0
    before = store.current
    stream.picture = white
    live.frames(5)
    refused = update(folder, failing_bundle(tmp_path / "failing"))
    assert refused.returncode == 3, refused.stderr
    assert "its engine failed on live frames" in refused.stderr
    assert store.current == before
    assert live.events("engine-failed")
    live.frames(30)
    assert_no_frame_was_lost(live)


def test_a_bundle_that_is_slower_than_allowed_is_taken_back(
    live: LiveRun, folder: Path, store: BundleStore, tmp_path: Path
) -> None:
    refused = update(folder, slow_bundle(tmp_path / "slow"), "--no-compare", "--max-slower", 1.5, "--health", 20)
    assert refused.returncode == 3, refused.stderr
    assert "times the time of the bundle before" in refused.stderr
    assert store.current is None
    live.until(lambda: len(live.events("bundle-changed")) == 2, what="the way back")
    live.frames(10)
    assert_no_frame_was_lost(live)


def test_a_live_run_goes_on_with_the_old_bundle_when_the_update_is_killed_during_the_trial(
    live: LiveRun, folder: Path, store: BundleStore, tmp_path: Path
) -> None:
    program = [Path(sys.executable).with_name("hybrid-update"), other_bundle(tmp_path / "new")]
    words = [str(item) for item in (*program, "--bundle", folder, "--health", 60, "--max-slower", 50)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        live.until(lambda: live.events("bundle-changed"), 60, "the trial")
        process.kill()
    live.until(lambda: len(live.events("bundle-changed")) == 2, what="the way back")
    live.frames(10)
    assert_no_frame_was_lost(live)
    assert store.current is None
    assert Bundle.open(folder).fingerprint


def test_a_bundle_with_other_labels_is_taken_by_a_new_worker(
    live: LiveRun, folder: Path, store: BundleStore, tmp_path: Path
) -> None:
    new = make_bundle(tmp_path / "new", SPEC.replace(class_labels=("one", "two", "three")))
    done = update(folder, new)
    assert done.returncode == 0, done.stderr
    assert "other labels than before" in done.stderr
    live.until(lambda: live.results[-1]["labels"][0] in ("one", "two", "three"), what="an answer of the new labels")
    assert live.process.poll() is None
    assert not live.events("engine-hung")
