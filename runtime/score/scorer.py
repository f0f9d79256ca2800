"""Turns chunks into part files: reads and decodes ahead of the engine, and leaves alone what is there already."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count, islice
from types import TracebackType
from typing import Any

from ..bundle import Bundle
from ..classifier import Classifier, Prediction, load_announced
from ..engines.engine_options import EngineOptions
from ..errors import ImageError
from ..frame import Frame
from ..manifest import MANIFEST
from ..preprocess import Preprocessor, decode_image
from ..process import usable_cpus
from .chunks import Chunk, is_address
from .contents import ChunkContents, Content, read_content, tar_state
from .part_files import NamesHash, PartFolder, PartRecord, as_text, check_part
from .read_ahead import read_ahead
from .score_request import ScoreRequest
from .tally import ScoreTally

UNKNOWN = "unknown"  # the answer below --min-probability
REMOTE_READERS = 16  # a store takes tens of milliseconds to answer, in which a CPU can do other things
DIGITS = 7  # of a probability: what float32 holds


class Scorer:
    """Scores chunks on this machine's engine, which is opened when the first image needs it.

    Use it as a context manager. It is not thread-safe.
    """

    def __init__(self, request: ScoreRequest, bundle: Bundle, folder: PartFolder) -> None:
        """Compare the request with what is in the folder; ScoreError where the run there began otherwise."""
        self._request = request
        self._bundle = bundle
        self._folder = folder
        self._settings = _run_settings(request, bundle)
        self._run = folder.check_run(self._settings) or ""
        self._classifier: Classifier | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._readers = 0
        self._local = threading.local()  # a preprocessor for each thread

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._classifier is not None:
            self._classifier.close()

    def score(self, chunk: Chunk) -> Iterator[tuple[PartRecord, bool]]:
        """Yield the record of each of a chunk's parts, once its file is there, and whether it was made now.

        Raises:
            ScoreError: a part that is there is of other images or of another run.
            SourceError: a store failed.
            BackendError: the engine failed, or runs another variant than the run began with.
            OSError: a part can't be written.
        """
        if found := self.finished(chunk):
            yield from ((record, False) for record in found)
            return
        there = [(path, self._folder.read(path)) for path in self._folder.parts_of(chunk.number)]
        state = tar_state(chunk.tar)
        with ChunkContents(chunk) as contents:
            remaining = iter(contents)
            following = next(remaining, None)
            for part in count():
                ours = islice(chain([following] if following else [], remaining), self._request.part_size)
                hashed, begun = NamesHash(), time.monotonic()
                noted = _noting(ours, hashed)
                rows, tally = self._rows(chunk, contents, noted) if part >= len(there) else _no_rows(noted)
                following = next(remaining, None)
                if part < len(there):
                    check_part(*there[part], hashed, self._run, last=following is None)
                    yield there[part][1], False
                else:
                    facts = {"chunk": chunk.number, "part": part, "last": following is None, **hashed.facts}
                    facts.update(run=self._run, tar=state, seconds=time.monotonic() - begun)
                    record = PartRecord(**facts, tally=tally)
                    self._folder.write(record, rows)
                    yield record, True
                if following is None:
                    return

    def finished(self, chunk: Chunk) -> list[PartRecord]:
        """Return the records of a chunk's parts if all are there, which no engine is needed to know; else none.

        A tar is not opened: parts of another state of it than it has now do not count as finished.

        Raises:
            ScoreError: a part that is there is of other images or of another run.
        """
        there = [(path, self._folder.read(path)) for path in self._folder.parts_of(chunk.number)]
        records = [record for _, record in there]
        if not records or not records[-1].last:
            return []
        if chunk.tar is None:
            hashed = NamesHash()
            for name, _ in chunk.names:
                hashed.add(name)
            check_part(*there[0], hashed, self._run, last=True)
            return records
        state, tar = tar_state(chunk.tar), as_text(chunk.tar)
        ours = (state, self._run, True)
        same = all((it.tar, it.run, not it.first or it.first.startswith(tar)) == ours for it in records)
        return records if same and state else []

    def _rows(
        self, chunk: Chunk, contents: ChunkContents, ours: Iterable[Content]
    ) -> tuple[list[dict[str, Any]], ScoreTally]:
        classifier, pool = self._opened(chunk)

        def load(content: Content) -> bytes | ImageError | None:
            try:
                return contents.load(content)
            except ImageError as error:
                return error

        frames = read_ahead(
            ours, load, self._frame, pool, workers=self._readers, ahead=self._request.batch_size + 2 * self._readers
        )
        rows, tally = [], ScoreTally()
        for frame, prediction in classifier.stream(frames):
            rows.append(self._row(frame, prediction, tally))
        return rows, tally

    def _opened(self, chunk: Chunk) -> tuple[Classifier, ThreadPoolExecutor]:
        if self._classifier is None or self._pool is None:
            request = self._request
            self._classifier = load_announced(
                self._bundle,
                backend=request.backend,
                precision=request.precision,
                batch_size=request.batch_size,
                threads=request.threads,
                check=request.check,
                calibrated=request.calibrated,
                engine=EngineOptions.from_flags(request.profile, request.workspace, build=request.build),
            )
            variant = self._classifier.selection.variant.name
            self._run = self._folder.begin_run({**self._settings, "variant": variant})
            remote = any(is_address(name) for name, _ in chunk.names)
            self._readers = request.readers or (REMOTE_READERS if remote else len(usable_cpus()))
            self._pool = ThreadPoolExecutor(self._readers, "reading")
        return self._classifier, self._pool

    def _frame(self, content: Content, data: bytes | ImageError | None) -> Frame:
        """Read, decode and resize an image; what waits for the engine is as small as the model's input."""
        name = as_text(content.name)
        if content.error is not None:
            return Frame(name, 0, None, content.error)
        try:
            if isinstance(data, ImageError):
                raise data
            pixels = decode_image(read_content(content, data), content.name)
        except ImageError as error:
            return Frame(name, 0, None, as_text(str(error).removeprefix(f"{content.name}: ")))
        if not hasattr(self._local, "preprocessor"):
            self._local.preprocessor = Preprocessor(self._bundle.spec)
        return Frame(name, 0, self._local.preprocessor.resized(pixels))

    def _row(self, frame: Frame, prediction: Prediction | None, tally: ScoreTally) -> dict[str, Any]:
        if prediction is None:
            reason = frame.error or ""
            tally.count_unreadable(reason)
            return {"image": frame.source, "error": reason}
        label, probability = prediction.label, prediction.probability
        known = probability >= self._request.min_probability
        tally.count(label if known else UNKNOWN, probability, prediction.preprocess_ms + prediction.inference_ms)
        answer = {"answer": label if known else None} if self._request.min_probability else {}
        top = [
            {"label": name, "probability": round(value, DIGITS)} for name, value in prediction.top(self._request.top_k)
        ]
        return {"image": frame.source, **answer, "label": label, "probability": round(probability, DIGITS), "top": top}


def _noting(contents: Iterable[Content], hashed: NamesHash) -> Iterator[Content]:
    for content in contents:
        hashed.add(content.name)
        yield content


def _no_rows(contents: Iterable[Content]) -> tuple[list[dict[str, Any]], ScoreTally]:
    """Walk past the contents of a part that is there."""
    for _ in contents:
        pass
    return [], ScoreTally()


def _run_settings(request: ScoreRequest, bundle: Bundle) -> dict[str, Any]:
    """Return what rows depend on; the variant that runs comes to it when an engine is open."""
    return {
        "bundle": hashlib.sha256((bundle.root / MANIFEST).read_bytes()).hexdigest(),
        "part_size": request.part_size,
        "format": request.file_format,
        "top_k": request.top_k,
        "min_probability": request.min_probability,
        "calibrated": request.calibrated,
    }
