"""Follows a bundle while a live run uses it: what hybrid-update puts on trial or switches to takes over between frames.

A new bundle is opened and checked beside the one in use, on a thread of its own, and takes over when it is ready; the
one before is kept open while a trial goes on. One with other labels needs other outputs, and so a new worker.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..background import start_in_background
from ..bundle import Bundle
from ..bundle_store import BundleStore, RunState, run_name
from ..console import say
from ..errors import HybridEdgeError
from ..sources.events import Events

if TYPE_CHECKING:
    from ..classifier import Classifier
    from .models import Model, Models

LOOK_INTERVAL = 0.5  # seconds between two looks at where the link leads
STATE_INTERVAL = 1.0  # seconds between two words on how the run goes, while there is an update

Load = Callable[[Bundle], "Classifier"]
Open = Callable[[Path], Bundle]


class Follower:
    """Makes the pipeline's model follow a bundle's link and trials, on a thread of its own, until ``stop``.

    ``open_bundle`` opens a folder as the run's first bundle was opened, ``load`` makes a checked classifier of it;
    ``begin_anew`` is called once where a worker in this one's place should take it. Classifiers that are not in use any
    more are closed; what closes each is passed to ``closing`` when it is made. ``begins_anew`` says whether another
    worker is to go on.
    """

    def __init__(
        self,
        store: BundleStore,
        models: Models,
        events: Events,
        *,
        open_bundle: Open,
        load: Load,
        begin_anew: Callable[[], None] | None,
        closing: Callable[[Callable[[], None]], object],
    ) -> None:
        self._store, self._models, self._events = store, models, events
        self._open, self._load, self._begin_anew, self._closing = open_bundle, load, begin_anew, closing
        self._seen = models.current.classifier.bundle.root
        self._models_open: list[Model] = [models.current]
        self._refused: dict[str, str] = {}
        self._stopped = threading.Event()
        self._told = 0.0
        self.begins_anew = False
        self._thread = threading.Thread(target=self._run, name="follow", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Follow no more; return whether the thread ended within ``timeout`` seconds, or hangs in an engine."""
        self._stopped.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.wait(LOOK_INTERVAL):
            self.look()

    def look(self) -> None:
        """Look once at which bundle is wanted, take it where it is another, and tell an update how the run goes."""
        if self._store.trial is None:
            self._refused.clear()  # the update that asked has heard of it, and the next one may ask again
        with contextlib.suppress(OSError):  # the link is being replaced by hand; the next look finds it
            wanted = self._store.wanted().resolve(strict=True)
            if wanted != self._seen:
                self._seen = wanted
                self._change(wanted)
        if self._models.fallback is not None and self._store.trial is None:
            self._models.fallback = None  # the trial is over; whichever of the two is not in use is closed
        if (failed := self._models.failed) is not None:
            self._models.failed = None
            self._refuse(failed.classifier.bundle.fingerprint, "its engine failed on live frames")
        self._tell()
        for model in [item for item in self._models_open if self._models.is_idle(item)]:
            self._models_open.remove(model)
            model.classifier.close()

    def _change(self, folder: Path) -> None:
        before, fallback = self._models.current, self._models.fallback
        try:
            bundle = self._open(folder)
            if bundle.fingerprint == before.classifier.bundle.fingerprint:
                return
            if fallback is not None and bundle.fingerprint == fallback.classifier.bundle.fingerprint:
                self._take(fallback, None)
            elif bundle.labels == before.classifier.labels:
                model = self._prepared(bundle)
                if self._store.wanted().resolve() == folder:  # else the trial ended while it was opened
                    self._take(model, before)
            elif self._begin_anew is not None:
                say(f"bundle {bundle.fingerprint[:16]}… has other labels: a new process takes it")
                self.begins_anew = True
                self._stopped.set()
                self._begin_anew()
            else:
                self._refuse(bundle.fingerprint, "it has other labels; start this run again to take it")
        except (HybridEdgeError, OSError, MemoryError) as error:
            self._refuse(folder.name, str(error) or "not enough memory for both bundles")

    def _prepared(self, bundle: Bundle) -> Model:
        opening = start_in_background(lambda: self._load(bundle), "opening another bundle")
        # it takes seconds, and minutes where an engine is built: the update must hear of this run in the meantime
        while not opening.done() and not self._stopped.wait(LOOK_INTERVAL):
            self._tell()
        classifier = opening.result()
        self._closing(classifier.close)
        model = self._models.prepare(classifier)
        self._models_open.append(model)
        rows = len(next(iter(model.spare[0].tensors.values())))
        # engines choose kernels at a size's first batch, and would hold the frames up
        model.backend.run(
            {name: np.zeros((rows, *shape), np.float32) for name, shape in classifier.spec.inputs.items()}
        )
        return model

    def _take(self, model: Model, fallback: Model | None) -> None:
        self._models.take_over(model, fallback)
        name = model.classifier.bundle.fingerprint[:16]
        self._events.report("bundle-changed", detail=f"{name}…, {model.classifier.selection.description}")
        say(f"bundle: {name}…, {model.classifier.selection.description}")

    def _refuse(self, fingerprint: str, reason: str) -> None:
        self._refused[fingerprint] = reason
        self._events.report("bundle-refused", detail=reason)
        say(f"bundle {fingerprint[:16]}… is not taken: {reason}", style="yellow")

    def _tell(self) -> None:
        """Tell an update, where there is one, how the run goes: once a second."""
        if time.monotonic() - self._told < STATE_INTERVAL or not self._store.is_updating():
            return
        self._told, model = time.monotonic(), self._models.current
        self._store.write_run(
            RunState(
                run_name(),
                model.classifier.bundle.fingerprint,
                model.results,
                model.failures,
                model.inference_ms,
                dict(self._refused),
            )
        )
