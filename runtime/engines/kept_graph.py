"""A graph as ONNX Runtime optimized it for this CPU is kept beside TensorRT's engines: a later start only loads it.

    KEY.onnx      the optimized graph
    KEY.weights   its weights, which ONNX Runtime maps into memory in place of copying them
    KEY.graph     the record: what it was made from and for, and size and SHA-256 of both; it is written last

It is given to an engine only if its record was made for exactly this graph, engine, CPU and settings, and both files
hold the bytes that were written. Nobody waits for another process that makes one: it is a matter of seconds, which a
start without it takes too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ..storage import file_sha256, flush
from .cache import EngineCache, OnRefusal, digest_of
from .gpu import disk_shortage

# writes the optimized graph to a path, its weights to a file of that name beside it, or raises
Write = Callable[[Path, str], object]


@dataclass(frozen=True)
class GraphKey:
    """What an optimized graph was made from and for; any difference makes it another one.

    The number of threads is not among it: the optimizer does not know it.
    """

    onnx_sha256: str
    version: str
    cpu: str
    settings: str

    @property
    def name(self) -> str:
        """The stem of the files' names: the SHA-256 of the whole key."""
        return digest_of(asdict(self))


@dataclass(frozen=True)
class Contents:
    """Size and SHA-256 of a file."""

    size: int
    sha256: str


class KeptGraphRecord(BaseModel):
    """The content of the note beside a kept graph."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    key: GraphKey
    graph: Contents
    weights: Contents


@dataclass(frozen=True)
class KeptGraph:
    """A kept graph whose files were verified; ``sha256`` is its record's, and stands for both."""

    path: Path
    sha256: str


def find_graph(cache: EngineCache, key: GraphKey, on_refusal: OnRefusal = lambda _: None) -> KeptGraph | None:
    """Return the key's graph if it is whole, else None; ``on_refusal`` is told why one is not used."""
    content = cache.read_note(f"{key.name}.graph")
    if content is None:
        return None
    path = cache.folder / f"{key.name}.onnx"
    try:
        record = KeptGraphRecord.model_validate_json(content)
        if record.key != key:
            raise ValueError("expected a graph of this file, engine and CPU, found one made for something else")
        _check(path, record.graph)
        _check(path.with_suffix(".weights"), record.weights)
    except ValidationError:
        on_refusal(f"{path}: expected its record beside it, found another; making both again")
    except (OSError, ValueError) as error:
        on_refusal(f"{path}: {error}; making it again")
    else:
        with contextlib.suppress(OSError):
            os.utime(path)  # marks the last use, by which the longest unused are found
        return KeptGraph(path, hashlib.sha256(content).hexdigest())
    return None


def keep_graph(
    cache: EngineCache, key: GraphKey, size: int, write: Write, on_refusal: OnRefusal = lambda _: None
) -> KeptGraph | None:
    """Make a graph by ``write`` and keep it; None where it can't be kept, which ``on_refusal`` is told.

    ``size`` is that of the graph's file, bytes: about as much room is needed. Errors of ``write`` are passed on, and
    leave nothing behind. Nothing is said where the folder can't be written: on a read-only system that is so each time.
    """
    with contextlib.suppress(_BusyError, OSError), contextlib.ExitStack() as stack:
        stack.enter_context(cache.locked(_refuse_to_wait))
        usable = os.access(cache.folder, os.W_OK | os.X_OK, effective_ids=True)
        if not usable or find_graph(cache, key) is not None:  # another process was first; the next start takes it
            return None
        if (shortage := disk_shortage(size, cache.folder)) is not None:
            on_refusal(shortage)
            return None
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".graph-", suffix=".tmp", dir=cache.folder))
        partial = Path(folder) / f"{key.name}.onnx"
        write(partial, f"{key.name}.weights")
        return _commit(cache, key, partial, on_refusal)
    return None


def _commit(cache: EngineCache, key: GraphKey, partial: Path, on_refusal: OnRefusal) -> KeptGraph | None:
    path = cache.folder / partial.name
    weights = partial.with_suffix(".weights")
    weights.touch()  # none is written where all weights are small
    record = KeptGraphRecord(key=key, graph=_contents(partial), weights=_contents(weights))
    content = record.model_dump_json().encode()
    cache.drop_note(f"{key.name}.graph")  # no record while the files are replaced
    for file in (weights, partial):
        flush(file)
        file.replace(path.with_suffix(file.suffix))
    cache.keep_note(f"{key.name}.graph", content, on_refusal)
    with contextlib.suppress(OSError):
        cache.prune(path)
    return KeptGraph(path, hashlib.sha256(content).hexdigest())


class _BusyError(Exception):
    """Another process builds."""


def _refuse_to_wait() -> None:
    raise _BusyError


def _contents(path: Path) -> Contents:
    return Contents(path.stat().st_size, file_sha256(path))


def _check(path: Path, expected: Contents) -> None:
    size = path.stat().st_size
    if size != expected.size:
        raise ValueError(f"expected {expected.size} bytes in {path.name}, found {size}")
    if file_sha256(path) != expected.sha256:
        raise ValueError(f"expected the bytes that were written in {path.name}, found others")
