"""Measure every case of a request in interleaved rounds, and gather what belongs to the numbers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..engines.engine_options import EngineOptions, parse_profile
from ..engines.progress import Reporter
from ..errors import BackendError
from ..manifest import Target
from ..roofline.devices import predict_for
from ..roofline.probe import best_of, probe, rates_apart
from ..roofline.rates import Rates
from ..timing import Milliseconds, time_bursts
from .candidates import Candidates, choose_variants, open_candidates
from .cases import Prepared, make_frames, prepare
from .energy import PowerMeter, joules_per_frame
from .limits import AGAIN, limit_of
from .machine import busy_before, read_clocks, record_machine, slowed_down
from .places import command_line, without_places
from .report import ENOUGH, BenchReport, BundleRecord, Case, Machine, Start
from .request import BenchRequest
from .stages import branch_shares
from .starts import measure_starts

__all__ = ["Steps", "bench"]

PROBE = 2.0  # seconds of probing before the rounds, and again after them
IDLE = 2.0  # seconds for which a Jetson's power at rest is measured
PROFILE = 0.5  # seconds of profiled runs for each case, as far as these are from FEWEST to MOST runs
FEWEST, MOST = 5, 100

Times = Mapping[str, Mapping[str, list[Milliseconds]]]


@dataclass(frozen=True)
class Steps:
    """These functions are told how far the work is.

    Attributes:
        begin: called when a part of the work begins, with its name and its number of steps.
        step: called after each step, outside of what is timed.
        reporter: told of the progress of TensorRT's builds.
    """

    begin: Callable[[str, int], None] = lambda _name, _count: None
    step: Callable[[], None] = lambda: None
    reporter: Reporter | None = None


def bench(request: BenchRequest, steps: Steps | None = None) -> BenchReport:
    """Measure a bundle's variants on this machine.

    Every variant that runs here × batch size is a case. After a warm-up by time, rounds visit all cases, each round in
    another order, a burst of calls each. The branches' shares come from profiles of their own, taken afterwards; memory
    and the time to the first prediction from fresh processes, started before.

    Args:
        request: says what to measure, how long, and whether to measure the machine's rates too.
        steps: told how far the work is.

    Raises:
        UsageError: a name is not known to the bundle or the runtime.
        BundleError: there is no bundle, or it is damaged.
        BackendError: nothing runs here, or what was asked for by name does not.
        GateError: what was asked for by name computes something else here than where it was exported.
    """
    steps = steps or Steps()
    bundle = Bundle.open(request.bundle)
    options = EngineOptions() if request.profile is None else EngineOptions(parse_profile(request.profile))
    stated = predict_for(request.rates) if request.rates is not None else None
    machine = record_machine(read_clocks())
    with ExitStack() as stack:
        steps.begin("opening", len(choose_variants(bundle, request)))
        found = open_candidates(bundle, request, options, steps.reporter or Reporter(), stack, after=steps.step)
        starts, notes = _starts(bundle, found, request, options, steps)
        frames = make_frames(bundle, max(request.batches))
        cases = [prepare(bundle, item, batch, frames) for item in found.selections for batch in request.batches]
        rates = _rates(request, stated, steps)
        times, machine = _time(cases, machine, request, steps)
        rates, apart = _probe_again(rates, request, steps)
        shares = _profile(bundle, cases, times, steps)
        joules, idle = _energy(cases, steps)
        machine = machine.model_copy(update={"idle_watts": idle})
        results = tuple(
            case.result(
                times[case.name],
                shares[case.name],
                joules.get(case.name),
                limit_of(case.selection.variant, rates, case.batch),
            ).model_copy(update={"file_sha256": case.selection.variant.file.sha256})
            for case in cases
        )
        return BenchReport(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=command_line(sys.argv),
            settings=_settings(request, options),
            bundle=_record(bundle),
            machine=machine,
            cases=results,
            starts=starts,
            skipped={name: without_places(reason) for name, reason in found.skipped.items()},
            rates={target: asdict(item) for target, item in rates.items()} or None,
            notes=tuple(map(without_places, (*notes, *apart, *_notes(machine, results, found, rates)))),
        )


def _time(cases: Sequence[Prepared], machine: Machine, request: BenchRequest, steps: Steps) -> tuple[Times, Machine]:
    """Run warm-up and rounds; return times, and the machine with clocks read after each: an idle CPU's say nothing."""
    steps.begin("measuring", len(cases) * request.rounds)
    warmed = {case.name: {"inference": case.calls["inference"]} for case in cases}
    time_bursts(warmed, rounds=1, burst_s=request.warm_up, warm_up_s=0, seed=request.seed)
    before = read_clocks().model_copy(update={"load": machine.before.load})
    times = time_bursts(
        {case.name: case.calls for case in cases},
        rounds=request.rounds,
        burst_s=request.burst,
        warm_up_s=0,
        seed=request.seed,
        after=steps.step,
    )
    return times, machine.model_copy(update={"before": before, "after": read_clocks()})


