"""Watches the live runs on this device while they try a new bundle."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..bundle_store import BundleStore, RunState
from ..errors import RefusedUpdateError

LOOK_INTERVAL = 0.2  # seconds
FIRST_WORD = 3.0  # seconds within which a run tells how it goes, once there is an update
ENOUGH_RESULTS = 20  # after which a median of times means something
SILENCE = 10.0  # seconds without a result after which a run that gave some before counts as hung


class Watch:
    """The live runs that a new bundle is tried in. Made before the trial begins, it knows how they went before."""

    def __init__(self, store: BundleStore) -> None:
        self._store = store
        deadline = time.monotonic() + FIRST_WORD
        while not (before := store.runs()) and time.monotonic() < deadline:
            time.sleep(LOOK_INTERVAL)
        self._before = before
        self._moved: dict[str, tuple[int, float]] = {}

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return len(self._before)

    def try_out(self, fingerprint: str, seconds: float, max_slower: float, timeout: float) -> None:
        """Let the runs try a version for ``seconds``, once they have taken it within ``timeout`` seconds.

        Raises:
            RefusedUpdateError: a run can't take it, fails or hangs with it, ends, or is slower than allowed. The trial
                goes on until the caller ends it.
        """
        self._store.begin_trial(fingerprint)
        deadline = time.monotonic() + timeout
        while not all(state.fingerprint == fingerprint for state in self._look(fingerprint).values()):
            if time.monotonic() > deadline:
                raise RefusedUpdateError(
                    f"expected the live runs to take the new bundle within {timeout:g} s, found that they did not"
                )
            time.sleep(LOOK_INTERVAL)
        self._moved.clear()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._judge(self._look(fingerprint), fingerprint, max_slower)
            time.sleep(LOOK_INTERVAL)

    def _look(self, fingerprint: str) -> Mapping[str, RunState]:
        """Return how the runs go; each of those from before must be there and not have refused the bundle."""
        found = self._store.runs()
        for run in self._before:
            if run not in found:
                raise RefusedUpdateError(f"the live run {run} ended, or was replaced, while it tried the new bundle")
            if fingerprint in found[run].refused:
                reason = found[run].refused[fingerprint]
                raise RefusedUpdateError(f"the live run {run} could not take the new bundle: {reason}")
        return {run: found[run] for run in self._before}

    def _judge(self, found: Mapping[str, RunState], fingerprint: str, max_slower: float) -> None:
        now = time.monotonic()
        for run, state in found.items():
            before = self._before[run]
            if state.failures or state.fingerprint != fingerprint:
                raise RefusedUpdateError(f"the live run {run}: the engine failed with the new bundle")
            results, since = self._moved.get(run, (-1, now))
            if state.results != results:
                self._moved[run] = (state.results, now)
            elif before.results and now - since > SILENCE:
                raise RefusedUpdateError(
                    f"the live run {run} classified nothing for {SILENCE:g} s with the new bundle, and did before"
                )
            if state.inference_ms and before.inference_ms and state.results >= ENOUGH_RESULTS:
                slower = state.inference_ms / before.inference_ms
                if slower > max_slower:
                    raise RefusedUpdateError(
                        f"the live run {run}: expected at most {max_slower:g} times the time of the bundle before, "
                        f"found {slower:.2f} times; --max-slower admits more"
                    )
