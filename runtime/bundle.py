"""A bundle is what a device gets; it is opened from a folder or a tar, and no file is parsed before it is verified.

A tar is unpacked once into the cache: only the regular files that its manifest names, of the sizes it says.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from reprlib import repr as short

import numpy as np
import numpy.typing as npt

from .errors import ArtifactHashError, BundleError, ImageError
from .frame import OUTPUT_NAMES, Outputs
from .guard.graph_guard import check_graph_file
from .image_headers import PNG_SIGNATURE
from .manifest import MANIFEST, MAX_MANIFEST_SIZE, FileRecord, Manifest, Variant, parse_manifest
from .preprocess import contract, decode_image
from .spec import MAX_FAULTS, ModelSpec
from .storage import cache_dir, file_sha256, locked
from .stored_arrays import read_rows
from .trust import MAX_SIGNATURE_SIZE, SIGNATURE, Trust, fingerprint

USUAL_PLACES = ("manifest.json", "bundle/manifest.json", "runs/latest/bundle/manifest.json")
REMEDY = "copy the bundle again, or export it again with hybrid-export"
MAX_EXAMPLE_PIXELS = 2**22  # 12 MiB decoded; an export writes golden examples of 1024 pixels a side at most
MAX_GOLDEN_SIZE = 2**30  # bytes of all examples' tensors together; 8 of 2048 x 2048 pixels have 400 MB
MAX_TAR_HEADER = 2**16  # bytes; a path of ours has 80
MAX_WORDS = 200  # characters that are shown of a fault's words, which may quote a tar's name of a megabyte
MAX_MEMBERS = 10_000  # of a tar: a bundle has some hundred files; a tar of headers alone could hold millions
# what tarfile raises for headers that lie: of a length that no memory holds, or a number that no field holds
TAR_FAULTS = (tarfile.TarError, MemoryError, OverflowError, ValueError, EOFError, RecursionError)


class Bundle:
    """An opened bundle, whose manifest fits this version, and whose files are verified as they are asked for.

    ``root`` is the folder that holds ``manifest.json``; for a tar, its unpacked copy in the cache. ``fingerprint`` is
    the manifest's SHA-256, in hexadecimal, which stands for everything in the bundle. Whatever reads a file raises
    ArtifactHashError where it differs from the manifest, and BundleError where it is missing, is a link, can't be read,
    or holds something else than the manifest says.
    """

    def __init__(self, root: Path, manifest: Manifest, fingerprint: str) -> None:
        self.root = root
        self.manifest = manifest
        self.fingerprint = fingerprint
        self._verified: set[FileRecord] = set()
        self._graphs = {variant.file for variant in manifest.variants}

    @classmethod
    def open(cls, path: Path | str | None = None, trust: Trust | None = None) -> Bundle:
        """Open a bundle.

        Args:
            path: the bundle's folder, a run folder with ``bundle/`` inside, or a ``.tar`` that ``hybrid-export --pack``
                wrote. Without one: ``./manifest.json``, ``./bundle``, then ``runs/latest/bundle``.
            trust: the fingerprint or the signature that the bundle must have; None: what this device asks of all.

        Raises:
            BundleError: the bundle is not there, is malformed, is of a newer format, or was made for another
                preprocessing than this version's.
            TrustError: the bundle has not the fingerprint or the signature.
            UsageError: a signature can't be verified here: no such key, or no library.
        """
        found = locate(None if path is None else Path(path))
        if found.is_file():
            found = _unpack(found)
        path = _contained(found, MANIFEST)
        data = _read_manifest(path)
        (trust or Trust()).check(path.parent, data)
        manifest = parse_manifest(data, str(path))
        _check_contract(manifest)
        return cls(path.parent, manifest, fingerprint(data))

    @property
    def spec(self) -> ModelSpec:
        """The ModelSpec: what the model sees and is made of."""
        return self.manifest.spec

    @property
    def labels(self) -> tuple[str, ...]:
        """The C class labels, in the order of the model's outputs."""
        return self.manifest.spec.class_labels

    def verified(self, record: FileRecord) -> Path:
        """Compare a file's size and SHA-256 with the manifest's, once for each file and Bundle, and return its path.

        A graph is also held against what an export writes (``graph_guard``): every engine gets its file from here.
        """
        path = _contained(self.root, record.path)
        if record not in self._verified:
            with _reading(path):
                size = path.stat().st_size
                _check(path, record, size, file_sha256(path) if size == record.size else "")
                if record in self._graphs:
                    check_graph_file(path, self.spec)
            self._verified.add(record)
        return path

    def read(self, record: FileRecord) -> bytes:
        """Read a small file and verify it; the bytes that were hashed are the bytes that are returned."""
        path = _contained(self.root, record.path)
        with _reading(path), path.open("rb") as file:
            data = file.read(record.size + 1)
            _check(path, record, path.stat().st_size, hashlib.sha256(data).hexdigest())
        return data

    def golden_images(self) -> Iterator[npt.NDArray[np.uint8]]:
        """Decode the G golden examples one after the other; each is (H, W, 3) uint8, BGR.

        BundleError says that one can't be decoded, or has more than 4 Mpx.
        """
        for item in self.manifest.golden.images:
            data = self.read(item.file)
            try:
                if not data.startswith(PNG_SIGNATURE):
                    raise ImageError(f"{item.file.path}: expected a PNG")
                yield decode_image(data, item.file.path, MAX_EXAMPLE_PIXELS)
            except ImageError as error:
                raise BundleError(f"{self.root}: a golden example can't be decoded: {error}; {REMEDY}") from None

    def golden_tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Read the tensors that preprocessing gave for the golden examples where the bundle was exported.

        They are ``image`` (G, S, S, 3) and/or ``sequence`` (G, T, S*S/T), float32; BundleError where they would have
        more than 1 GiB.
        """
        count = len(self.manifest.golden.images)
        size = 4 * count * sum(int(np.prod(shape)) for shape in self.spec.inputs.values())
        if size > MAX_GOLDEN_SIZE:
            raise BundleError(f"{self.root}: expected golden tensors of at most {MAX_GOLDEN_SIZE} bytes, found {size}")
        return next(self.golden_batches(count))

    def golden_batches(self, size: int) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
        """Read the golden examples' tensors, ``size`` examples at a time, the last batch smaller where they end."""
        return self._rows(self.manifest.golden.tensors, self.spec.inputs, size)

    def golden_outputs(self, variant: Variant) -> Outputs:
        """Read the logits and probabilities, (G, C) each, that a variant gave for the golden examples when exported."""
        shapes = dict.fromkeys(OUTPUT_NAMES, (self.spec.num_classes,))
        return Outputs(**next(self._rows(variant.golden, shapes, len(self.manifest.golden.images))))

    def _rows(
        self, record: FileRecord, shapes: Mapping[str, tuple[int, ...]], size: int
    ) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
        """Read an npz of the golden examples, whose arrays' names and shapes of a row are known."""
        count = len(self.manifest.golden.images)
        try:
            yield from read_rows(self.read(record), shapes, count, size)
        except ValueError as error:
            expected = {name: (count, *shape) for name, shape in shapes.items()}
            raise BundleError(
                f"{self.root / record.path}: expected float32 arrays {expected}, found: {error}; {REMEDY}"
            ) from None


