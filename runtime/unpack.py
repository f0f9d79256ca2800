"""A bundle's tar is unpacked once into the cache: only regular files that its manifest names, of the sizes it says."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from .errors import BundleError
from .manifest import MANIFEST, MAX_MANIFEST_SIZE, parse_manifest
from .storage import cache_dir, file_sha256, locked

__all__ = ["unpack"]

CHUNK = 2**20
MAX_MEMBERS = 10_000  # a bundle has some hundred files; a tar of headers alone could hold millions
# what tarfile raises for headers that lie: of a length that no memory holds, or a number that no field holds
TAR_FAULTS = (tarfile.TarError, MemoryError, OverflowError, ValueError, EOFError, RecursionError)


def unpack(path: Path) -> Path:
    """Unpack a bundle's tar into ``bundles/SHA256`` of the cache, unless it is there already.

    Several processes may call it at once: one unpacks, the others wait for it.

    Returns:
        The folder with ``manifest.json``. The files' hashes are left to whoever uses the files.

    Raises:
        BundleError: the file is no bundle's tar; a file that the manifest names is missing, a link, or of another size
            than it says; or the cache can't be written.
    """
    try:
        folder = cache_dir() / "bundles"
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / file_sha256(path)
        with locked(target.with_suffix(".lock")):
            if not _complete(target):
                _replace(target, path)
    except OSError as error:
        raise BundleError(
            f"{path}: can't be unpacked into {cache_dir()}: {error}; HYBRID_EDGE_CACHE names another cache folder"
        ) from error
    return target


def _complete(folder: Path) -> bool:
    """Return whether an unpacked copy still has all its files, in their sizes."""
    try:
        files = parse_manifest((folder / MANIFEST).read_bytes()).files.values()
        return all((folder / record.path).stat().st_size == record.size for record in files)
    except (OSError, BundleError):
        return False


def _replace(target: Path, path: Path) -> None:
    """Unpack beside the target, then rename: a killed process leaves no half bundle, and the next one clears up."""
    temporary = target.with_suffix(".unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        _extract(path, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(path: Path, folder: Path) -> None:
    try:
        with tarfile.open(path, "r:") as tar:
            members = _members(tar)
            _copy(tar, _member(members, MANIFEST), folder / MANIFEST, MAX_MANIFEST_SIZE)
            manifest = parse_manifest((folder / MANIFEST).read_bytes(), f"{path}: {MANIFEST}")
            for record in manifest.files.values():
                member = _member(members, record.path)
                if member.size != record.size:
                    raise ValueError(f"{record.path} of {member.size} bytes, while the manifest says {record.size}")
                _copy(tar, member, folder / record.path, record.size)
    except TAR_FAULTS as error:
        raise BundleError(
            f"{path}: expected a bundle's tar (hybrid-export --pack), found: {error or 'a header that lies'}"
        ) from None


def _members(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """Return the members by their path below the manifest's folder: the tar's top, or the one folder in it."""
    members = {}
    for count, member in enumerate(tar):
        if count >= MAX_MEMBERS:
            raise ValueError(f"more than {MAX_MEMBERS} files")
        members[PurePosixPath(member.name).as_posix()] = member
    manifests = [name for name in members if name == MANIFEST or name.endswith(f"/{MANIFEST}")]
    if not manifests:
        raise ValueError(f"no {MANIFEST} in it")
    prefix = min(manifests, key=len).removesuffix(MANIFEST)
    return {name.removeprefix(prefix): member for name, member in members.items() if name.startswith(prefix)}


def _member(members: dict[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo:
    member = members.get(name)
    if member is None:
        raise ValueError(f"no {name} in it")
    if not member.isreg() or member.issparse():  # a sparse file of a few bytes unpacks to terabytes
        raise ValueError(f"{name} is a link, a sparse file or a device, not a regular file")
    return member


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, destination: Path, limit: int) -> None:
    if member.size > limit:
        raise ValueError(f"{member.name} of {member.size} bytes, over the {limit} it may have")
    source = tar.extractfile(member)
    if source is None:
        raise ValueError(f"{member.name} has no content")
    destination.parent.mkdir(exist_ok=True)
    with source, destination.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)
