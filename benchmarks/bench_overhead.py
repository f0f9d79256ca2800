"""What hybrid-bench's own timing adds to an inference: its loop beside a bare loop over the same session, interleaved.

python benchmarks/bench_overhead.py BUNDLE    (a digits bundle: an inference of about 1 ms at batch 8)
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from interleave import Report, interleave

from hybrid_edge.runtime.backends import open_variant
from hybrid_edge.runtime.bench.cases import TimedCase, make_case, make_frames
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.frame import OUTPUT_NAMES
from hybrid_edge.runtime.manifest import Variant
from hybrid_edge.runtime.timing import time_bursts

LIMIT = 0.02  # of an inference of 1 ms


def main() -> None:
    """Measure one variant at one batch size on one thread: what waits for another thread would be in the difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--burst", type=float, default=0.03, help="seconds of either loop in a round")
    arguments = parser.parse_args()
    bundle = Bundle.open(arguments.bundle)
    variant = find_variant(bundle, arguments.precision)
    with ExitStack() as stack:
        selection = open_variant(bundle, variant, threads=1)
        stack.enter_context(selection.backend)
        case = make_case(bundle, selection, arguments.batch, make_frames(bundle, arguments.batch))
        compare(bundle, case, arguments.rounds, arguments.burst)


def find_variant(bundle: Bundle, precision: str) -> Variant:
    """The bundle's variant of that precision for the CPU."""
    return next(item for item in bundle.manifest.variants if item.target == "cpu" and item.precision == precision)


def compare(bundle: Bundle, case: TimedCase, rounds: int, burst: float) -> None:
    """Time both loops, print and write the report.

    Measured is the CPU time of the thread, which other programs add little to. What the bench reports as a call's time
    has everything in it that stands between two readings of its clock: the backend's checks, and keeping the times.
    """
    tensors = {name: tensor[: case.batch] for name, tensor in bundle.golden_tensors().items()}
    session = case.selection.backend._session  # the very same session: two of one file differ by up to 2.5 %
    names = list(OUTPUT_NAMES)

    def bare() -> float:
        count, end, start = 0, time.perf_counter() + burst, time.thread_time()
        while time.perf_counter() < end:
            session.run(names, tensors)
            count += 1
        return (time.thread_time() - start) / count

    def benched() -> float:
        calls = {"case": {"inference": case.calls["inference"]}}
        times = time_bursts(calls, rounds=1, burst_s=burst, warm_up_s=0, clock=time.thread_time)
        return float(times["case"]["inference"][0].mean()) / 1000

    times = interleave({"bare session": bare, "hybrid-bench": benched}, rounds=rounds, warm_up=5)
    added = float(np.median(np.subtract(times["hybrid-bench"], times["bare session"])))
    report = Report("bench_overhead", ("hybrid-edge", "onnxruntime", "numpy"))
    report.add(
        f"{case.name}, one thread, CPU time",
        times,
        "bare session",
        added_us=round(added * 1e6, 2),
        of_1_ms=f"{added / 1e-3:.2%}",
        limit=f"{LIMIT:.0%}",
        within_limit=added / 1e-3 < LIMIT,
    )
    report.save()


if __name__ == "__main__":
    main()
