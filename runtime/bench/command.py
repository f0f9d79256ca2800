"""Do what ``hybrid-bench`` is asked for: measure, predict or compare, show the result, and write the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import console
from ..bundle import Bundle
from ..console import say
from ..engines.progress import make_reporter
from ..errors import BundleError, UsageError
from ..roofline.devices import predict_for
from .candidates import choose_variants
from .compare import compare_reports
from .limits import AGAIN
from .limits import predict as predict_limits
from .plot import require_matplotlib, write_plot
from .report import BenchReport
from .request import BenchRequest
from .rows import write_csv
from .run import Steps, bench
from .tables import show_comparison, show_predictions, show_report

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Files", "compare", "measure", "predict"]


@dataclass(frozen=True)
class Files:
    """These are the files that results go to besides stdout; None means that there is none."""

    json: Path | None = None
    csv: Path | None = None
    plot: Path | None = None

    def check(self) -> None:
        """Refuse, before minutes of measuring, files that could not be written after them.

        Raises:
            UsageError: a folder is not there, can't be written to, or is in a file's place; two results share one file;
                or the plot is no .png.
            BenchError: a plot is wanted and matplotlib is not installed.
        """
        for path in self._wanted:
            if fault := _fault(path):
                raise UsageError(f"{path}: expected a file in a folder that is there, found {fault}")
        if len({path.resolve() for path in self._wanted}) < len(self._wanted):
            found = ", ".join(map(str, self._wanted))
            raise UsageError(f"expected a file of its own for each of --json, --csv and --plot, found {found}")
        if self.plot is not None:
            if self.plot.suffix.lower() != ".png":
                raise UsageError(f"expected --plot with a name that ends in .png, found {self.plot}")
            require_matplotlib()

    def write(self, report: BenchReport) -> None:
        """Write the files that are wanted, and say on stderr where they are."""
        if self.json is not None:
            report.save(self.json)
        if self.csv is not None:
            write_csv(report, self.csv)
        if self.plot is not None:
            write_plot(report, self.plot)
        for path in self._wanted:
            say(f"written: {path}")

    @property
    def _wanted(self) -> list[Path]:
        return [path for path in (self.json, self.csv, self.plot) if path is not None]


def measure(request: BenchRequest, files: Files) -> None:
    """Measure what a request asks for, show the report and write the files.

    Raises:
        HybridEdgeError: as ``bench`` and ``Files.check`` raise it.
    """
    files.check()
    with _progress() as steps:
        report = bench(request, steps)
    show_report(report)
    files.write(report)


def predict(request: BenchRequest, device: str) -> None:
    """Show the bounds of the chosen variants on a device that isn't here; without a choice, of all that it runs.

    Raises:
        UsageError: there is no such device, backend, precision or variant.
        BundleError: there is no bundle; or none of its variants, or of those chosen, is for such a device, or has its
            cost recorded.
    """
    rates = predict_for(device)
    if not request.backends and not request.variants:
        request = replace(request, backends=rates.targets)
    bundle = Bundle.open(request.bundle)
    variants = choose_variants(bundle, request)
    found = predict_limits(variants, rates, request.batches)
    if not found:
        raise BundleError(
            f"{bundle.root}: expected a variant for {' or '.join(rates.targets)}, which {device} runs, found "
            f"{', '.join(item.name for item in variants)}; choose others, or another device"
        )
    if all(item.limit is None for item in found):
        raise BundleError(f"{bundle.root}: expected a variant whose cost is recorded, found none; {AGAIN}")
    show_predictions(found, rates)


def compare(first: Path, second: Path) -> None:
    """Show what changed from the first report to the second.

    Raises:
        BenchError: a file is no report, or the two have no case in common.
    """
    show_comparison(compare_reports(BenchReport.load(first), BenchReport.load(second)))


def _fault(path: Path) -> str | None:
    """Return why a file can't be written at a path; None if it can."""
    if path.is_dir():
        return "a folder of that name"
    if not path.parent.is_dir():
        return f"no folder {path.parent}"
    return None if os.access(path.parent, os.W_OK | os.X_OK) else f"{path.parent}, which can't be written to"


class _Bar:
    """This bar shows the part of the work under way; it is drawn between measurements and never during one."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", visible=False)

    def begin(self, name: str, count: int) -> None:
        self._progress.start()  # building an engine shows its own bar in this one's place
        self._progress.reset(self._task, total=count, description=name, visible=True)
        self._progress.refresh()

    def step(self) -> None:
        self._progress.advance(self._task)
        self._progress.refresh()


@contextmanager
def _progress() -> Iterator[Steps]:
    progress = console.progress(transient=True)
    progress.live.auto_refresh = False  # a thread that draws ten times a second would disturb the measurement
    bar = _Bar(progress)
    try:
        yield Steps(bar.begin, bar.step, make_reporter(progress.stop))
    finally:
        progress.stop()
