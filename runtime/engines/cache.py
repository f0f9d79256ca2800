"""The cache keeps engines on disk: ``engines/KEY.engine``, which trtexec loads, and its record ``KEY.json``.

An engine is used only if its record was made for exactly this graph, TensorRT, GPU and options, and if its bytes are
the ones that were written: a truncated, altered or foreign one is never handed to TensorRT, which would crash or
compute something else. Both are written whole and then renamed, the record last. One process builds at a time in a
folder: another build on the same GPU would spoil the times by which kernels are chosen.

An engine that was built runs without this cache, so what can't be written or locked is reported and is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..storage import cache_dir, locked, write_bytes
from .engine_options import EngineOptions
from .gpu import Gpu
from .library import Library, LibraryKind

RECORD_FORMAT = 1
MAX_CACHE_SIZE = 4 * 2**30  # bytes of engines and graphs that are kept; the longest unused are dropped first
MAX_RECORD_SIZE = 2**16
ABANDONED_AFTER_S = 600  # nobody writes a temporary file for longer
# the flags that build.py sets; with other flags there these engines must not be found
BUILD_FLAGS = "STRONGLY_TYPED,-TF32"
USER_ALLOCATION_FLAG = ",REQUIRE_USER_ALLOCATION"  # where the library has it; not every network allows it
SUFFIXES = (".json", ".kernels", ".engine", ".graph", ".weights", ".onnx")  # of one key's files, records first
OnRefusal = Callable[[str], object]  # called with one line that says why something was not used or not kept


@dataclass(frozen=True)
class EngineKey:
    """What an engine was built from and for; any difference makes it another engine."""

    onnx_sha256: str
    kind: LibraryKind
    version: str
    gpu: str
    compute_capability: tuple[int, int]
    profile: tuple[int, int, int]
    workspace: int | None  # as asked for, since the default varies with the memory that is free
    flags: str = BUILD_FLAGS
    multiprocessors: int = 0

    @classmethod
    def of(cls, onnx_sha256: str, library: Library, gpu: Gpu, options: EngineOptions) -> EngineKey:
        """Make the key of a graph's engine on this machine."""
        return cls(
            onnx_sha256,
            library.kind,
            library.version,
            gpu.name,
            gpu.compute_capability,
            options.profile,
            options.workspace,
            BUILD_FLAGS if library.user_allocation is None else BUILD_FLAGS + USER_ALLOCATION_FLAG,
            gpu.multiprocessors,
        )

    @property
    def name(self) -> str:
        """The stem of the files' names: the SHA-256 of the whole key."""
        return digest_of(asdict(self))

    @property
    def timing_name(self) -> str:
        """The SHA-256 of what kernels' times depend on: TensorRT's version and the GPU."""
        return digest_of([self.kind, self.version, self.gpu, self.compute_capability, self.multiprocessors])


class EngineRecord(BaseModel):
    """The content of the JSON file beside an engine."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    format: int = RECORD_FORMAT
    key: EngineKey
    sha256: str
    size: int = Field(ge=0)
    seconds: float
    made: str
    label: str


@dataclass(frozen=True)
class CachedEngine:
    """An engine's bytes, which were checked, and its record."""

    data: bytes
    record: EngineRecord


