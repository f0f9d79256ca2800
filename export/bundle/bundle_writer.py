"""Writes a bundle so that whoever looks sees the old one or the new one, whenever the writer is killed.

Files are named by their hash and written first, each whole; replacing ``manifest.json`` is the one commit point; what
no manifest refers to is swept then, or at the next start. A lock file beside the bundle admits one export at a time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType

from ... import __version__
from ...runtime.bundle import Bundle
from ...runtime.errors import BundleError, UsageError
from ...runtime.manifest import MANIFEST, FileRecord, Manifest, Provenance, parse_manifest, sealed
from ...runtime.storage import file_sha256, flush, locked, write_bytes
from ...runtime.trust import ANYONE, SIGNATURE

FOLDERS = ("artifacts", "golden")
# what a sweep may remove: our own names and our own temporary files, nothing that a user put there
OURS = re.compile(r"[0-9a-f]{64}\.(onnx|png|npz)|\.([0-9a-f]{64}\.(onnx|png|npz)|manifest\.json)-.*\.tmp")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BundleWriter:
    """A bundle's folder, locked for one export: ``add`` files, then ``commit`` a manifest that refers to them.

    It is a context manager. The folder is made if it is not there; ``on_wait`` is called once if another export holds
    the lock. Leaving it without a commit leaves the bundle as it was, and nothing beside it.

    Raises:
        BundleError: from every method, where there is no room or no right to write; also where the folder holds other
            things than a bundle, or a committed manifest refers to a file that is missing.
    """

    def __init__(self, path: Path, on_wait: Callable[[], object] = lambda: None) -> None:
        self.path = path.resolve()
        self._on_wait = on_wait
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> BundleWriter:
        with contextlib.ExitStack() as stack:
            stack.enter_context(bundle_lock(self.path, self._on_wait))
            self._refuse_foreign()
            self.sweep()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # the bundle is whole by now: what can't be removed here waits for the next start
        with self._stack, contextlib.suppress(BundleError):
            self.sweep()

    def current(self) -> Bundle | None:
        """Open the bundle that is in the folder now; None where there is none, or one that can't be used any more."""
        try:
            return Bundle.open(self.path, ANYONE) if (self.path / MANIFEST).exists() else None
        except BundleError:
            return None

    def add(self, folder: str, suffix: str, data: bytes) -> FileRecord:
        """Write a file under its hash, ``folder/SHA256.suffix``; a file that is already there and whole stays."""
        digest = hashlib.sha256(data).hexdigest()
        record = FileRecord(path=f"{folder}/{digest}.{suffix}", size=len(data), sha256=digest)
        target = self.path / record.path
        with writing(self.path):
            if not _holds(target, record):
                write_bytes(target, data)
        return record

    def commit(self, manifest: Manifest) -> None:
        """Make ``manifest`` the bundle's: the one moment at which the old bundle becomes the new one."""
        missing = [path for path in manifest.files if not (self.path / path).is_file()]
        if missing:
            raise BundleError(f"{self.path}: expected the files of the manifest to be there, missing: {missing}")
        with writing(self.path):
            for folder in FOLDERS:
                flush(self.path / folder)  # a renamed file is on the disk when its folder is
            (self.path / SIGNATURE).unlink(missing_ok=True)  # it was of the manifest that is replaced
            write_bytes(self.path / MANIFEST, sealed(manifest))
            flush(self.path)

    def sweep(self) -> None:
        """Remove the files that an export wrote and the manifest on the disk does not refer to.

        Where the manifest can't be read nothing is removed: it might refer to anything.
        """
        manifest = self.path / MANIFEST
        try:
            kept = set(parse_manifest(manifest.read_bytes()).files) if manifest.exists() else set()
        except (OSError, BundleError):
            return
        with writing(self.path):
            for file in self._our_files():
                if file.relative_to(self.path).as_posix() not in kept:
                    file.unlink()
            for folder in (*(self.path / name for name in FOLDERS), self.path):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def _our_files(self) -> Iterator[Path]:
        for folder in (self.path, *(self.path / name for name in FOLDERS)):
            if folder.is_dir():
                yield from [file for file in folder.iterdir() if OURS.fullmatch(file.name)]

    def _refuse_foreign(self) -> None:
        """Refuse a folder that is no bundle and holds something else: it may be a mistyped --out."""
        if self.path.is_dir() and not (self.path / MANIFEST).exists():
            foreign = [f.name for f in self.path.iterdir() if f.name not in FOLDERS and not OURS.fullmatch(f.name)]
            if foreign:
                raise BundleError(
                    f"{self.path}: expected a bundle, an empty folder or none, found {', '.join(sorted(foreign)[:3])}; "
                    "name another folder with --out DIR"
                )
        elif self.path.exists() and not self.path.is_dir():
            raise BundleError(f"{self.path}: expected a folder, found a file; name another with --out DIR")


@contextlib.contextmanager
def bundle_lock(bundle: Path, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of a bundle's folder, ``.NAME.lock`` beside it; wait while another process holds it."""
    bundle = bundle.resolve()
    with contextlib.ExitStack() as held:
        with writing(bundle):
            held.enter_context(locked(bundle.parent / f".{bundle.name}.lock", on_wait))
        yield


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while ``path`` is written into a BundleError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            remedy = "free some room there, or export to another disk with --out DIR"
        else:
            remedy = "make the folder writable, or export to another with --out DIR"
        raise BundleError(
            f"{path}: can't be written: {error.strerror or error}; {remedy}. A bundle that was there is unchanged"
        ) from error


def _holds(path: Path, record: FileRecord) -> bool:
    if not path.is_file() or path.is_symlink() or path.stat().st_size != record.size:
        return False
    return file_sha256(path) == record.sha256


SOURCE_DATE = "SOURCE_DATE_EPOCH"  # reproducible-builds.org: the date that a build gives to what it makes
MADE_BY = ("tensorflow", "keras", "tf2onnx", "onnx")
PACKAGES = (*MADE_BY, "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "numpy", "opencv-python")


def made_by() -> dict[str, str]:
    """Return the versions of the packages that made an artifact, by the package's name."""
    return {"hybrid-edge": __version__, **_versions(MADE_BY)}


def provenance(model: Path, run: str, metrics: Mapping[str, float]) -> Provenance:
    """Record of when the model is, by which packages and from which run of these metrics the bundle is made.

    The date is the model file's, so that the same run gives the same bundle, or what ``SOURCE_DATE_EPOCH`` says, in
    seconds since 1970.

    Raises:
        UsageError: ``SOURCE_DATE_EPOCH`` is no such number.
    """
    return Provenance(
        created=_date(model).isoformat(timespec="seconds"),
        hybrid_edge=__version__,
        run=run,
        packages=_versions(PACKAGES),
        metrics=dict(metrics),
    )


def _date(model: Path) -> datetime:
    told = os.environ.get(SOURCE_DATE)
    try:
        return datetime.fromtimestamp(int(model.stat().st_mtime if told is None else told), timezone.utc)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{SOURCE_DATE}: expected seconds since 1970, found {told!r}; correct or unset it") from error


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {package: _version(package) for package in packages}
    return {package: number for package, number in found.items() if number}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None  # one of onnxruntime and onnxruntime-gpu, OpenCV under another name, or JetPack's TensorRT