def bundle_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each of several bundles by which people tell them apart.

    It is the name of the bundle's run or tar, with as many of its folders as it takes; where no folders tell the names
    apart, as of ``cnn.tar`` beside the run ``cnn``, the names are numbered.
    """
    parts = [_run_path(path.resolve()).parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {part[-1]}" for number, part in enumerate(parts, start=1)]


def _run_path(path: Path) -> Path:
    path = path.parent if path.name == MANIFEST else path
    path = path.with_suffix("") if path.suffix == ".tar" else path
    return path.parent if path.name == "bundle" else path


def _read_manifest(path: Path) -> bytes:
    with _reading(path), path.open("rb") as file:
        return file.read(MAX_MANIFEST_SIZE + 1)


def _check_contract(manifest: Manifest) -> None:
    """Refuse a bundle that was made for another preprocessing: it would run, and its answers would be wrong."""
    ours, theirs = contract(manifest.spec), manifest.preprocessing
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        shown = [(short(key).strip("'"), ours.get(key), short(theirs.get(key))) for key in differing[:MAX_FAULTS]]
        found = "; ".join(f"{key}: expected {expected!r}, found {value}" for key, expected, value in shown)
        raise BundleError(
            f"the bundle was made for another preprocessing than this version's: {found}. Export it again with this "
            f"version, or run it with hybrid-edge {manifest.provenance.hybrid_edge}, which made it"
        )


def locate(path: Path | None) -> Path:
    """Return the folder or the tar that a path names, or that is in the usual places, links not followed.

    Raises:
        BundleError: there is no bundle.
    """
    if path is None:
        with _reading(Path()):
            for place in map(Path, USUAL_PLACES):
                if place.exists():
                    return place.parent
            raise BundleError(
                f"no bundle here: looked for {', '.join(USUAL_PLACES)} in {Path.cwd()}. "
                "Make one with hybrid-export, or name one with --bundle PATH"
            )
    with _reading(path):
        for folder in (path, path / "bundle"):
            if (folder / MANIFEST).exists():
                return folder
        if path.is_file():
            return path.parent if path.name == MANIFEST else path
        found = "a folder without one" if path.is_dir() else "nothing"
    raise BundleError(
        f"{path}: expected a bundle (a folder with {MANIFEST}, a run folder with bundle/ inside, or a .tar), "
        f"found {found}"
    )


def _contained(root: Path, name: str) -> Path:
    """Return the path of a bundle's file, which must be a regular file inside the bundle and no link."""
    root = root.resolve()
    path = root / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.10 to 3.12 on a loop of links
        raise BundleError(f"{path}: missing or unreadable ({error}); {REMEDY}") from None
    if real != path or not path.is_file():
        raise BundleError(f"{path}: expected a regular file inside the bundle, found a link or a folder; {REMEDY}")
    return path


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"{path}: can't be read: {error.strerror or error}") from None


