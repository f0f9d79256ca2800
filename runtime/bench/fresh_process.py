"""Time fresh processes up to their first prediction, and take their peak of memory.

Memory and the time to the first prediction are properties of a process, and the one that measures has opened other
variants before. So this file is also the program that such a process runs; its figures go to stdout as one line of
JSON. It imports little at its top, as the program's imports are timed.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..process import peak_mib, python_command

if TYPE_CHECKING:
    from .bench_report import Start

PROGRAM = "from hybrid_edge.runtime.bench.fresh_process import main; main()"
TIMEOUT = 600.0  # seconds for one process: the golden check of a large FP32 model on a small CPU takes tens
STDERR_LINES = 3  # kept of a failed process's stderr, whose last ones name the error
MIB = 2**20


def measure_starts(
    wanted: Mapping[str, Any], variants: Iterable[str], count: int, after: Callable[[], object] = lambda: None
) -> dict[str, Start]:
    """Start ``count`` processes for each variant, in turn, and take the medians; call ``after`` after each process.

    ``wanted`` is what ``classify_first`` is asked for, but for the variant; TensorRT's engines are built already.

    Raises:
        BackendError: one of the processes failed; the message quotes what it said.
    """
    from .bench_report import Start  # noqa: PLC0415  # the program is not to load it

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for _ in range(count):
        for name, runs in found.items():
            runs.append(_start({**wanted, "variant": name}))
            after()
    return {name: Start(**_medians(runs), runs=count) for name, runs in found.items() if runs}


def _start(request: dict[str, Any]) -> dict[str, Any]:
    from ..errors import BackendError  # noqa: PLC0415  # the program is not to load it

    content = json.dumps({**request, "started": time.monotonic()})
    try:
        done = subprocess.run(  # noqa: S603  # this interpreter, this package
            [*python_command(PROGRAM), content], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        failure = " ".join(done.stderr.split("\n")[-STDERR_LINES - 1 :]).strip() or f"exit {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        done, failure = None, str(error)
    if done is None or done.returncode != 0:
        raise BackendError(
            f"variant {request['variant']}: expected a fresh process to classify one frame, found: {failure}; it runs "
            "in this process: free memory, or leave its start out with --starts 0"
        )
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: None if value is None else statistics.median(run[name] for run in runs) for name, value in runs[0].items()
    }


def classify_first(request: dict[str, Any], moment: Callable[[], None]) -> float | None:
    """Open a variant, check it and classify a golden example, as a fresh process does.

    ``request`` has ``bundle`` and its ``fingerprint``, ``variant`` (its name), ``threads``, and ``profile`` of its
    engine. ``moment`` notes the time; it is called after the imports, the opening, the check and the classification.
    Returned are the MiB of the GPU's memory that all this took; None for a CPU.
    """
    from ..backends import open_variant  # noqa: PLC0415  # how long the imports take is a figure
    from ..backends.cuda import find_gpu  # noqa: PLC0415
    from ..bundle import Bundle  # noqa: PLC0415
    from ..classifier import Classifier  # noqa: PLC0415
    from ..engines.engine_options import EngineOptions  # noqa: PLC0415
    from ..golden import prove_golden  # noqa: PLC0415
    from ..preprocess import Preprocessor  # noqa: PLC0415
    from ..trust import Trust  # noqa: PLC0415

    moment()
    bundle = Bundle.open(request["bundle"], Trust((request["fingerprint"],), signer=""))
    variant = next(item for item in bundle.manifest.variants if item.name == request["variant"])
    free = None if variant.target == "cpu" else find_gpu().free_memory
    options = EngineOptions(tuple(request["profile"]), build=False)
    selection = open_variant(bundle, variant, threads=request["threads"], engine=options)
    with Classifier(bundle, selection, batch_size=1, check=False) as classifier:
        moment()
        prove_golden(bundle, variant, selection.backend, Preprocessor(bundle.spec))
        moment()
        classifier.predict([next(bundle.golden_images())])
        moment()
        return None if free is None else (free - find_gpu().free_memory) / MIB


def main() -> None:
    """Open the variant that ``sys.argv[1]`` describes (JSON: bundle, variant, threads, profile, started) and classify.

    ``started`` is the parent's ``time.monotonic()`` just before it started this process.
    """
    request = json.loads(sys.argv[1])
    moments: list[float] = [request["started"]]
    gpu_mib = classify_first(request, lambda: moments.append(time.monotonic()))
    parts = [later - earlier for earlier, later in pairwise(moments)]
    figures = dict(zip(("imports", "opening", "golden", "first"), parts, strict=True))
    print(json.dumps({**figures, "seconds": sum(parts), "peak_mib": peak_mib(), "gpu_mib": gpu_mib}))  # noqa: T201
