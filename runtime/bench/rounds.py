"""Measure every case of a request in interleaved rounds, and gather what belongs to the numbers."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..engines.engine_options import EngineOptions, parse_profile
from ..errors import BackendError
from ..manifest import Variant
from ..roofline import Rates, rates_of
from ..spec import ModelSpec
from ..timing import Milliseconds, time_bursts
from .bench_report import MIN_ROUNDS, NO_COST, BenchReport, BundleRecord, Case, Machine, Start
from .cases import (
    BenchProgress,
    BenchRequest,
    TimedCase,
    make_case,
    make_frames,
    open_variants,
)
from .fresh_process import measure_starts
from .machine import (
    busy_before,
    command_line,
    measure_power,
    read_clocks,
    record_machine,
    slowed_down,
    without_folders,
)
from .probe import better_rates, probe

PROBE_SECONDS = 2.0  # of probing before the rounds, and again after them
PROFILE_SECONDS = 0.5  # of profiled runs for each case, as far as these are from MIN_RUNS to MAX_RUNS
MIN_RUNS, MAX_RUNS = 5, 100

# export names every node of a branch after it; an engine's fused nodes keep the names they are made from, or list them:
# "fused cnn/dense_1/MatMul", "{ForeignNode[rnn/lstm_1/step_00/...]}", "__myl_FcMul_myl3_7 [ONNX Layer: rnn/lstm_1/...]"
BRANCH_PREFIX = re.compile(r"(?<![A-Za-z0-9_])(cnn|rnn)/")
# the first thing that is done with an input carries its name
INPUT_NAME = re.compile(r"(?:^|\[ONNX Layer: )(image|sequence)(?![A-Za-z0-9])")
# the nodes that ONNX Runtime inserts to change the layout for convolutions have no name but their kind
LAYOUT_NODE = re.compile(r"^(Reorder(Input|Output)|Transpose)(_token_\d+)?$")
BRANCH_OF = {"cnn": "cnn", "image": "cnn", "rnn": "recurrent", "sequence": "recurrent"}
# share of the time in nodes that are made of both branches, above which the shares would say little of the branches
MAX_UNSPLIT = 0.5

Times = Mapping[str, Mapping[str, list[Milliseconds]]]


def bench(request: BenchRequest, progress: BenchProgress | None = None) -> BenchReport:
    """Measure a bundle's variants on this machine.

    Every variant that runs here × batch size is a case. After a warm-up by time, rounds visit all cases, each round in
    another order, a burst of calls each. The branches' shares come from profiles of their own, taken afterwards; memory
    and the time to the first prediction from fresh processes, started before.

    Raises:
        UsageError: a name is not known to the bundle or the runtime.
        BundleError: there is no bundle, or it is damaged.
        BackendError: nothing runs here, or what was asked for by name does not.
        GateError: what was asked for by name computes something else here than where it was exported.
    """
    progress = progress or BenchProgress()
    bundle = Bundle.open(request.bundle, request.trust)
    options = EngineOptions() if request.profile is None else EngineOptions(parse_profile(request.profile))
    stated = rates_of(request.rates) if request.rates is not None else None
    rates: dict[str, Rates] = {} if stated is None else dict.fromkeys(stated.targets, stated)
    machine = record_machine(read_clocks())
    with ExitStack() as stack:
        selections, skipped = open_variants(bundle, request, options, progress, stack)
        variants = [item.variant for item in selections]
        starts, notes = _starts(bundle, variants, request, options, progress)
        frames = make_frames(bundle, max(request.batches))
        cases = [make_case(bundle, item, batch, frames) for item in selections for batch in request.batches]
        before = _probe("probing", request, progress)
        times, machine = _time(cases, machine, request, progress)
        after = _probe("probing again", request, progress)
        if before and after:  # another program may have slowed one of them
            rates["cpu"] = better_rates(before, after)
        shares = _profile(bundle, cases, times, progress)
        joules, idle_watts = _measure_power(cases, progress)
        machine = machine.model_copy(update={"idle_watts": idle_watts})
        results = tuple(
            case.result(times[case.name], shares[case.name], joules.get(case.name), rates) for case in cases
        )
        return BenchReport(
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=command_line(sys.argv),
            settings=_settings(request, options),
            bundle=_record(bundle),
            machine=machine,
            cases=results,
            starts=starts,
            skipped={name: without_folders(reason) for name, reason in skipped.items()},
            rates=rates or None,
            notes=tuple(map(without_folders, (*notes, *_notes(machine, results, variants, rates)))),
        )


def branch_shares(nodes: Mapping[str, float], spec: ModelSpec) -> dict[str, float]:
    """Return the shares of a profile's time by branch, which add up to 1, for the branches that the model has.

    ``nodes`` has the time by the node's name, in any unit. The order is ``cnn``, ``recurrent``, ``head``; the mapping
    is empty where no time was spent, or most of it in nodes of both branches, as in an engine that TensorRT made one
    node of.
    """
    total = sum(nodes.values())
    unsplit = sum(time for node, time in nodes.items() if len(_named_branches(node)) > 1)
    if total <= 0 or unsplit > MAX_UNSPLIT * total:
        return {}
    whole = spec.adopted  # its nodes alone say what it is made of
    present = {"cnn": spec.uses_cnn or whole, "recurrent": spec.uses_rnn or whole, "head": True}
    shares = {name: 0.0 for name in present if present[name]}
    for node, spent in nodes.items():
        branch = _branch_of_node(node, spec)
        shares[branch if branch in shares else "head"] += spent / total
    return {name: share for name, share in shares.items() if share or not whole}


def _branch_of_node(node: str, spec: ModelSpec) -> str:
    """Return a node's branch by its name, ``cnn``, ``recurrent`` or ``head``; of two, the one it names more often."""
    named = _named_branches(node)
    if named:
        return named.most_common(1)[0][0]
    if LAYOUT_NODE.match(node):
        return "recurrent" if spec.branches == "rnn" else "cnn"
    return "head"