def _starts(
    bundle: Bundle, found: Candidates, request: BenchRequest, options: EngineOptions, steps: Steps
) -> tuple[dict[str, Start], list[str]]:
    """Time fresh processes; if one fails, return that as a note, as it is not the end of the measurement."""
    steps.begin("starting", request.starts * len(found.selections))
    try:
        starts = measure_starts(
            bundle,
            found.selections,
            count=request.starts,
            threads=request.threads,
            profile=options.profile,
            after=steps.step,
        )
    except BackendError as error:
        return {}, [f"no figures of starts: {error}"]
    return starts, []


def _rates(request: BenchRequest, stated: Rates | None, steps: Steps) -> dict[Target, Rates]:
    """Return rates by target: those stated for a device, if one was named, and this CPU's, measured, if wanted."""
    rates: dict[Target, Rates] = {} if stated is None else dict.fromkeys(stated.targets, stated)
    if request.probe:
        steps.begin("probing", 1)
        rates["cpu"] = probe(seconds=PROBE, threads=request.threads)
        steps.step()
    return rates


def _probe_again(
    rates: dict[Target, Rates], request: BenchRequest, steps: Steps
) -> tuple[dict[Target, Rates], list[str]]:
    """Probe again after the rounds, as another program may have slowed one; return the better rates, and notes."""
    if not request.probe:
        return rates, []
    steps.begin("probing again", 1)
    before, after = rates["cpu"], probe(seconds=PROBE, threads=request.threads)
    steps.step()
    apart = rates_apart(before, after)
    said = f"the probed rates differ before and after the rounds, the better counts: {', '.join(apart)}"
    return {**rates, "cpu": best_of(before, after)}, [said] if apart else []


def _profile(bundle: Bundle, cases: Sequence[Prepared], times: Times, steps: Steps) -> dict[str, dict[str, float]]:
    """Return the branches' shares by case, from about half a second of profiled runs, ``FEWEST`` to ``MOST``."""
    steps.begin("profiling", len(cases))
    shares = {}
    for case in cases:
        milliseconds = float(np.median(np.concatenate(times[case.name]["inference"])))
        runs = min(max(FEWEST, round(PROFILE * 1000 / milliseconds)), MOST)
        shares[case.name] = branch_shares(case.profile(runs), bundle.spec)
        steps.step()
    return shares


def _energy(cases: Sequence[Prepared], steps: Steps) -> tuple[dict[str, float], float | None]:
    """Return the joules a frame by case, and the watts at rest; nothing and None where there is no tegrastats."""
    joules: dict[str, float] = {}
    with PowerMeter() as meter:
        if not meter.present:
            return joules, None
        steps.begin("power", len(cases))
        start = time.monotonic()
        time.sleep(IDLE)
        idle = meter.watts(start, time.monotonic())
        for case in cases:
            found = joules_per_frame(meter, case.calls["whole"], case.batch)
            if found is not None:
                joules[case.name] = found
            steps.step()
    return joules, idle


def _notes(machine: Machine, cases: Sequence[Case], found: Candidates, rates: Mapping[Target, Rates]) -> list[str]:
    """Return the notes that a reader must know before believing the numbers."""
    notes = [busy_before(machine), slowed_down(machine.before, machine.after) if machine.after else None]
    if few := [case.name for case in cases if case.few]:
        notes.append(f"noisy: {', '.join(few)}: too few rounds to tell; measure again with --rounds {ENOUGH} or more")
    if noisy := [case.name for case in cases if case.noisy and not case.few]:
        notes.append(f"noisy: the rounds of {', '.join(noisy)} differ too much; end other programs and measure again")
    notes += [
        f"{item.variant.name} is over its parity limits" for item in found.selections if not item.variant.parity.passed
    ]
    if any(item.variant.cost is None and item.variant.target in rates for item in found.selections):
        notes.append(AGAIN)
    return [note for note in notes if note]


def _settings(request: BenchRequest, options: EngineOptions) -> dict[str, Any]:
    """Return the request as JSON has it, lists for tuples, and without the bundle's place."""
    asked = {**asdict(request), "profile": options.profile}
    asked.pop("bundle")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}


def _record(bundle: Bundle) -> BundleRecord:
    manifest, spec = bundle.manifest, bundle.spec
    return BundleRecord(
        weights_sha256=manifest.weights_sha256,
        branches=spec.branches,
        image_size=spec.image_size,
        timesteps=spec.timesteps,
        classes=spec.num_classes,
        run=manifest.provenance.run,
    )
