"""The versions of a bundle on a device, and which of them is to run: written by hybrid-update, read by hybrid-infer.

    bundle ──► bundle.versions/FINGERPRINT     a link, which is replaced as a whole: the one commit point of an update
    bundle.versions/FINGERPRINT/               a bundle's folder, complete before it gets this name
    bundle.versions/previous ──► FINGERPRINT   what ran before
    bundle.versions/trial ──► FINGERPRINT      what live runs try while an update watches them
    bundle.versions/lock                       held by the update; when that dies, its trial is over
    bundle.versions/runs/HOST-PID.json         how a live run goes, written while there is an update

Whenever the power goes, the link leads to a whole bundle: the old one, or the new one once it is proven.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import BundleError, UpdateError
from .manifest import MANIFEST
from .storage import flush
from .trust import fingerprint

LOCK_TRIES, LOCK_PAUSE = 20, 0.05  # a run that looks whether the lock is held has it for a moment
RUN_SILENCE = 5.0  # seconds after which a run that wrote nothing counts as gone; it writes once a second
FINGERPRINT_LENGTH = 64
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@dataclass(frozen=True)
class RunState:
    """How a live run goes, as it writes it once a second while there is an update.

    Attributes:
        run: host and process, which change when its worker is replaced.
        fingerprint: of the bundle with which it classifies now.
        results, failures: how many frames this bundle classified, and how many batches failed, since it was taken.
        inference_ms: the median of the last batches' times in the engine, milliseconds; None before the first.
        refused: why a bundle could not be taken, by its fingerprint.
    """

    run: str
    fingerprint: str
    results: int
    failures: int
    inference_ms: float | None
    refused: dict[str, str]


class BundleStore:
    """The versions beside a bundle's ``link``, which is the path that ``--bundle`` names: a link, a folder or nothing.

    Whatever writes must hold ``updating``.
    """

    def __init__(self, link: Path) -> None:
        # the last link is what is read and replaced; one above it, as runs/latest, may lead elsewhere in the meantime
        self.link = link.absolute().parent.resolve() / link.absolute().name
        self.versions = self.link.with_name(f"{self.link.name}.versions")

    def folder(self, version: str) -> Path:
        """Return the folder of a version, which may not be there."""
        return self.versions / version

    @property
    def current(self) -> str | None:
        """The fingerprint of the version that runs; None where the link leads to none of the versions."""
        return self._version(self.link)

    @property
    def previous(self) -> str | None:
        """The fingerprint of the version that ran before; None where there is none."""
        return self._version(self.versions / "previous")

    @property
    def trial(self) -> str | None:
        """The fingerprint of the version that live runs are to try, as long as the update lives that asks for it."""
        found = self._version(self.versions / "trial")
        return found if found is not None and self.is_updating() else None

    def wanted(self) -> Path:
        """Return the folder with which to classify now: the version on trial, else where the link leads."""
        trial = self.trial
        return self.link if trial is None else self.folder(trial)

    def is_updating(self) -> bool:
        """Whether a living process holds the lock."""
        try:
            descriptor = os.open(self.versions / "lock", os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks, where no update can be either
            return False
        finally:
            os.close(descriptor)
        return False

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """Hold the lock, with what an update that was killed has left cleared away; a trial ends with the block.

        Raises:
            UpdateError: another update holds it.
        """
        self.versions.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.versions / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock(descriptor)
            (self.versions / "runs").mkdir(exist_ok=True)
            self.end_trial()
            self._keep_replaced()
            yield
        finally:
            self.end_trial()
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        for _ in range(LOCK_TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(LOCK_PAUSE)
        raise UpdateError(f"{self.versions}: expected no other update, found one under way; wait for its end")

    def begin_trial(self, version: str) -> None:
        """Ask live runs to try a version."""
        _point(self.versions / "trial", version)

    def end_trial(self) -> None:
        """Let live runs go back to where the link leads."""
        (self.versions / "trial").unlink(missing_ok=True)

    def switch(self, version: str) -> None:
        """Make a version the one that runs: the commit point. What ran before becomes ``previous``.

        A bundle's plain folder in the link's place becomes a version itself.
        """
        before = self.current
        if before is not None and before != version:
            _point(self.versions / "previous", before)
        target = f"{self.versions.name}/{version}"
        if self.link.is_dir() and not self.link.is_symlink():
            self._exchange(target)
        else:
            _point(self.link, target)

    def _exchange(self, target: str) -> None:
        """Put a link in the place of a plain folder, in one step, and keep the folder as a version."""
        before = fingerprint((self.link / MANIFEST).read_bytes())
        aside = self.versions / ".replaced"
        aside.unlink(missing_ok=True)
        aside.symlink_to(target)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(AT_FDCWD, os.fsencode(aside), AT_FDCWD, os.fsencode(self.link), RENAME_EXCHANGE) != 0:
            aside.unlink()
            number = ctypes.get_errno()
            raise UpdateError(
                f"{self.link}: expected a file system on which a folder can be exchanged for a link, found one that "
                f"refuses ({os.strerror(number)}); move the folder to {self.versions}/{before} and link to it by hand"
            )
        flush(self.link.parent)
        self._keep_replaced()
        _point(self.versions / "previous", before)

    def _keep_replaced(self) -> None:
        """Make the folder that a link took the place of a version, also where an update was killed before that."""
        aside = self.versions / ".replaced"
        if aside.is_dir() and not aside.is_symlink():
            target = self.folder(fingerprint((aside / MANIFEST).read_bytes()))
            if target.exists():
                shutil.rmtree(aside)
            else:
                aside.rename(target)

    def prune(self, keep: int) -> list[str]:
        """Remove the oldest versions but ``keep`` beside the one that runs, and return those removed."""
        held = {self.current, self.previous}
        others = sorted(
            (path for path in self.versions.iterdir() if _is_version(path) and path.name not in held),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        room = max(0, keep - (self.previous is not None))
        if keep == 0 and self.previous is not None:
            others = [self.folder(self.previous), *others]
            (self.versions / "previous").unlink()
        for path in others[room:]:
            shutil.rmtree(path)
        return [path.name for path in others[room:]]

    def write_run(self, state: RunState) -> None:
        """Tell an update how a run goes; where the folder can't be written to, the update does without.

        The file is not synced: it need not outlive the power.
        """
        folder = self.versions / "runs"
        partial = folder / f".{state.run}.tmp"
        with contextlib.suppress(OSError):
            partial.write_text(json.dumps(asdict(state)))
            partial.replace(folder / f"{state.run}.json")

    def runs(self) -> dict[str, RunState]:
        """Return how the live runs go that wrote within the last seconds, by their ``run``."""
        found: dict[str, RunState] = {}
        for path in (self.versions / "runs").glob("*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                if time.time() - path.stat().st_mtime < RUN_SILENCE:
                    state = RunState(**json.loads(path.read_text()))
                    found[state.run] = state
                else:
                    path.unlink()
        return found

    def _version(self, link: Path) -> str | None:
        """Return the version that a link leads to; None where it is no link, or leads to none that is there."""
        try:
            target = link.readlink()
        except OSError:
            return None
        folder = self.folder(target.name)
        return target.name if _is_version(folder) and (link.parent / target).resolve() == folder.resolve() else None


def run_name() -> str:
    """Return the name under which this process writes its ``RunState``."""
    return f"{socket.gethostname()}-{os.getpid()}"


def require_link(store: BundleStore) -> None:
    """Refuse a place where no link can lead to versions: a tar, or a folder that is no bundle.

    Raises:
        BundleError: something else is there.
    """
    path = store.link
    if path.is_symlink() or not path.exists():
        return
    if path.is_file() or not (path / MANIFEST).is_file():
        found = "a file" if path.is_file() else "a folder without one"
        raise BundleError(
            f"{path}: expected a bundle's folder (with {MANIFEST}), or nothing yet, found {found}; name another place "
            "with --bundle PATH"
        )


def _is_version(path: Path) -> bool:
    return len(path.name) == FINGERPRINT_LENGTH and (path / MANIFEST).is_file()


def _point(link: Path, target: str) -> None:
    """Make a link lead to a target in one step, and see that this is on the disk."""
    partial = link.with_name(f".{link.name}.link")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)
    flush(link.parent)