def _named_branches(node: str) -> Counter[str]:
    """Count how often a node's name has each branch; where it has none, the branch whose input it names."""
    return Counter(BRANCH_OF[found] for found in BRANCH_PREFIX.findall(node) or INPUT_NAME.findall(node))


def _time(
    cases: Sequence[TimedCase], machine: Machine, request: BenchRequest, progress: BenchProgress
) -> tuple[Times, Machine]:
    """Run warm-up and rounds; return times, and the machine with clocks read after each: an idle CPU's say nothing."""
    progress.begin("measuring", len(cases) * request.rounds)
    warmed = {case.name: {"inference": case.calls["inference"]} for case in cases}
    time_bursts(warmed, rounds=1, burst_s=request.warm_up, warm_up_s=0, seed=request.seed)
    before = read_clocks().model_copy(update={"load": machine.before.load})
    times = time_bursts(
        {case.name: case.calls for case in cases},
        rounds=request.rounds,
        burst_s=request.seconds / request.rounds,
        warm_up_s=0,
        seed=request.seed,
        after=progress.step,
    )
    return times, machine.model_copy(update={"before": before, "after": read_clocks()})


def _starts(
    bundle: Bundle, variants: Sequence[Variant], request: BenchRequest, options: EngineOptions, progress: BenchProgress
) -> tuple[dict[str, Start], list[str]]:
    """Time fresh processes; if one fails, return that as a note, as it is not the end of the measurement."""
    progress.begin("starting", request.starts * len(variants))
    wanted = {
        "bundle": str(bundle.root),
        "fingerprint": bundle.fingerprint,
        "threads": request.threads,
        "profile": options.profile,
    }
    try:
        return measure_starts(wanted, [item.name for item in variants], request.starts, progress.step), []
    except BackendError as error:
        return {}, [f"no figures of starts: {error}"]


def _probe(name: str, request: BenchRequest, progress: BenchProgress) -> Rates | None:
    if not request.probe:
        return None
    progress.begin(name, 1)
    rates = probe(PROBE_SECONDS, request.threads)
    progress.step()
    return rates


def _profile(
    bundle: Bundle, cases: Sequence[TimedCase], times: Times, progress: BenchProgress
) -> dict[str, dict[str, float]]:
    """Return the branches' shares by case, from about half a second of profiled runs each."""
    progress.begin("profiling", len(cases))
    shares = {}
    for case in cases:
        milliseconds = float(np.median(np.concatenate(times[case.name]["inference"])))
        runs = min(max(MIN_RUNS, round(PROFILE_SECONDS * 1000 / milliseconds)), MAX_RUNS)
        shares[case.name] = branch_shares(case.profile(runs), bundle.spec)
        progress.step()
    return shares


def _measure_power(cases: Sequence[TimedCase], progress: BenchProgress) -> tuple[dict[str, float], float | None]:
    """Return the joules a frame by case, and the watts at rest; nothing and None where there is no tegrastats."""
    idle, _ = measure_power(lambda: time.sleep(0.1))
    if idle is None:
        return {}, None
    progress.begin("power", len(cases))
    joules: dict[str, float] = {}
    for case in cases:
        watts, seconds = measure_power(case.calls["whole"])
        if watts is not None:
            joules[case.name] = watts * seconds / case.batch
        progress.step()
    return joules, idle


def _notes(
    machine: Machine, cases: Sequence[Case], variants: Sequence[Variant], rates: Mapping[str, Rates]
) -> list[str]:
    notes = [busy_before(machine), slowed_down(machine.before, machine.after) if machine.after else None]
    if few := [case.name for case in cases if case.few]:
        again = f"measure again with --rounds {MIN_ROUNDS} or more"
        notes.append(f"noisy: {', '.join(few)}: too few rounds to tell; {again}")
    if noisy := [case.name for case in cases if case.noisy and not case.few]:
        notes.append(f"noisy: the rounds of {', '.join(noisy)} differ too much; end other programs and measure again")
    notes += [f"{variant.name} is over its parity limits" for variant in variants if not variant.parity.passed]
    if any(variant.cost is None and variant.target in rates for variant in variants):
        notes.append(NO_COST)
    return [note for note in notes if note]


def _settings(request: BenchRequest, options: EngineOptions) -> dict[str, Any]:
    """Return the request as JSON has it, lists for tuples, and without the bundle's place."""
    asked = {**asdict(request), "profile": options.profile}
    asked.pop("bundle")
    asked.pop("trust")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}


def _record(bundle: Bundle) -> BundleRecord:
    spec = bundle.spec
    return BundleRecord(
        weights_sha256=bundle.manifest.weights_sha256,
        branches=spec.branches,
        image_size=spec.image_size,
        timesteps=spec.timesteps,
        classes=spec.num_classes,
        run=bundle.manifest.provenance.run,
    )