class EngineCache:
    """The folder of engines with their records and notes; by default ``engines`` in the cache folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_dir() / "engines"

    def path(self, key: EngineKey) -> Path:
        """Return the path at which the key's engine is, or would be."""
        return self.folder / f"{key.name}.engine"

    def lookup(self, key: EngineKey, on_refusal: OnRefusal = lambda _: None) -> CachedEngine | None:
        """Return the key's engine if it is whole, else None; ``on_refusal`` is told why one is not used."""
        path = self.path(key)
        try:
            record = _read_record(path.with_suffix(".json"))
            data = path.read_bytes()
            _check(record, key, data)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            on_refusal(f"{path}: {error}; building it again")
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # marks the last use, by which the longest unused are found
        return CachedEngine(data, record)

    def store(
        self, key: EngineKey, engine: bytes, *, seconds: float, label: str, on_refusal: OnRefusal = lambda _: None
    ) -> CachedEngine:
        """Keep an engine, drop those that are over the limit, and return the engine with its record, kept or not.

        ``seconds`` is how long building took, ``label`` names TensorRT and GPU for people who read the record.
        ``on_refusal`` is told why the engine can't be kept: no room, or no right to write.
        """
        made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        digest = hashlib.sha256(engine).hexdigest()
        record = EngineRecord(key=key, sha256=digest, size=len(engine), seconds=seconds, made=made, label=label)
        path = self.path(key)
        with self.writing(on_refusal):
            path.with_suffix(".json").unlink(missing_ok=True)  # no record while the engine is replaced
            write_bytes(path, engine)
            write_bytes(path.with_suffix(".json"), record.model_dump_json(indent=2).encode())
        with contextlib.suppress(OSError):
            self.prune(path)
        return CachedEngine(engine, record)

    def read_note(self, name: str) -> bytes | None:
        """Read a small file that ``keep_note`` kept, a timing cache or a choice; None unless it is there and whole."""
        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            return None
        digest, _, content = data.partition(b"\n")
        return content if hashlib.sha256(content).hexdigest().encode() == digest else None

    def keep_note(self, name: str, content: bytes, on_refusal: OnRefusal = lambda _: None) -> None:
        """Keep a small file, with its hash in the first line; ``on_refusal`` is told why it can't be kept."""
        with self.writing(on_refusal):
            write_bytes(self.folder / name, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)

    def drop_note(self, name: str) -> None:
        """Remove a small file, as far as that can be done."""
        with contextlib.suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(
        self, on_wait: Callable[[], object] = lambda: None, on_refusal: OnRefusal = lambda _: None
    ) -> Iterator[None]:
        """Hold the right to build for the time of the block; a killed process gives it up too.

        ``on_wait`` is called once if another process builds, before waiting for it. ``on_refusal`` is told why nothing
        can be locked here: no right to, or a network's disk without locks. The block is entered all the same.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / ".lock", on_wait))
            except OSError as error:
                on_refusal(
                    f"{self.folder}: can't be locked ({error.strerror or error}); another process may build "
                    "meanwhile, and spoil the times by which kernels are chosen"
                )
            else:
                self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove what a killed process left half written; notes are written without the lock, so young files stay."""
        for partial in self.folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - partial.stat().st_mtime > ABANDONED_AFTER_S:
                    shutil.rmtree(partial) if partial.is_dir() else partial.unlink()

    def prune(self, newest: Path) -> None:
        """Drop the engines and graphs that were used longest ago, down to the limit, but never the one just made."""
        kept = sorted(
            (path for suffix in ("engine", "onnx") for path in self.folder.glob(f"*.{suffix}")),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: path.stat().st_size + _size_of(path.with_suffix(".weights")) for path in kept}
        excess = sum(sizes.values()) - MAX_CACHE_SIZE
        for path in kept:
            if excess <= 0:
                break
            if path != newest:
                excess -= sizes[path]
                with contextlib.suppress(OSError):  # an engine of another user can't be removed
                    for suffix in SUFFIXES:
                        path.with_suffix(suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self, on_refusal: OnRefusal) -> Iterator[None]:
        """Tell ``on_refusal`` why something can't be written in the block, in place of an OSError."""
        try:
            yield
        except OSError as error:
            on_refusal(
                f"{self.folder}: engines can't be kept here ({error.strerror or error}); HYBRID_EDGE_CACHE names "
                "another cache folder"
            )


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read_record(path: Path) -> EngineRecord:
    with path.open("rb") as file:
        text = file.read(MAX_RECORD_SIZE)
    try:
        return EngineRecord.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(
            f"expected a record of its engine, found {error.error_count()} faults in {path.name}"
        ) from None


def _check(record: EngineRecord, key: EngineKey, data: bytes) -> None:
    if record.format != RECORD_FORMAT or record.key != key:
        raise ValueError("expected an engine of this graph, TensorRT and GPU, found one made for something else")
    if len(data) != record.size:
        raise ValueError(f"expected {record.size} bytes, found {len(data)}")
    if hashlib.sha256(data).hexdigest() != record.sha256:
        raise ValueError("expected the bytes that were written, found others")


def digest_of(value: Any) -> str:
    """Return the SHA-256 of a value's JSON, in hexadecimal: what files are named by."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
