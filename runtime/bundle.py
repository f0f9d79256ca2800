"""A bundle is what a device gets; it is opened from a folder or a tar, and no file is parsed before it is verified."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ArtifactHashError, BundleError, ImageError
from .frame import OUTPUT_NAMES, Outputs
from .manifest import MANIFEST, MAX_MANIFEST_SIZE, FileRecord, Manifest, Variant, parse_manifest
from .preprocess import contract, decode_image
from .spec import ModelSpec
from .storage import file_sha256
from .unpack import unpack

__all__ = ["Bundle"]

NPY_HEADER = 4096  # bytes an .npy may have before its values; NumPy writes 128
SEARCHED = ("manifest.json", "bundle/manifest.json", "runs/latest/bundle/manifest.json")
AGAIN = "copy the bundle again, or export it again with hybrid-export"


class Bundle:
    """An opened bundle, whose manifest fits this version, and whose files are verified as they are asked for.

    Attributes:
        root: the folder that holds ``manifest.json``; for a tar, its unpacked copy in the cache.
        manifest: the parsed manifest.
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self._verified: set[FileRecord] = set()

    @classmethod
    def open(cls, path: Path | str | None = None) -> Bundle:
        """Open a bundle.

        Args:
            path: the bundle's folder, a run folder with ``bundle/`` inside, or a ``.tar`` that ``hybrid-export --pack``
                wrote. Without one: ``./manifest.json``, ``./bundle``, then ``runs/latest/bundle``.

        Raises:
            BundleError: the bundle is not there, is malformed, is of a newer format, or was made for another
                preprocessing than this version's.
        """
        found = _locate(None if path is None else Path(path))
        if found.is_file():
            found = unpack(found)
        manifest = _read_manifest(_contained(found, MANIFEST))
        _check_contract(manifest)
        return cls(found.resolve(), manifest)

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

        Raises:
            ArtifactHashError: the file differs.
            BundleError: the file is missing, is a link, or can't be read.
        """
        path = _contained(self.root, record.path)
        if record not in self._verified:
            with _reading(path):
                _check_size(path, path.stat().st_size, record)
                digest = file_sha256(path)
            _check_hash(path, digest, record)
            self._verified.add(record)
        return path

    def read(self, record: FileRecord) -> bytes:
        """Read a small file and verify it; the bytes that were hashed are the bytes that are returned.

        Raises:
            ArtifactHashError: the file differs.
            BundleError: the file is missing, is a link, or can't be read.
        """
        path = _contained(self.root, record.path)
        with _reading(path), path.open("rb") as file:
            _check_size(path, path.stat().st_size, record)
            data = file.read(record.size + 1)
        _check_size(path, len(data), record)
        _check_hash(path, hashlib.sha256(data).hexdigest(), record)
        return data

    def golden_images(self) -> list[npt.NDArray[np.uint8]]:
        """Decode the G golden examples; each is (H, W, 3) uint8, BGR.

        Raises:
            BundleError: a file differs from the manifest, is missing, or is no image.
        """
        try:
            return [decode_image(self.read(item.file), item.file.path) for item in self.manifest.golden.images]
        except ImageError as error:
            raise BundleError(f"{self.root}: a golden example can't be decoded: {error}; {AGAIN}") from None

    def golden_tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Read what preprocessing gave for the golden examples where the bundle was exported.

        Returns:
            ``image`` (G, S, S, 3) and/or ``sequence`` (G, T, S*S/T), float32.

        Raises:
            BundleError: the file differs from the manifest, is missing, or holds other arrays than these.
        """
        count = len(self.manifest.golden.images)
        return self._arrays(
            self.manifest.golden.tensors, {name: (count, *shape) for name, shape in self.spec.inputs.items()}
        )

    def golden_outputs(self, variant: Variant) -> Outputs:
        """Read the logits and probabilities, (G, C) each, that a variant gave for the golden examples when exported.

        Raises:
            BundleError: the file differs from the manifest, is missing, or holds other arrays than these.
        """
        shape = (len(self.manifest.golden.images), self.spec.num_classes)
        return Outputs(**self._arrays(variant.golden, dict.fromkeys(OUTPUT_NAMES, shape)))

    def _arrays(
        self, record: FileRecord, expected: Mapping[str, tuple[int, ...]]
    ) -> dict[str, npt.NDArray[np.float32]]:
        try:
            return _load_arrays(self.read(record), expected)
        except (ValueError, KeyError, EOFError, OSError, MemoryError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{self.root / record.path}: expected float32 arrays {dict(expected)}, found: {error}; {AGAIN}"
            ) from None


