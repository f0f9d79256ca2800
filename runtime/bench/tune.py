"""Measures which CPU variant is fastest on this device, and on how many threads, for later starts to take.

All variants side by side, at each batch size; then the fastest ones on other numbers of threads, side by side too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..backends import Selection, open_variant
from ..backends.tuning import WORTH, Choice, Tuning, tunable
from ..bundle import Bundle
from ..errors import BackendError, BackendUnavailableError, GateError
from ..golden import check_golden
from ..preprocess import Preprocessor
from ..process import usable_cpus
from ..timing import time_interleaved
from .cases import BenchProgress, BenchRequest

MIN_ROUNDS = 7


@dataclass(frozen=True)
class Tuned:
    """The choices, and what everything took: milliseconds by batch size, then by variant and threads (None: default).

    ``skipped`` has the variants that were left out, with the reasons.
    """

    tuning: Tuning
    times: Mapping[int, Mapping[tuple[str, int | None], float]]
    skipped: Mapping[str, str]


def tune(bundle: Bundle, request: BenchRequest, progress: BenchProgress) -> Tuned:
    """Measure the CPU variants that passed their gates and pass their golden check here, at the request's batch sizes.

    Raises:
        BackendUnavailableError: there is none that runs here.
        BundleError: a variant's file is damaged.
    """
    names = tuple(item.name for item in tunable(bundle.manifest.variants))
    with ExitStack() as stack:
        opened, skipped = _open(bundle, progress, stack)
        first = _time(bundle, opened, request, progress)
    best = {batch: _best(found, names) for batch, found in first.items()}
    times = {batch: dict(found) for batch, found in first.items()}
    for name in dict.fromkeys(choice.variant for choice in best.values()):
        for batch, found in _on_other_threads(bundle, name, request, progress).items():
            if best[batch].variant == name:  # the default's time too is the later one, beside the others'
                times[batch] |= found
                best[batch] = _best(found, names)
    return Tuned(Tuning(batches=best), times, skipped)


def _open(
    bundle: Bundle, progress: BenchProgress, stack: ExitStack
) -> tuple[dict[tuple[str, int | None], Selection], dict[str, str]]:
    """Open every variant that is right here, to be closed with the stack; say why others are left out."""
    variants, preprocessor = tunable(bundle.manifest.variants), Preprocessor(bundle.spec)
    opened: dict[tuple[str, int | None], Selection] = {}
    skipped: dict[str, str] = {}
    progress.begin("opening", len(variants))
    for variant in variants:
        try:
            selection = open_variant(bundle, variant)
            stack.enter_context(selection.backend)
            check_golden(bundle, variant, selection.backend, preprocessor)
            opened[variant.name, None] = selection
        except (BackendError, GateError) as error:
            skipped[variant.name] = str(error)
        progress.step()
    if not opened:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "none; hybrid-export adds one"
        raise BackendUnavailableError(
            f"{bundle.root}: expected a variant for the CPU that passed its gate and runs here, found {reasons}"
        )
    return opened, skipped


def _on_other_threads(
    bundle: Bundle, name: str, request: BenchRequest, progress: BenchProgress
) -> Mapping[int, Mapping[tuple[str, int | None], float]]:
    """Time a variant on its default number of threads again, and on others beside it."""
    variant = next(item for item in bundle.manifest.variants if item.name == name)
    cpus = len(usable_cpus())
    with ExitStack() as stack:
        opened = {}
        for threads in (None, *sorted({1, max(1, cpus // 2), cpus})):
            selection = open_variant(bundle, variant, threads=threads)
            stack.enter_context(selection.backend)
            opened[(name, threads)] = selection
        return _time(bundle, opened, request, progress)


def _time(
    bundle: Bundle,
    opened: Mapping[tuple[str, int | None], Selection],
    request: BenchRequest,
    progress: BenchProgress,
) -> Mapping[int, dict[tuple[str, int | None], float]]:
    progress.begin("timing", len(request.batches))
    golden = bundle.golden_tensors()
    found: dict[int, dict[tuple[str, int | None], float]] = {}
    for batch in request.batches:
        tensors = {name: np.resize(tensor, (batch, *tensor.shape[1:])) for name, tensor in golden.items()}
        calls: dict[str, Callable[[], object]] = {
            str(number): partial(item.backend.run, tensors) for number, item in enumerate(opened.values())
        }
        timings = time_interleaved(calls, warm_up_s=0.1, min_seconds=request.seconds, min_rounds=MIN_ROUNDS)
        found[batch] = {key: timings[str(number)].p50 for number, key in enumerate(opened)}
        progress.step()
    return found


def _best(times: Mapping[tuple[str, int | None], float], names: tuple[str, ...]) -> Choice:
    """Choose the fastest, or of what hardly differs from it the widest variant, on its default threads if they do.

    ``names`` has the variants, the widest first.
    """
    least = min(times.values())
    near = [key for key, ms in times.items() if ms <= WORTH * least]
    variant, threads = min(near, key=lambda key: (names.index(key[0]), key[1] is not None, times[key]))
    return Choice(variant=variant, threads=threads, milliseconds=times[variant, threads])
