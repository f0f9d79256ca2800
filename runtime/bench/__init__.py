"""This room measures a bundle's variants on this machine and puts the limit beside each number.

A bundle and a ``BenchRequest`` come in; a ``BenchReport`` goes out, as JSON, CSV, tables or a plot. The room knows
a backend by its calls alone, and must not know training, export or live sources.

    from hybrid_edge.runtime.bench import BenchRequest, bench

    report = bench(BenchRequest("bundle.tar", batches=(1, 8)))
    print({case.name: case.inference.p50 for case in report.cases})

request      checks what is to be measured
candidates   opens the variants that run here, and says why the others don't
cases        prepares one variant at one batch size: what of it is called and timed
stages       counts a profile's nodes to the model's branches, which shows where the time goes
run          holds ``bench``, which measures all cases in interleaved rounds and makes the report
starts       times fresh processes up to their first prediction; first and opened run inside them
machine      records what it was measured on; nvidia asks for the GPU, a Jetson's power mode and its power
energy       measures the joules a frame on a Jetson
places       removes the places of this machine from the report's texts
report       is the report and its JSON; rows writes it as CSV, tables and plot show it to people
compare      tells from two reports what got faster or slower, beyond the noise
command      does what ``hybrid-bench`` is asked for
limits       takes the limit beside the number from ``runtime.roofline``
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
