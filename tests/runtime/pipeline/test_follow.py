"""What follows a bundle's link while a run goes on, on real bundles and classifiers."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.live.run import soon
from support.models.varied import other_bundle

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.bundle_store import BundleStore
from hybrid_edge.runtime.pipeline.follow import Follower
from hybrid_edge.runtime.pipeline.models import Models
from hybrid_edge.runtime.sources.events import Events

Load = Callable[[Bundle], Classifier]


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> BundleStore:
    """A store with two versions, of which the first runs."""
    store = BundleStore(tmp_path / "device" / "bundle")
    with store.updating():
        for path in (folder, other_bundle(tmp_path / "new")):
            path.rename(store.folder(Bundle.open(path).fingerprint))
        store.switch(sorted(path.name for path in store.versions.glob("?" * 64))[0])
    return store


def other(store: BundleStore) -> str:
    return next(path.name for path in store.versions.glob("?" * 64) if path.name != store.current)


def follow(store: BundleStore, load: Load) -> tuple[Follower, Models]:
    models = Models(Classifier.load(store.link, backend="cpu"), 1, 2)
    return Follower(
        store, models, Events(), open_bundle=Bundle.open, load=load, begin_anew=None, closing=lambda _: None
    ), models


def load_now(bundle: Bundle) -> Classifier:
    return Classifier.load(bundle, backend="cpu")


def test_an_update_hears_of_a_run_for_as_long_as_that_opens_a_bundle(store: BundleStore) -> None:
    released, words = threading.Event(), set[float]()

    def load(bundle: Bundle) -> Classifier:
        released.wait(30)
        return load_now(bundle)

    def spoken() -> bool:
        words.update(path.stat().st_mtime for path in store.versions.glob("runs/*.json"))
        return len(words) > 2

    follower, models = follow(store, load)
    with store.updating():
        store.begin_trial(other(store))
        follower.start()
        assert soon(spoken)
        assert models.current.classifier.bundle.fingerprint == store.current
        released.set()
        assert soon(lambda: models.current.classifier.bundle.fingerprint == other(store))
    assert soon(lambda: models.current.classifier.bundle.fingerprint == store.current)
    assert follower.stop(5)


def test_a_bundle_that_is_opened_when_its_trial_is_over_is_not_taken(store: BundleStore) -> None:
    begun, released, taken = threading.Event(), threading.Event(), list[Classifier]()

    def load(bundle: Bundle) -> Classifier:
        begun.set()
        released.wait(30)
        taken.append(load_now(bundle))
        return taken[-1]

    follower, models = follow(store, load)
    first = models.current
    with store.updating():
        store.begin_trial(other(store))
        follower.start()
        assert begun.wait(10)
    released.set()
    assert soon(lambda: taken and taken[0].selection.backend._closed)
    assert models.current is first
    assert follower.stop(5)


def test_what_was_refused_in_one_update_may_be_tried_in_the_next(store: BundleStore) -> None:
    answers = iter([MemoryError(), None])

    def load(bundle: Bundle) -> Classifier:
        if error := next(answers):
            raise error
        return load_now(bundle)

    follower, models = follow(store, load)
    with store.updating():
        store.begin_trial(other(store))
        follower.look()
        (state,) = store.runs().values()
        assert "not enough memory" in state.refused[other(store)]
    follower.look()
    with store.updating():
        store.begin_trial(other(store))
        follower.look()
        assert models.current.classifier.bundle.fingerprint == other(store)
    follower.look()
