"""The measurement: workers started one after the other, asked for their labels, then timed in turn."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from interleave import Timings, interleave

from hybrid_edge.export.gates.comparison import paired_accuracy
from hybrid_edge.runtime.storage import file_sha256

from .catalogue import REFERENCE, Peer
from .errors import PeerError
from .images import Inputs
from .process import Worker

__all__ = ["MAX_DROP", "Answers", "Started", "answer", "judge", "start", "time_all"]

CLASSIFY_BATCH = 8
SETTLE = 0.1  # seconds between two peers: thread pools spin for some milliseconds before they sleep
SHORT = 0.05  # seconds that a visit takes at least: of a small model, many runs
MAX_DROP = 0.005  # of accuracy, 0 to 1: what hybrid-export lets INT8 lose

Say = Callable[[str], None]
Prepare = Callable[[Peer], tuple[Peer, str]]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Started:
    """The peers that run, and why the others don't."""

    workers: dict[str, Worker]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Answers:
    """A peer's labels of the common images, (N,), and the process's peak memory by then, MiB."""

    labels: Labels
    peak_mib: float | None


def start(
    peers: Sequence[Peer],
    prepare: Prepare,
    inputs: Inputs,
    cpus: list[int],
    stack: ExitStack,
    say: Say,
) -> Started:
    """Start every peer that can be; workers end with the stack.

    Args:
        peers: who is to run.
        prepare: makes what a peer needs; gives it back with that in its options, and its interpreter.
        inputs: the common images.
        cpus: where everyone runs.
        stack: of the caller.
        say: told of each, as it takes minutes.
    """
    started = Started({}, {})
    for peer in peers:
        opened = _open(peer, prepare, inputs, cpus)
        if isinstance(opened, Worker):
            started.workers[peer.name] = stack.enter_context(opened)
            say(f"{peer.name}: ready in {opened.ready['load_s']:.1f} s")
        else:
            started.skipped[peer.name] = opened.removeprefix(f"{peer.name}: ")
            say(f"{peer.name}: not here: {started.skipped[peer.name]}")
    return started


def _open(peer: Peer, prepare: Prepare, inputs: Inputs, cpus: list[int]) -> Worker | str:
    """A peer's worker, or why there is none."""
    try:
        ready, python = prepare(peer)
        return Worker(ready, python, inputs.folder, cpus)
    except PeerError as error:
        return str(error)


def answer(worker: Worker, inputs: Inputs, folder: Path) -> Answers:
    """The worker's labels of all images; kept, for the same engine, files and images give the same ones.

    Raises:
        PeerError: the worker ended.
    """
    key = hashlib.sha256(json.dumps(_identity(worker, inputs), sort_keys=True).encode()).hexdigest()[:24]
    kept, note = folder / f"{key}.npy", folder / f"{key}.json"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        told = worker.ask("classify", batch=CLASSIFY_BATCH, out=str(kept))
        note.write_text(json.dumps({"peak_mib": told["peak_mib"]}))
    labels = np.load(kept).argmax(axis=1)
    return Answers(labels, json.loads(note.read_text())["peak_mib"])


def _identity(worker: Worker, inputs: Inputs) -> list[Any]:
    """All that its labels depend on: engine, versions, options with the files behind them, images."""
    options = {name: _identified(value) for name, value in worker.peer.options.items()}
    return [worker.peer.engine, options, worker.ready["versions"], inputs.digest, len(inputs)]


def _identified(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _identified(item) for name, item in value.items()}
    path = Path(value) if isinstance(value, str) and os.sep in value else None
    if path is None or not path.exists():
        return value
    if path.is_dir():
        return file_sha256(path / "manifest.json")
    weights = path.with_suffix(".bin")  # beside OpenVINO's .xml, which does not depend on them
    return [file_sha256(item) for item in (path, weights) if item == path or item.exists()]


def time_all(
    workers: Mapping[str, Worker], batches: Sequence[int], rounds: int, runs: Mapping[int, int], say: Say
) -> dict[int, Timings]:
    """Time every worker at every batch size in one interleaved run.

    A case of a round is one batch size of one worker: one run that doesn't count, for caches that the worker before it
    has filled, then ``runs`` that do, or more until they took 50 ms; their median is the round's time.

    Returns:
        by batch size, seconds a batch by name.

    Raises:
        PeerError: a worker ended.
    """
    total, done = (rounds + 1) * len(batches) * len(workers), 0

    def burst(worker: Worker, batch: int) -> Callable[[], float]:
        def case() -> float:
            nonlocal done
            time.sleep(SETTLE)
            seconds = worker.ask("time", batch=batch, untimed=1, runs=runs[batch], at_least_s=SHORT)["seconds"]
            done += 1
            if done % (len(batches) * len(workers)) == 0:
                say(f"{done} of {total} bursts")
            return statistics.median(seconds)

        return case

    cases = {(name, batch): burst(worker, batch) for batch in batches for name, worker in workers.items()}
    timings = interleave({json.dumps(key): case for key, case in cases.items()}, rounds=rounds)
    return {batch: {name: timings[json.dumps((name, batch))] for name in workers} for batch in batches}


def judge(answers: Mapping[str, Answers], inputs: Inputs) -> dict[str, dict[str, Any]]:
    """Each peer's labels beside those of Keras, and its accuracy beside Keras's, where the images have classes.

    ``passed`` is the accuracy gate that hybrid-export holds INT8 to, the same for everyone: at most half a point less
    than Keras on the same images.
    """
    truth = np.array(inputs.truth, np.int64)
    keras = answers[REFERENCE].labels
    judged: dict[str, dict[str, Any]] = {}
    for name, found in answers.items():
        row: dict[str, Any] = {"images": len(truth), "agreement": float((found.labels == keras).mean())}
        if (truth >= 0).all():
            accuracy = paired_accuracy(keras, found.labels, truth, MAX_DROP)
            row["accuracy"] = accuracy.model_dump()
            row["passed"] = accuracy.drop <= MAX_DROP
        judged[name] = row
    return judged
