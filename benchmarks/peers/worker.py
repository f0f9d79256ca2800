"""A worker: one engine in one process, told over a pipe to run batches. It waits in a read, and so uses no CPU.

    python -m peers.worker < one JSON object a line

The first line says what to open (``Options``), every further one what to do; each is answered with one line on stdout.
Whatever a library prints goes to stderr. Only the engine's own module imports more than NumPy, so that a worker runs in
an environment that has an engine and nothing of ours.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

__all__ = ["Engine", "Tensors", "main"]

Tensors = Mapping[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Engine:
    """What an engine's ``open_engine(options, threads)`` returns.

    Attributes:
        run: ``image`` (N, S, S, 3) and ``sequence`` (N, T, S*S/T) float32 -> probabilities (N, C); returns when done.
        versions: of what runs, by package.
    """

    run: Callable[[Tensors], npt.NDArray[np.float32]]
    versions: Mapping[str, str]


class _Worker:
    def __init__(self, options: dict[str, Any]) -> None:
        os.sched_setaffinity(0, options["cpus"])  # before an engine counts them
        begun = time.perf_counter()
        module = importlib.import_module(f".engine_{options['engine']}", __package__)
        self._engine: Engine = module.open_engine(options["options"], len(options["cpus"]))
        self.load_s = time.perf_counter() - begun
        files = sorted(Path(options["inputs"]).glob("*.npy"))
        self._inputs = {file.stem: np.load(file, mmap_mode="r") for file in files}
        self._batches: dict[int, Tensors] = {}

    @property
    def ready(self) -> dict[str, Any]:
        return {"load_s": self.load_s, "versions": dict(self._engine.versions)}

    def time(self, batch: int, untimed: int, runs: int, at_least_s: float) -> dict[str, Any]:
        """Seconds of each of ``runs`` runs of one batch, and more until they add up, after ``untimed`` others."""
        if batch not in self._batches:
            self._batches[batch] = self._rows(0, batch)
        tensors = self._batches[batch]
        for _ in range(untimed):
            self._engine.run(tensors)
        seconds: list[float] = []
        while len(seconds) < runs or sum(seconds) < at_least_s:
            begun = time.perf_counter()
            self._engine.run(tensors)
            seconds.append(time.perf_counter() - begun)
        return {"seconds": seconds}

    def classify(self, batch: int, out: str) -> dict[str, Any]:
        """Write the probabilities of all images, (N, C) float32, to a .npy file."""
        count = len(self._inputs["image"])
        parts = [self._engine.run(self._rows(start, batch)) for start in range(0, count, batch)]
        np.save(out, np.concatenate(parts).astype(np.float32))
        return {"images": count, "peak_mib": _peak_mib()}

    def _rows(self, start: int, count: int) -> Tensors:
        return {name: np.ascontiguousarray(tensor[start : start + count]) for name, tensor in self._inputs.items()}


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = _Worker(json.loads(sys.stdin.readline()))
    _answer(answers, worker.ready)
    for line in sys.stdin:
        request = json.loads(line)
        work = {"time": worker.time, "classify": worker.classify}[request.pop("do")]
        _answer(answers, work(**request))


def _answer(to: TextIO, content: dict[str, Any]) -> None:
    to.write(json.dumps(content) + "\n")
    to.flush()


def _peak_mib() -> float | None:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), None)


if __name__ == "__main__":
    main()
