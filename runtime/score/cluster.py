"""Scores chunks on a Ray cluster, through Ray Data with an actor for each engine; this is the only importer of Ray.

An actor writes its part files itself, as a run on one machine does: what is sent again after a node died finds the file
or makes it once more, so that nothing counts twice. The nodes share the folder of results, the bundle and local inputs.
"""

from __future__ import annotations

import logging
import os
import pickle
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..errors import BackendUnavailableError, HybridEdgeError, SourceError, UsageError
from ..trust import Trust
from .chunks import Chunk
from .part_files import PartFolder, PartRecord
from .score_request import ScoreRequest
from .scorer import Scorer

try:
    import ray
    import ray.data
except ImportError as error:
    raise UsageError(
        f"--ray: expected Ray, found none that can be imported ({error}): pip install 'hybrid-edge[scale]'"
    ) from error

WINDOW = 10_000  # chunks that Ray is given at once; their names are in the driver's memory, packed


class EngineActor:
    """Scores the chunks that a node's actor is given, on an engine of its own, from the driver's working folder."""

    def __init__(self, request: ScoreRequest, folder: str) -> None:
        os.chdir(folder)
        bundle = Bundle.open(request.bundle, request.trust)
        self._scorer = Scorer(request, bundle, PartFolder(request.out, request.file_format))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score a batch of chunks; return their parts' records as JSON."""
        records: list[str] = []
        for packed in batch["chunk"]:
            chunk: Chunk = pickle.loads(zlib.decompress(packed))  # noqa: S301  # what the driver pickled
            records.extend(record.model_dump_json() for record, _ in self._scorer.score(chunk))
        return {"record": np.array(records, dtype=object)}


def score_on_cluster(
    request: ScoreRequest, address: str, bundle: Bundle, folder: PartFolder, chunks: Iterable[Chunk]
) -> Iterator[tuple[PartRecord, bool]]:
    """Yield the record of every part of these chunks and whether it was made now, in any order.

    Chunks whose parts are there are not sent. An error of an actor's ends the run, as it would on one machine; an actor
    or a node that is lost does not.

    Raises:
        UsageError: there is no cluster at this address.
        BackendUnavailableError: the cluster has too few CPUs for one engine.
        HybridEdgeError: as ``Scorer.score`` says.
    """
    trust = Trust((bundle.fingerprint,))  # a node must find the bundle that was opened here
    with Scorer(request, bundle, folder) as scorer:
        remaining = iter(chunks)
        while window := list(islice(remaining, WINDOW)):
            waiting = []
            for chunk in window:
                found = scorer.finished(chunk)
                yield from ((record, False) for record in found)
                if not found:
                    waiting.append({"chunk": zlib.compress(pickle.dumps(chunk), 1)})
            if waiting:
                _connect(address)
                yield from ((record, True) for record in _score(request, trust, waiting))


def _connect(address: str) -> None:
    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"--ray {address}: expected a Ray cluster there, found none: {error}; ray start --head begins one here"
        ) from None
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _score(request: ScoreRequest, trust: Trust, waiting: list[dict[str, bytes]]) -> Iterator[PartRecord]:
    """Have one window's chunks scored, a block each, so that a slow node takes fewer; ``trust`` is the nodes'."""
    options, engines, threads = _resources(request)
    chunks = ray.data.from_items(waiting, override_num_blocks=len(waiting))
    scored = chunks.map_batches(
        EngineActor,
        fn_constructor_args=(replace(request, threads=threads, trust=trust), str(Path.cwd())),
        batch_size=1,
        # it may shrink: an actor that has nothing to do leaves its CPU to one that lost its node
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=engines, initial_size=engines),
        **options,
    )
    try:
        for row in scored.iter_rows():
            yield PartRecord.model_validate_json(row["record"])
    except ray.exceptions.RayError as error:
        raise _own_error(error) from None


def _resources(request: ScoreRequest) -> tuple[dict[str, int], int, int | None]:
    """Return what an actor needs, how many fit into the cluster, and the CPU threads of each."""
    there = ray.cluster_resources()
    if request.backend != "cpu" and there.get("GPU", 0) >= 1:
        return {"num_gpus": 1, "num_cpus": 1}, int(there["GPU"]), request.threads
    threads = request.threads or 1
    engines = int(there.get("CPU", 0)) // threads
    if engines < 1:
        raise BackendUnavailableError(
            f"--ray: expected {threads} CPUs for one engine, found {there.get('CPU', 0):g} in the cluster; "
            "start nodes, or take fewer --threads"
        )
    return {"num_cpus": threads}, engines, threads


def _own_error(error: BaseException) -> HybridEdgeError:
    """Return the error of ours that ended an actor's work, or one that quotes Ray's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, HybridEdgeError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return SourceError(f"--ray: the cluster ended the run: {error}; finished parts stay: start again")
