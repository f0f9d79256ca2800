"""hybrid_edge.runtime.bench: a bundle's variants measured on this machine, and the limit beside the number.

    from hybrid_edge.runtime.bench import BenchRequest, bench

    report = bench(BenchRequest("bundle.tar", batches=(1, 8)))
    print({case.name: case.inference.p50 for case in report.cases})

request      what to measure, checked
candidates   the variants that run here, opened; why the others don't
cases        one variant at one batch size: what is called and timed
stages       where the time goes: a profile's nodes by branch
run          ``bench``: all cases in interleaved rounds, into a report
starts       fresh processes up to their first prediction; first and opened are what runs in them
machine      what it was measured on; nvidia: GPU, Jetson's power mode and power
energy       joules a frame on a Jetson
places       texts for the report without the places of this machine
report       the report, as JSON; rows: as CSV; tables and plot: for people
compare      two reports: what got faster or slower, beyond the noise
command      what ``hybrid-bench`` does with all this
limits       the limit beside the number, from ``runtime.roofline``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .compare import compare_reports
    from .report import BenchReport
    from .request import BenchRequest
    from .run import bench

__all__ = ["BenchReport", "BenchRequest", "bench", "compare_reports"]

# the command's options are made of ``request``: its help is not to load what measures
_HOMES = {"BenchReport": "report", "BenchRequest": "request", "bench": "run", "compare_reports": "compare"}


if not TYPE_CHECKING:  # a type checker is to see the names above, and no others
    __getattr__ = lazy_names(__name__, _HOMES)
