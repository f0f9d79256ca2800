"""This room measures a bundle's variants on this machine, and puts the limit beside each number.

A bundle and a ``BenchRequest`` come in; a ``BenchReport`` goes out, as JSON, CSV, tables or a plot. The room must not
know training, export or live sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazy_names

if TYPE_CHECKING:
    from .bench_report import BenchReport
    from .cases import BenchRequest
    from .report_changes import compare_reports
    from .rounds import bench

__all__ = ["BenchReport", "BenchRequest", "bench", "compare_reports"]

_HOMES = {
    "BenchReport": "bench_report",
    "BenchRequest": "cases",
    "bench": "rounds",
    "compare_reports": "report_changes",
}

if not TYPE_CHECKING:  # a type checker is to see the names above, and no others
    __getattr__ = lazy_names(__name__, _HOMES)
