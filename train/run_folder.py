"""A training keeps everything in its run folder, and the next command finds the newest one by ``runs/latest``."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from ..runtime.errors import RunError
from ..runtime.storage import locked, write_text

LATEST = "latest"
HISTORY_COLUMNS = ("phase", "epoch", "loss", "accuracy", "top5", "val_loss", "val_accuracy", "val_top5", "seconds")


class RunFolder:
    """The paths of what a run writes into ``runs/NAME/``; nothing is created by asking for a path.

    model.keras, spec.json         the trained model, its ModelSpec inside too
    settings.json                  every setting of the training
    metrics.json                   what the trained model measured on the validation images
    history.csv                    a row for each epoch
    contents.txt                   what the images of train.txt and validation.txt held, for a resumed training
    state.json, checkpoints/       where a resumed training goes on; the best weights of each phase
    tensorboard/                   a folder of event files for each phase
    bundle/                        what hybrid-export makes of the run
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.model = path / "model.keras"
        self.spec = path / "spec.json"
        self.settings = path / "settings.json"
        self.metrics = path / "metrics.json"
        self.history = path / "history.csv"
        self.state = path / "state.json"
        self.contents = path / "contents.txt"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.bundle = path / "bundle"

    @classmethod
    def create(cls, runs: Path, name: str | None, label: str) -> RunFolder:
        """Make a new run folder, named by default by date, time and ``label``, and point ``runs/latest`` at it.

        Raises:
            RunError: a run of that name exists, or ``runs`` can't be written to.
        """
        if name is not None and (name in ("", "..", LATEST) or Path(name).name != name):
            raise RunError(f"a run's name is one folder name other than {LATEST!r}, found {name!r}")
        try:
            runs.mkdir(parents=True, exist_ok=True)
            run = cls(_named(runs / name) if name else _dated(runs, label))
            run.point_latest()
        except OSError as error:
            raise RunError(
                f"{runs}: can't make a run folder here ({error.strerror or error}); choose another place with --runs"
            ) from None
        return run

    @classmethod
    def find(cls, path: Path | None = None, runs: Path = Path("runs")) -> RunFolder:
        """Find an existing run, ``path`` or the newest of ``runs``; RunError where there is none."""
        chosen = path if path is not None else runs / LATEST
        if not chosen.is_dir():
            hint = "train one with hybrid-train DATA, or name a run folder"
            raise RunError(f"expected a run folder at {chosen}, found none; {hint}")
        return cls(chosen.resolve())

    def point_latest(self) -> None:
        """Point ``runs/latest`` at this run, in one step."""
        link = self.path.parent / LATEST
        partial = link.with_name(f".{LATEST}-{os.getpid()}")
        partial.unlink(missing_ok=True)
        partial.symlink_to(self.path.name)
        try:
            partial.replace(link)
        finally:
            partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from training in this run for the time of the block.

        Raises:
            RunError: another process is training in it.
        """
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # a file system without locks
                stack.enter_context(locked(self.path, self._refuse_second))
            yield

    def _refuse_second(self) -> None:
        raise RunError(f"{self.path}: another process trains in this run; wait for it, or stop it")

    def checkpoint(self, phase: int, kind: str = "") -> Path:
        """Return the path of a phase's result, or with a ``kind`` of its ``best`` or ``last`` epoch's weights."""
        return self.checkpoints / (f"phase{phase}-{kind}.keras" if kind else f"phase{phase}.keras")

    def images(self, kind: str) -> Path:
        """Return the path of a list of images: ``kind`` is ``train``, ``validation`` or ``calibration``."""
        return self.path / f"{kind}.txt"

    def read_history(self) -> list[dict[str, float]]:
        """Read the rows of ``history.csv``, none where it is not there yet."""
        if not self.history.exists():
            return []
        rows = csv.DictReader(self.history.read_text(encoding="utf-8").splitlines())
        return [{key: float(value) for key, value in row.items()} for row in rows]

    def write_history(self, rows: Iterable[dict[str, float]]) -> None:
        """Write ``history.csv``, which is replaced as a whole: each row has a value for each of ``HISTORY_COLUMNS``."""
        lines = [",".join(HISTORY_COLUMNS)]
        lines += [",".join(f"{row[column]:.6g}" for column in HISTORY_COLUMNS) for row in rows]
        write_text(self.history, "\n".join(lines) + "\n")

    def read_json(self, path: Path) -> Any:
        """Read a JSON file of the run folder; RunError where it is absent or damaged."""
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"expected {path.name} in run {self.path}, found none; it is not a complete run") from None
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}") from None


def _named(path: Path) -> Path:
    try:
        path.mkdir()
    except FileExistsError:
        raise RunError(f"{path} exists; choose another --name, or continue it with --resume") from None
    return path


def _dated(runs: Path, label: str) -> Path:
    """Make a folder named by the time and the label; a second run of the same second gets a number."""
    start = f"{datetime.now():%Y%m%d-%H%M%S}-{label}"
    for number in itertools.count(1):
        path = runs / (start if number == 1 else f"{start}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            break
    return path
