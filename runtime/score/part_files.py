"""A part file holds the results of at most so many images of one chunk; it appears as a whole, and what is there stays.

A part says of itself what it was made of, so that a run that goes on can tell whether it still fits: the names of its
images, hashed, and the run: bundle, variant and options, which ``run.json`` beside the parts holds in full.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import ScoreError
from ..storage import write_bytes
from .score_request import ResultFormat
from .tally import ScoreTally

VERSION = 1
RUN = "run.json"
SUMMARY = "summary.json"
STALE = 3600  # seconds; a part is written within seconds, so that an older temporary file is of a run that was killed
MAX_LINE = 2**24  # bytes of a part's record; labels and their counts take some hundred thousand at most


class PartRecord(BaseModel):
    """What a part file says of itself.

    Attributes:
        chunk, part: the number of the chunk, and of the part within it, which only tars of several parts have.
        last: whether it is its chunk's last part.
        names: SHA-256 of the images' names, in their order.
        first, final: the first and the last of these names; empty where there is none.
        run: SHA-256 of the run's settings.
        tar: what changes when the tar does (``tar_state``); empty where it is none.
        seconds: how long the part took, from its first image to its last.
        tally: the counts.
    """

    model_config = ConfigDict(frozen=True)

    version: int = VERSION
    chunk: int
    part: int
    last: bool
    names: str
    first: str
    final: str
    run: str
    tar: str = ""
    seconds: float
    tally: ScoreTally


class NamesHash:
    """Hashes names as they come, and keeps the first, the last and their number."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.first = self.final = ""
        self.count = 0

    def add(self, name: str) -> None:
        """Add the next name."""
        self._hash.update(name.encode(errors="surrogateescape") + b"\0")
        self.final = as_text(name)
        self.first = self.first if self.count else self.final
        self.count += 1

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of a part's record that say what it was made of; the hash is in hexadecimal."""
        return {"names": self._hash.hexdigest(), "first": self.first, "final": self.final}


class PartFolder:
    """The folder in which a run's parts are, of one format, and what they have to fit: the run's settings.

    Several processes, also of several machines that share the folder, write into it.
    """

    def __init__(self, path: Path, file_format: ResultFormat) -> None:
        self.path = path
        self._format = file_format
        # pyarrow only where it is needed, and its absence told before the work begins
        self._parquet: Any = importlib.import_module(".parquet", __package__) if file_format == "parquet" else None

    @property
    def summary(self) -> Path:
        """Where the summary is kept."""
        return self.path / SUMMARY

    def file(self, chunk: int, part: int) -> Path:
        """Return the path of a part file."""
        return self.path / f"part-{chunk:07}-{part:04}.{self._format}"

    def parts_of(self, chunk: int) -> list[Path]:
        """Return a chunk's part files that are there without a gap, in their order."""
        found = list[Path]()
        while (path := self.file(chunk, len(found))).exists():
            found.append(path)
        return found

    def files(self) -> list[Path]:
        """Return all part files, in order of chunks and parts."""
        return sorted(self.path.glob(f"part-*.{self._format}"))

    def prepare(self) -> None:
        """Make the folder where it is missing, and remove what runs that were killed left half-written."""
        self.path.mkdir(parents=True, exist_ok=True)
        for partial in self.path.glob(".*.tmp*"):
            with contextlib.suppress(FileNotFoundError):  # another process swept it
                if time.time() - partial.stat().st_mtime > STALE:
                    partial.unlink()

    def check_run(self, settings: Mapping[str, Any]) -> str | None:
        """Compare settings with those with which the run began, and return the run's hash; None where it is new.

        Raises:
            ScoreError: they differ, which the message says in full.
        """
        try:
            begun = json.loads((self.path / RUN).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            begun = None
        if not isinstance(begun, dict):
            raise ScoreError(f"{self.path / RUN}: expected a run's settings as JSON, found something else; restore it")
        differing = [
            f"{name} {value} (it began with {begun.get(name)})"
            for name, value in settings.items()
            if begun.get(name) != value
        ]
        if differing:
            raise ScoreError(
                f"{self.path}: expected to go on as the run in this folder began, found {', '.join(differing)}; "
                "ask for the same as before, or name another --out"
            )
        return _hash_of(begun)

    def begin_run(self, settings: Mapping[str, Any]) -> str:
        """Keep a run's settings where nobody has yet, else ``check_run``; return the run's hash.

        Of several processes that begin at once the first one's settings count.
        """
        own = self.path / f".{RUN}-{uuid.uuid4().hex}.tmp"
        own.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        try:
            os.link(own, self.path / RUN)  # unlike a renaming it replaces nothing
        except FileExistsError:
            pass
        finally:
            own.unlink()
        return self.check_run(settings) or _hash_of(settings)

    def write(self, record: PartRecord, rows: Sequence[dict[str, Any]]) -> None:
        """Write a part as a whole; OSError says that the disk takes no more."""
        if self._parquet:
            data = self._parquet.encode_rows(rows, record.model_dump_json())
        else:
            lines = [f'{{"part": {record.model_dump_json()}}}', *(json.dumps(row, ensure_ascii=False) for row in rows)]
            data = "".join(f"{line}\n" for line in lines).encode()
        write_bytes(self.file(record.chunk, record.part), data)

    def read(self, path: Path) -> PartRecord:
        """Read what a part says of itself; ScoreError where it is none, or damaged."""
        try:
            if self._parquet:
                return PartRecord.model_validate_json(self._parquet.read_record(path))
            with path.open("rb") as file:
                return PartRecord.model_validate(json.loads(file.readline(MAX_LINE))["part"])
        except (ValidationError, ValueError, KeyError, TypeError) as error:
            raise ScoreError(
                f"{path}: expected a part file of hybrid-score, found {type(error).__name__}; remove it"
            ) from None

    def records(self) -> Iterator[PartRecord]:
        """Read what every part says of itself, in order of chunks and parts."""
        return (self.read(path) for path in self.files())


def as_text(name: str) -> str:
    """Return an image's name as it stands in a row: a byte that is not UTF-8 is an escape."""
    return name.encode(errors="backslashreplace").decode()


def check_part(path: Path, record: PartRecord, hashed: NamesHash, run: str, *, last: bool) -> None:
    """Hold a part that is there against the walk and the run; ScoreError says what differs."""
    if record.run != run:
        raise ScoreError(f"{path}: expected a part of this folder's run, found one of another; name another --out")
    if (record.names, record.last) != (hashed.facts["names"], last):
        raise ScoreError(
            f"{path}: expected the inputs of which it was made, {_described(record.tally.images, record)}; found "
            f"{_described(hashed.count, hashed)}; name the inputs as before, or another --out"
        )


def _described(count: int, ends: PartRecord | NamesHash) -> str:
    return f"{count:,} from {ends.first} to {ends.final}" if count else "none"


def _hash_of(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
