"""Run a fresh process up to its first prediction: ``python -m hybrid_edge.runtime.bench.first``.

Peak memory and the time to the first prediction are properties of a process, and the one that measures has opened
other variants before. The figures go to stdout as one line of JSON. This file imports little, as imports are timed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path

__all__ = ["main", "peak_mib"]

STATUS = Path("/proc/self/status")
KIB = 1024  # KiB in a MiB


def peak_mib(status: Path = STATUS) -> float:
    """Return the most resident memory that this process held at once, MiB.

    It is Linux's ``VmHWM``: ``ru_maxrss`` begins with what the parent held, before the process became this program.
    """
    try:
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / KIB
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / KIB / (KIB if sys.platform == "darwin" else 1)  # macOS counts bytes, others KiB


def main() -> None:
    """Open the variant that ``sys.argv[1]`` describes (JSON: bundle, variant, threads, profile, started) and classify.

    ``started`` is the parent's ``time.monotonic()`` just before it started this process.
    """
    request = json.loads(sys.argv[1])
    moments = [request["started"]]
    from .opened import classify_first  # noqa: PLC0415  # how long the imports take is a figure

    moments.append(time.monotonic())
    gpu_mib = classify_first(request, lambda: moments.append(time.monotonic()))
    imports, opening, golden, first = (later - earlier for earlier, later in pairwise(moments))
    figures = {"imports": imports, "opening": opening, "golden": golden, "first": first}
    print(json.dumps({**figures, "seconds": moments[-1] - moments[0], "peak_mib": peak_mib(), "gpu_mib": gpu_mib}))  # noqa: T201


if __name__ == "__main__":
    main()
