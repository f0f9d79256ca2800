"""One run of all peers: what is needed made, everyone started, labels compared, times taken, all of it reported."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from interleave import OUT, Report, Timings

from hybrid_edge.runtime.bench.machine import without_folders
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.spec import ModelSpec

from .artifacts import Maker
from .catalogue import REFERENCE, Peer, catalogue, plain_graph_of
from .compare import compare
from .environments import environment_python
from .errors import PeerError
from .images import Inputs, write_inputs
from .measure import Answers, Started, answer, judge, start, time_all
from .process import pick_cpus
from .standin_run import Run

__all__ = ["Plan", "measure"]

CALIBRATION = 300  # NNCF's default
RUNS = {1: 3}  # timed runs in a visit; one of any other batch size, which takes longer by itself
MAKE = {"model": "MODEL", "bundle": "BUNDLE", "images": "IMAGES", "calibration": "CALIBRATION"}
OPTIONS = {"batch": "batches", "rounds": "rounds", "threads": "threads", "count": "images"}
LEFT_OUT = "left out by --only"


@dataclass(frozen=True)
class Plan:
    """What is measured and how.

    Attributes:
        run: model, bundle and images.
        work: where environments, conversions and answers are kept.
        batches: sizes.
        rounds: of the interleaved run.
        threads: CPUs that everyone gets.
        images: the most that labels are compared on.
        only: parts of names; empty takes everyone. Keras is always there, for its labels.
        pythons: interpreters of environments that exist, by name.
    """

    run: Run
    work: Path
    batches: tuple[int, ...] = (1, 8)
    rounds: int = 7
    threads: int = 2
    images: int = 200
    only: tuple[str, ...] = ()
    pythons: Mapping[str, str] = field(default_factory=dict)

    @property
    def stand_in(self) -> bool:
        """Whether the model is the one that is made where none is named."""
        return self.run.model.is_relative_to(self.work)


@dataclass(frozen=True)
class _Measured:
    started: Started
    answers: Mapping[str, Answers]
    timings: Mapping[int, Timings]
    waiting: Mapping[str, float]


def measure(plan: Plan) -> Report:
    """Measure as planned.

    Raises:
        UsageError: a bundle of another kind, or no such images.
        BundleError: no bundle, or one without an FP32 graph with LSTM operators.
        PeerError: Keras itself can't run, or a worker ended while it was timed.
    """
    bundle = Bundle.open(plan.run.bundle)
    report = Report("peers", ("hybrid-edge", "numpy"))
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        inputs = write_inputs(plan.run.images, bundle.spec, folder / "images", plan.images, "--images")
        samples = write_inputs(plan.run.calibration, bundle.spec, folder / "samples", CALIBRATION, "--calibration")
        prepare = _preparation(plan, bundle, samples)
        chosen, left = _peers(plan, bundle)
        started = start(chosen, prepare, inputs, pick_cpus(plan.threads), stack, OUT.print)
        started.skipped.update(dict.fromkeys(left, LEFT_OUT))
        if REFERENCE not in started.workers:
            raise PeerError(f"expected Keras, for its labels: {started.skipped[REFERENCE]}")
        answers = {name: answer(worker, inputs, plan.work / "answers") for name, worker in started.workers.items()}
        timings, waiting = _time(plan, started)
    _fill(report, plan, bundle.spec, inputs, _Measured(started, answers, timings, waiting))
    return report


def _time(plan: Plan, started: Started) -> tuple[dict[int, Timings], dict[str, float]]:
    """Times, and the share of a CPU that each peer used while it was not asked for anything."""
    before = {name: worker.cpu_s - worker.busy_s for name, worker in started.workers.items()}
    begun = time.monotonic()
    runs = {batch: RUNS.get(batch, 1) for batch in plan.batches}
    timings = time_all(started.workers, plan.batches, plan.rounds, runs, OUT.print)
    passed = time.monotonic() - begun
    return timings, {
        name: max(worker.cpu_s - worker.busy_s - before[name], 0.0) / passed for name, worker in started.workers.items()
    }


def _peers(plan: Plan, bundle: Bundle) -> tuple[list[Peer], list[str]]:
    """Who is to run, and the names of those left out."""
    if "image" not in bundle.spec.inputs:
        raise UsageError(f"expected a bundle that takes images, found branches {bundle.spec.branches!r}")
    everyone = catalogue(plan.run.model, bundle)
    wanted = (*plan.only, REFERENCE) if plan.only else ("",)
    chosen = [peer for peer in everyone if any(part in peer.name for part in wanted)]
    return chosen, [peer.name for peer in everyone if peer not in chosen]


def _preparation(plan: Plan, bundle: Bundle, samples: Inputs) -> Callable[[Peer], tuple[Peer, str]]:
    maker = Maker(
        plan.run.model, plain_graph_of(bundle), samples.folder, samples.digest, plan.batches, plan.work / "made"
    )

    def prepare(peer: Peer) -> tuple[Peer, str]:
        python = environment_python(peer.environment, plan.work / "environments", plan.pythons)
        if not peer.makes:
            return peer, python
        tool = python if peer.makes.startswith("nncf") else environment_python("", plan.work, {})
        return replace(peer, options={**peer.options, **maker.make(peer.makes, tool)}), python

    return prepare


def _fill(report: Report, plan: Plan, spec: ModelSpec, inputs: Inputs, found: _Measured) -> None:
    """Tables as every benchmark has them, and what the page is written from."""
    workers = found.started.workers
    judged = judge(found.answers, inputs)
    for batch, timings in found.timings.items():
        report.add(f"batch {batch}", timings, REFERENCE)
    report.content |= {
        "make": _make(plan),
        "setting": {
            "model": f"{spec.image_size}×{spec.image_size}, {spec.timesteps} steps, "
            f"{spec.rnn_layers} LSTM({spec.rnn_units}), {spec.num_classes} classes",
            "batches": list(plan.batches),
            "rounds": plan.rounds,
            "runs": " and ".join(f"{RUNS.get(batch, 1)} at batch {batch}" for batch in plan.batches),
            "threads": plan.threads,
            "images": len(inputs),
            "stand_in": plan.stand_in,
        },
        "peers": [
            {
                "name": name,
                "precision": worker.peer.precision,
                "ours": worker.peer.ours,
                "versions": worker.ready["versions"],
                "load_s": worker.ready["load_s"],
                "peak_mib": found.answers[name].peak_mib,
                "waiting_share": found.waiting[name],
                "times": {str(batch): _spread(timings[name]) for batch, timings in found.timings.items()},
                "rounds": {str(batch): list(timings[name]) for batch, timings in found.timings.items()},
                **judged[name],
            }
            for name, worker in workers.items()
        ],
        "skipped": {name: without_folders(reason) for name, reason in found.started.skipped.items()},
        "comparisons": compare({name: worker.peer for name, worker in workers.items()}, found.timings, judged),
    }
    for row in report.content["comparisons"]:
        OUT.print(
            f"batch {row['batch']}: {row['peer']} takes {row['ratio']:.2f} times as long as {row['ours']} "
            f"({row['ratio_p10']:.2f} to {row['ratio_p90']:.2f})"
        )


def _spread(times: list[float]) -> dict[str, float]:
    low, median, high = (float(value) for value in np.percentile(times, (10, 50, 90)))
    return {"p10": low, "median": median, "p90": high}


def _make(plan: Plan) -> str:
    """The command as ``make`` takes it, with all that is not as usual, and no path of this machine in it."""
    paths: Any = vars(plan.run)
    named = [] if plan.stand_in else [f"{variable}={paths[name].name}" for name, variable in MAKE.items()]
    options = shlex.join(_options(plan))
    return " ".join(["make bench", *named, *([f'BENCH="{options}"'] if options else [])])


def _options(plan: Plan) -> list[str]:
    """Those that decide what is measured, where they are not as usual."""
    words = []
    for option, name in OPTIONS.items():
        value = getattr(plan, name)
        if value != getattr(Plan, name):
            words += [f"--{option}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words + [word for part in plan.only for word in ("--only", part)]