def _check(path: Path, record: FileRecord, size: int, digest: str) -> None:
    if size != record.size:
        raise ArtifactHashError(f"{path}: expected {record.size} bytes, found {size}: damaged or replaced; {REMEDY}")
    if digest != record.sha256:
        raise ArtifactHashError(
            f"{path}: expected SHA-256 {record.sha256[:16]}…, found {digest[:16]}…: damaged or replaced; {REMEDY}"
        )


def _unpack(path: Path) -> Path:
    """Unpack a bundle's tar into ``bundles/SHA256`` of the cache, unless it is there already, and return that folder.

    Several processes may call it at once: one unpacks, the others wait for it. Every file is verified as it is
    unpacked, and again when it is used, as the copy in the cache may have been changed since.
    """
    try:
        target = cache_dir() / "bundles" / file_sha256(path)
        with locked(target.with_suffix(".lock")):
            if not _is_complete(target):
                _replace(target, path)
    except OSError as error:
        raise BundleError(
            f"{path}: can't be unpacked into {cache_dir()}: {error}; HYBRID_EDGE_CACHE names another cache folder"
        ) from error
    return target


def _is_complete(folder: Path) -> bool:
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
        unpack(path, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unpack(path: Path, folder: Path) -> None:
    """Unpack a bundle's tar into an empty folder: the files that its manifest names, and its signature.

    Raises:
        BundleError: it is no bundle's tar, or one that is damaged or hostile.
        OSError: a file can't be read or written.
    """
    try:
        with tarfile.open(path, "r:", tarinfo=_PlainMember) as tar:
            members = _members(tar)
            _copy(tar, _member(members, MANIFEST), folder / MANIFEST, MAX_MANIFEST_SIZE)
            manifest = parse_manifest((folder / MANIFEST).read_bytes(), f"{path}: {MANIFEST}")
            for record in manifest.files.values():
                member = _member(members, record.path)
                if member.size != record.size:
                    raise ValueError(f"{record.path} of {member.size} bytes, while the manifest says {record.size}")
                _copy(tar, member, folder / record.path, record.size)
                _check(folder / record.path, record, member.size, file_sha256(folder / record.path))
            if SIGNATURE in members:
                _copy(tar, _member(members, SIGNATURE), folder / SIGNATURE, MAX_SIGNATURE_SIZE)
    except TAR_FAULTS as error:
        raise BundleError(
            f"{path}: expected a bundle's tar (hybrid-export --pack), found: {_line(error) or 'a header that lies'}"
        ) from None


def _line(error: Exception) -> str:
    """Return a fault's own words, escaped and not too long: they may quote what the tar says."""
    return str(error).encode("unicode_escape").decode()[:MAX_WORDS]


class _PlainMember(tarfile.TarInfo):
    """A member whose extra header, a long name or PAX's, is small: it is read into memory as a whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _PlainMember:
        """Read a member's header, or refuse it with a ValueError."""
        member = super().frombuf(buf, encoding, errors)
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError("a sparse file")
        if member.type not in tarfile.REGULAR_TYPES and member.size > MAX_TAR_HEADER:
            raise ValueError(f"a header of {member.size} bytes")
        return member


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
        shutil.copyfileobj(source, file)
