"""Write a report as CSV for spreadsheets, with one flat row for each case."""

from __future__ import annotations

import csv
from pathlib import Path

from ..storage import replacing
from .report import STAGES, UNSPLIT, BenchReport, Case

__all__ = ["rows_of", "write_csv"]

DIGITS = 6  # significant digits, as times are known to three or four

Value = str | int | float | bool | None


def rows_of(report: BenchReport) -> list[dict[str, Value]]:
    """Return the cases as flat rows with equal columns; times are milliseconds a batch, None where not measured."""
    return [_row(case, report) for case in report.cases]


def write_csv(report: BenchReport, path: Path) -> None:
    """Write the rows of a report; the file is replaced as a whole."""
    rows = rows_of(report)
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows([{name: _rounded(value) for name, value in row.items()} for row in rows])


def _row(case: Case, report: BenchReport) -> dict[str, Value]:
    stages, start = case.stages, report.starts.get(case.variant)
    timed: dict[str, Value] = {
        f"{part}_{name}_ms": getattr(stats, name)
        for part, stats in (("inference", case.inference), ("whole", case.whole))
        for name in ("p50", "p90", "p99", "mean")
    }
    return {
        "variant": case.variant,
        "target": case.target,
        "precision": case.precision,
        "device": case.device,
        "batch": case.batch,
        **timed,
        "images_per_s": case.images_per_s,
        "whole_images_per_s": case.whole_images_per_s,
        "inference_spread": case.inference.spread,
        "whole_spread": case.whole.spread,
        "noisy": case.noisy,
        **{f"{name.replace(' ', '_')}_ms": stages.get(name) for name in (*STAGES, UNSPLIT)},
        "limit_ms": case.limit.ms if case.limit else None,
        "of_limit": case.of_limit,
        "joules_per_frame": case.joules_per_frame,
        "first_prediction_s": start.seconds if start else None,
        "peak_mib": start.peak_mib if start else None,
        "gpu_mib": start.gpu_mib if start else None,
    }


def _rounded(value: Value) -> Value:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
