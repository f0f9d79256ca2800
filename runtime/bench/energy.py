"""Measure joules a frame on a Jetson, from tegrastats' power of the whole module while one case runs steadily."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from types import TracebackType

from .nvidia import board_watts

__all__ = ["PowerMeter", "joules_per_frame"]

INTERVAL = 100  # milliseconds between two lines of tegrastats
SECONDS = 3.0  # seconds for each case, which give thirty samples
SETTLING = 0.5  # seconds before samples count, as the sensors average over some tenths of a second


class PowerMeter:
    """This context samples the module's power while it lasts; without tegrastats there are no samples."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    @property
    def present(self) -> bool:
        """Whether tegrastats is running."""
        return self._process is not None

    def watts(self, start: float, end: float) -> float | None:
        """Return the mean watts between two moments of ``time.monotonic``; None without a sample in between."""
        found = [watts for moment, watts in list(self._samples) if start <= moment <= end]
        return sum(found) / len(found) if found else None

    def __enter__(self) -> PowerMeter:
        program = shutil.which("tegrastats")
        if program is not None:
            self._process = subprocess.Popen(  # noqa: S603  # NVIDIA's own tool
                [program, "--interval", str(INTERVAL)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._thread.join()
            self._process.wait()

    def _read(self) -> None:
        if self._process is None or self._process.stdout is None:
            return
        with self._process.stdout as lines:
            for line in lines:
                watts = board_watts(line)
                if watts is not None:
                    self._samples.append((time.monotonic(), watts))


def joules_per_frame(
    meter: PowerMeter, call: Callable[[], object], frames: int, *, seconds: float = SECONDS
) -> float | None:
    """Return the whole module's joules a frame while ``call`` is repeated, idle power included; None without samples.

    Args:
        meter: a meter whose context was entered.
        call: classifies ``frames`` frames.
        frames: the number of frames in one call.
        seconds: how long the call is repeated, at least once, after half a second in which the sensors settle.
    """
    _repeat(call, SETTLING)
    start = time.monotonic()
    count = _repeat(call, seconds)
    end = time.monotonic()
    watts = meter.watts(start, end)
    return None if watts is None else watts * (end - start) / (count * frames)


def _repeat(call: Callable[[], object], seconds: float) -> int:
    """Repeat a call for so many seconds, at least once, and return how often it was made."""
    end = time.monotonic() + seconds
    count = 0
    while count == 0 or time.monotonic() < end:
        call()
        count += 1
    return count
