"""Scores very many images on this machine, or on a cluster's, and sums up what the folder of results holds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from typing import Any

from rich.status import Status

from .. import console
from ..background import start_in_background
from ..bundle import Bundle
from ..console import percent, say
from ..errors import ScoreError, SourceError
from ..sources.media_files import describe_left_out
from ..storage import locked, write_json
from .chunks import Chunk, check_inputs, countable, walk_chunks
from .part_files import PartFolder, PartRecord
from .score_request import ScoreRequest
from .scorer import Scorer
from .tally import BINS, ScoreTally

LINE_EVERY = 30.0  # seconds, where stderr is no terminal
MAX_LISTED = 20  # chunks that are missing, as many as the summary lists


def score_images(request: ScoreRequest, cluster: str | None = None, *, as_json: bool = False) -> int:
    """Score what a request asks for into its folder, print the summary of all that is there, return the exit code.

    ``cluster`` is the address of a Ray cluster that is to do the work, or ``auto``. The exit code is 1 where an image
    of this call's shard could not be read, now or before, else 0.

    Raises:
        HybridEdgeError: an input or the bundle can't be opened, the folder holds other results, an engine failed, or a
            cluster lost a chunk.
        OSError: the results can't be written; parts that are finished stay.
    """
    check_inputs(request)
    bundle = Bundle.open(request.bundle, request.trust)
    folder = PartFolder(request.out, request.file_format)
    folder.prepare()
    left_out: Counter[str] = Counter()
    chunks = Walked(walk_chunks(request, left_out), request)
    with ScoreProgress(request) as progress:
        for record, made in _scored(request, cluster, bundle, folder, chunks):
            progress.add(record, made=made)
    if line := describe_left_out(left_out):
        say(line)
    if not chunks.total:
        raise SourceError(f"{' '.join(request.inputs) or request.listed}: expected images or tars, found none")
    if not chunks.ours:
        say(f"shard {request.shard}: nothing to do, as there are {chunks.total} chunks: parts of names, or tars")
    summary = summarize(folder, chunks.total)
    if lost := chunks.ours - progress.chunks:
        raise ScoreError(
            f"{folder.path}: expected all {chunks.ours} chunks to be finished, found {lost} that are not; start again"
        )
    if as_json:
        console.print_json(summary)
    else:
        print_summary(summary)
    return 1 if progress.tally.failures else 0


def _scored(
    request: ScoreRequest, cluster: str | None, bundle: Bundle, folder: PartFolder, chunks: Iterable[Chunk]
) -> Iterator[tuple[PartRecord, bool]]:
    if cluster is not None:
        from .cluster import score_on_cluster  # noqa: PLC0415  # Ray only where it is asked for

        yield from score_on_cluster(request, cluster, bundle, folder, chunks)
        return
    with Scorer(request, bundle, folder) as scorer:
        for chunk in chunks:
            yield from scorer.score(chunk)


class Walked:
    """The chunks of a request's shard, iterable once; it knows how many there were in all, and of this shard."""

    def __init__(self, chunks: Iterable[Chunk], request: ScoreRequest) -> None:
        self._chunks = chunks
        self._turns = request.turns
        self.total = self.ours = 0

    def __iter__(self) -> Iterator[Chunk]:
        number, shards = self._turns
        for chunk in self._chunks:
            self.total += 1
            if chunk.number % shards == number:
                self.ours += 1
                yield chunk