def _read_manifest(path: Path) -> Manifest:
    with _reading(path), path.open("rb") as file:
        data = file.read(MAX_MANIFEST_SIZE + 1)
    return parse_manifest(data, str(path))


def _check_contract(manifest: Manifest) -> None:
    """Refuse a bundle that was made for another preprocessing: it would run, and its answers would be wrong."""
    ours, theirs = contract(manifest.spec), manifest.preprocessing
    differing = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if differing:
        found = "; ".join(f"{key}: expected {ours.get(key)!r}, found {theirs.get(key)!r}" for key in differing)
        raise BundleError(
            f"the bundle was made for another preprocessing than this version's: {found}. Export it again with this "
            f"version, or run it with hybrid-edge {manifest.provenance.hybrid_edge}, which made it"
        )


def _locate(path: Path | None) -> Path:
    """Find the bundle's folder or tar at a path, or in the usual places where none is given."""
    if path is None:
        return _search()
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


def _search() -> Path:
    """Return the folder of the first manifest in the usual places."""
    for name in SEARCHED:
        with _reading(Path(name)):
            if Path(name).exists():
                return Path(name).parent
    with _reading(Path()):
        here = Path.cwd()
    raise BundleError(
        f"no bundle here: looked for {', '.join(SEARCHED)} in {here}. "
        "Make one with hybrid-export, or name one with --bundle PATH"
    )


def _contained(root: Path, name: str) -> Path:
    """Return the path of a bundle's file, which must be a regular file inside the bundle and no link."""
    root = root.resolve()
    path = root / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: Python 3.10 to 3.12 on a loop of links
        raise BundleError(f"{path}: missing or unreadable ({error}); {AGAIN}") from None
    if real != path or not path.is_file():
        raise BundleError(f"{path}: expected a regular file inside the bundle, found a link or a folder; {AGAIN}")
    return path


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an OSError that is raised while a bundle is looked for or read into a BundleError."""
    try:
        yield
    except OSError as error:
        raise BundleError(f"{path}: can't be read: {error.strerror or error}") from None


def _check_size(path: Path, size: int, record: FileRecord) -> None:
    if size != record.size:
        raise ArtifactHashError(f"{path}: expected {record.size} bytes, found {size}: damaged or replaced; {AGAIN}")


def _check_hash(path: Path, digest: str, record: FileRecord) -> None:
    if digest != record.sha256:
        raise ArtifactHashError(
            f"{path}: expected SHA-256 {record.sha256[:16]}…, found {digest[:16]}…: damaged or replaced; {AGAIN}"
        )


def _load_arrays(data: bytes, expected: Mapping[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.float32]]:
    """Read an npz whose arrays' names, sizes, shapes and dtypes are known beforehand.

    Raises:
        ValueError: an array differs; its size is compared before it is unpacked.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {item.filename.removesuffix(".npy"): item.file_size for item in archive.infolist()}
    arrays = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        for name, shape in expected.items():
            if sizes.get(name, 0) > NPY_HEADER + 4 * int(np.prod(shape)):
                raise ValueError(f"{name} of {sizes[name]} bytes")
            array = stored[name]
            if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
                raise ValueError(f"{name} of shape {array.shape}, {array.dtype}, or not finite")
            arrays[name] = array
    return arrays
