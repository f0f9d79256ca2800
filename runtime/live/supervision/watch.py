"""When a worker counts as hung, judged from its heartbeats alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ...sources.calls import CALL
from .heartbeat import Beat

__all__ = ["HANG_TIMEOUT", "Limits", "Verdict", "Watch"]

HANG_TIMEOUT = 8.0
CAPTURE = "capture"  # stages of that name wait for cameras, for as long as it takes; their calls into C are noted apart
TIMES = 6.0  # the hang timeout: two workers have to start, and three to be watched for that long
RESUMED = 2.0  # seconds after a pause in which heartbeats may still speak of it


@dataclass(frozen=True)
class Limits:
    """Seconds that a worker may take.

    Attributes:
        busy: for one call of a stage other than capture, and for the way from the end of the frames to its own end.
        call: for one call of a source into a driver or decoder, which sees to shorter limits of its own.
        silence: between two heartbeats while frames flow; a C call that keeps the interpreter to itself silences them.
        start: without progress before frames flow. A step of an engine's build can take minutes on a small device.
        grace: from a signal to its end.
        kill: from SIGKILL to its end; only a call that hangs inside a driver takes longer.
        failures: how many within ``window`` are too many; those of a source's calls are not counted, as a camera is
            waited for, and tried again, for ever.
        window: see ``failures``.
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
        """The limits that ``--hang-timeout`` asks for.

        Silence is never allowed for longer than a busy stage, and three failures that take long fall within the window.
        """
        window = max(cls.window, TIMES * hang_timeout)
        return cls(busy=hang_timeout, silence=min(cls.silence, hang_timeout), window=window)


@dataclass(frozen=True)
class Verdict:
    """Why a worker counts as hung.

    Attributes:
        reason: one line.
        seconds: for how long it has been.
        source: whether it is a source's fault, and not the engine's or an output's.
    """

    reason: str
    seconds: float
    source: bool = False


class Watch:
    """One worker's heartbeats. Times are ``time.monotonic()``'s, handed in.

    Args:
        limits: what is allowed.
        now: when the worker was started.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._heard = self._entered = now
        self._deaf = 0.0
        self.last = Beat("starting")

    def hear(self, beat: Beat, now: float) -> None:
        """Take one heartbeat."""
        if beat.phase != self.last.phase:
            self._entered = now
        self._heard, self.last = now, beat

    def resume(self, now: float) -> None:
        """Supervisor and worker were stopped until now: what was not done in that time is held against nobody."""
        self._heard = self._entered = now
        self._deaf = now + RESUMED

    def verdict(self, now: float, *, blocked: bool = False) -> Verdict | None:
        """Whether the worker is hung.

        Args:
            now: the time.
            blocked: whoever reads stdout or stderr does not: a stage that waits for that is not hung.
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
        if kind == CALL:
            what = name.removeprefix(CALL).strip()
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
        if kind == CALL:
            return self._limits.call
        if kind == CAPTURE:
            return math.inf
        return self._limits.start if self.last.phase == "starting" else self._limits.busy