class ScoreProgress:
    """Tells on stderr how many images are done, how many a second, and the time left once the total is known."""

    def __init__(self, request: ScoreRequest) -> None:
        self.tally = ScoreTally()  # of this call's shard, parts that were there included
        self.chunks = 0  # that are finished
        self._begun = self._told = time.monotonic()
        self._made = self._skipped = 0
        self._spinner = Status("scoring …", console=console.status) if console.status.is_terminal else None
        number, shards = request.turns
        self._total = (
            start_in_background(lambda: sum(1 for _ in islice(walk_chunks(request), number, None, shards)), "counting")
            if countable(request)
            else None
        )

    def __enter__(self) -> ScoreProgress:
        if self._spinner:
            self._spinner.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._spinner:
            self._spinner.stop()
        say(self.line())

    def add(self, record: PartRecord, *, made: bool) -> None:
        """Count a part, and tell of it where it is time."""
        self.tally.add(record.tally)
        self._made += record.tally.images * made
        self.chunks += record.last
        self._skipped += record.last and not made
        if self._spinner:
            self._spinner.update(self.line())
        elif time.monotonic() - self._told > LINE_EVERY:
            self._told = time.monotonic()
            say(self.line())

    def line(self) -> str:
        """Return what is told now, as one line."""
        seconds = time.monotonic() - self._begun
        done = self.tally.images
        before = f", {done - self._made:,} of them before" if done > self._made else ""
        unreadable = f", {self.tally.failures:,} unreadable" if self.tally.failures else ""
        return f"{done:,} images{before}{unreadable}, {self._made / seconds:,.0f} images/s{self._time_left(seconds)}"

    def _time_left(self, seconds: float) -> str:
        made = self.chunks - self._skipped
        if self._total is None or not self._total.done() or self._total.exception() or not made:
            return ""
        left = (self._total.result() - self.chunks) * seconds / made
        return f", {int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02} left" if left > 0 else ""


def summarize(folder: PartFolder, chunks: int) -> dict[str, Any]:
    """Sum up all parts that are in a folder, keep that as ``summary.json`` there, and return it.

    ``chunks`` is how many there have to be for the run to be complete.

    Raises:
        ScoreError: there are parts of chunks that the inputs don't have.
    """
    with ExitStack() as stack:
        with suppress(OSError):  # a disk that knows no locks: two shards that end at once may then swap their summaries
            stack.enter_context(locked(folder.path))
        tally, finished, parts, seconds = ScoreTally(), set[int](), 0, 0.0
        for record in folder.records():
            tally.add(record.tally)
            parts, seconds = parts + 1, seconds + record.seconds
            if record.last:
                finished.add(record.chunk)
            if record.chunk >= chunks:
                raise ScoreError(
                    f"{folder.file(record.chunk, record.part)}: expected parts of {chunks} chunks, as the inputs have "
                    "now, found one of more; name the inputs as before, or another --out"
                )
        missing = [number for number in range(chunks) if number not in finished]
        summary = {
            "complete": not missing,
            "parts": parts,
            "chunks": chunks,
            "chunks_missing": len(missing),
            "first_missing": missing[:MAX_LISTED],
            "images_per_second_of_one_process": tally.images / seconds if seconds else None,
            **tally.figures(),
        }
        write_json(folder.summary, summary)
    return summary


def print_summary(summary: dict[str, Any]) -> None:
    """Print a summary as tables on stdout."""
    images, unreadable = summary["images"], summary["unreadable"]
    state = "complete" if summary["complete"] else f"{summary['chunks_missing']} of {summary['chunks']} chunks missing"
    console.stdout.print(f"{images:,} images in {summary['parts']:,} parts, {unreadable:,} unreadable: {state}")
    if latency := summary["latency_ms"]:
        figures = ", ".join(f"{name} {value:.3g}" for name, value in latency.items())
        console.stdout.print(f"ms an image in preprocessing and engine: {figures}")
    readable = max(1, images - unreadable)
    rows = [(name, f"{number:,}", percent(number / readable)) for name, number in summary["answers"].items()]
    bins = [
        (f"{place / BINS:.2f} to {(place + 1) / BINS:.2f}", f"{number:,}", percent(number / readable))
        for place, number in enumerate(summary["confidence"])
        if number
    ]
    faults = summary["unreadable_by_reason"].items()
    reasons = [(name, f"{number:,}", percent(number / images)) for name, number in faults]
    for head, content in (("answer", rows), ("probability", bins), ("unreadable", reasons)):
        if content:
            console.show_table(console.make_table("", (head, "images", "share"), content))
