"""Closes a run's classifier at its end, or leaves it behind where closing it would never end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from .. import console
from ..console import say

if TYPE_CHECKING:
    from ..classifier import Classifier

__all__ = ["Lease"]


class Lease:
    """This context manager closes a classifier; where it can't, the command leaves without tearing anything down.

    Args:
        classifier: the classifier to close.
        seconds: how long closing may take; None: as long as it needs, because a supervisor watches.
    """

    def __init__(self, classifier: Classifier, seconds: float | None) -> None:
        self._classifier = classifier
        self._seconds = seconds
        self._left: list[str] = []

    def leave_behind(self, names: Sequence[str]) -> None:
        """Note the names of threads that hang in a decoder or an engine, which then is not closed under them."""
        self._left += names

    def __enter__(self) -> Classifier:
        return self._classifier

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._left:
            self._close()
        if self._left:
            say(f"{', '.join(self._left)} did not end in time and was left behind", style="yellow")
            console.leave_at_once()

    def _close(self) -> None:
        if self._seconds is None:
            self._classifier.close()
            return
        failures: list[BaseException] = []
        # an engine waits for what was begun on its device before it gives the memory back, and some never answer
        closing = threading.Thread(target=self._try_to_close, args=(failures,), name="closing", daemon=True)
        closing.start()
        closing.join(self._seconds)
        if closing.is_alive():
            self._left.append("closing the engine")
        if failures:
            raise failures[0]

    def _try_to_close(self, failures: list[BaseException]) -> None:
        try:
            self._classifier.close()
        except BaseException as error:  # _close raises it, on the thread that waits for this one
            failures.append(error)
