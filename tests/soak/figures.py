"""What the soaks share: this process's memory, threads and descriptors over time, a digits bundle, the closing line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import typer
from support.streams.reading import resources

from hybrid_edge.runtime.outputs.sink import Sink
from hybrid_edge.runtime.sources.events import Event

MIB = 2**20
MOST = 200_000  # samples: ten a second for five hours
THREADS, DESCRIPTORS = 2, 3  # columns of Samples.rows
# a process of its own: TensorFlow's memory is no part of what is measured
EXPORT = """
import sys
from pathlib import Path
from support.models.standin import DIGITS, make_standin, write_crops
from hybrid_edge.export.exporter import export
from hybrid_edge.export.export_request import make_request

folder = Path(sys.argv[1])
make_standin(DIGITS, folder / "digits.keras")
export(make_request(folder / "digits.keras", images=write_crops(folder / "photos", 16, seed=77), out=folder / "bundle"))
"""


def digits_bundle(given: Path | None, folder: Path) -> Path:
    """The bundle that was named, or the digits model's stand-in, built and exported now."""
    if given is not None:
        return given
    typer.echo("building a digits bundle", err=True)
    subprocess.run([sys.executable, "-c", EXPORT, str(folder)], check=True, capture_output=True)
    return folder / "bundle"


def rss(process: int | str = "self") -> float:
    """Resident memory of this process, or of another one, MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


@dataclass
class Samples:
    """Memory, threads and descriptors, noted now and then by whoever calls ``note``, with a number of one's own.

    They are kept in memory that is there from the start: lists that grow and move would be measured as well.
    """

    rows: npt.NDArray[np.float64] = field(default_factory=lambda: np.full((MOST, 4), np.nan))
    count: int = 0
    due: float = 0.0

    def note(self, at: float, every: float = 0.1) -> None:
        """Note everything, unless that was done less than ``every`` seconds ago."""
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + every
        threads, descriptors, _ = resources()
        self.add(at, rss(), threads, descriptors)

    def add(self, at: float, memory: float, threads: int, descriptors: int) -> None:
        """Add what was measured elsewhere."""
        self.rows[self.count] = at, memory, threads, descriptors
        self.count += 1

    def after(self, start: float) -> Samples:
        kept = self.rows[: self.count]
        kept = kept[np.searchsorted(kept[:, 0], start) :]
        return Samples(kept, len(kept))

    @property
    def at(self) -> npt.NDArray[np.float64]:
        return self.rows[: self.count, 0]

    @property
    def memory(self) -> npt.NDArray[np.float64]:
        return self.rows[: self.count, 1]

    def range(self, column: int) -> tuple[int, int]:
        """The fewest and the most threads (those of libraries too), or descriptors."""
        return int(self.rows[: self.count, column].min()), int(self.rows[: self.count, column].max())

    def slope(self) -> float:
        """MiB for each step of the number, by least squares."""
        return float(np.polyfit(self.at, self.memory, 1)[0])

    def growth(self) -> float:
        """MiB from the first samples to the last: medians of up to ten each."""
        few = max(1, min(10, len(self.memory) // 4))
        return float(np.median(self.memory[-few:]) - np.median(self.memory[:few]))


class MeasuringSink(Sink):
    """A sink that can keep samples, and says what goes wrong, which nothing does in a soak that passes."""

    def __init__(self) -> None:
        self.samples = Samples()

    def event(self, event: Event) -> None:
        typer.echo(str(event), err=True)


def verdict(name: str, figures: Mapping[str, object], limits: Mapping[str, bool]) -> None:
    """Print the closing line and leave: with exit code 1, and what it was, where a limit was passed."""
    over = [limit for limit, held in limits.items() if not held]
    text = ", ".join(f"{key} {value}" for key, value in figures.items())
    typer.echo(f"{name}: {text}: {'OVER: ' + '; '.join(over) if over else 'within limits'}")
    deadline = time.monotonic() + 15  # a stream that was silent is read for nine seconds more
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    for thread in others:
        thread.join(max(deadline - time.monotonic(), 0))
    left = [thread.name for thread in others if thread.is_alive()]
    if left:
        typer.echo(f"{name}: threads still there: {left}")
    raise typer.Exit(1 if over or left else 0)
