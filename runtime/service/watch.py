"""Judges from its heartbeats alone when a worker counts as hung."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..sources.blocking import CALL_PREFIX
from .heartbeat import Beat

__all__ = ["HANG_TIMEOUT", "Limits", "Verdict", "Watch"]

HANG_TIMEOUT = 8.0
CAPTURE = "capture"  # stages of that name wait for cameras without a limit; their calls into C are noted apart
TIMES = 6.0  # hang timeouts in the window at least: two workers have to start, and three to be watched for that long
RESUMED = 2.0  # seconds after a pause in which heartbeats may still speak of it


@dataclass(frozen=True)
class Limits:
    """This class holds the limits of a worker, in seconds but for ``failures``.

    Attributes:
        busy: for one call of a stage other than capture, and from the end of the frames to the worker's own end.
        call: for one call of a source into a driver or decoder, which sees to shorter limits of its own.
        silence: between two heartbeats while frames flow; a C call that keeps the interpreter to itself silences them.
        start: without progress before frames flow. A step of an engine's build can take minutes on a small device.
        grace: from a signal to the worker's end.
        kill: from SIGKILL to the worker's end; only a call that hangs inside a driver takes longer.
        failures: how many workers given up within ``window`` are too many; those given up for a source's call are not
            counted, as a camera is waited for, and tried again, for ever.
        window: the time within which ``failures`` are counted.
    """

    busy: float = HANG_TIMEOUT
    call: float = 30.0
    silence: float = 5.0
    start: float = 900.0
    grace: float = 2.0
    kill: float = 5.0
    failures: int = 3
    window: float = 60.0

    @classmethod
    def of(cls, hang_timeout: float) -> Limits:
        """Make the limits that ``--hang-timeout`` (seconds) asks for.

        Silence is never allowed for longer than a busy stage, and three failures that take long fall within the window.
        """
        window = max(cls.window, TIMES * hang_timeout)
        return cls(busy=hang_timeout, silence=min(cls.silence, hang_timeout), window=window)


@dataclass(frozen=True)
class Verdict:
    """This class says why a worker counts as hung.

    Attributes:
        reason: the reason, on one line.
        seconds: for how long the worker has hung.
        source: whether it is a source's fault, and not the engine's or an output's.
    """

    reason: str
    seconds: float
    source: bool = False


class Watch:
    """Watches one worker's heartbeats; all times are ``time.monotonic()`` seconds that the caller hands in.

    Args:
        limits: how long the worker may take.
        now: when the worker was started.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._heard = self._entered = now
        self._deaf = 0.0
        self.last = Beat("starting")

    def hear(self, beat: Beat, now: float) -> None:
        """Take one heartbeat, which came at ``now``."""
        if beat.phase != self.last.phase:
            self._entered = now
        self._heard, self.last = now, beat

    def resume(self, now: float) -> None:
        """Forget the time until now, in which supervisor and worker were both stopped."""
        self._heard = self._entered = now
        self._deaf = now + RESUMED

    def verdict(self, now: float, *, blocked: bool = False) -> Verdict | None:
        """Return why the worker counts as hung; None where it does not.

        Args:
            now: the time.
            blocked: whether nobody reads stdout or stderr: a stage that waits for that is not hung.
        """
        if now < self._deaf:
            return None
        limits, phase = self._limits, self.last.phase
        silent = now - self._heard
        if silent > (limits.silence if phase == "running" else max(limits.start, limits.silence)):
            return Verdict(f"no heartbeat for {silent:.1f} s: a call into C keeps the interpreter to itself", silent)
        if phase == "stopping":
            return self._overdue(now - self._entered)
        return None if blocked else self._busiest()

    def _overdue(self, seconds: float) -> Verdict | None:
        if seconds <= self._limits.busy:
            return None
        return Verdict(f"it was done and did not end within {seconds:.1f} s", seconds)

    def _busiest(self) -> Verdict | None:
        over = [item for item in self.last.busy.items() if item[1] > self._limit(item[0])]
        if not over:
            return None
        name, seconds = max(over, key=lambda item: item[1])
        limit, kind = self._limit(name), name.split()[0]
        if kind == CALL_PREFIX:
            what = name.removeprefix(CALL_PREFIX).strip()
            return Verdict(
                f"a source's call, {what}, has not returned for {seconds:.1f} s (limit {limit:g} s)", seconds, True
            )
        return Verdict(
            f"stage {name} has been in one call for {seconds:.1f} s (limit {limit:g} s; a slower engine needs a "
            "larger --hang-timeout)",
            seconds,
        )

    def _limit(self, name: str) -> float:
        kind = name.split(maxsplit=1)[0]
        if kind == CALL_PREFIX:
            return self._limits.call
        if kind == CAPTURE:
            return math.inf
        return self._limits.start if self.last.phase == "starting" else self._limits.busy
