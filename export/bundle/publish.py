"""Publishes a bundle: signs it, packs it as one tar, and writes its fingerprint, by which others recognize it."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

from ...runtime.bundle import Bundle
from ...runtime.manifest import MANIFEST
from ...runtime.storage import replacing, write_text
from ...runtime.trust import ANYONE, SIGNATURE, sign_bundle
from .bundle_writer import bundle_lock, writing


@dataclass(frozen=True)
class Published:
    """What was made of a bundle.

    Attributes:
        fingerprint: the SHA-256 of the bundle's manifest, in hexadecimal.
        checksum: the file that holds it, as ``sha256sum -c`` reads it: ``NAME.sha256`` beside the bundle.
        tar: the tar, where one was asked for.
        signed: whether the bundle is signed now.
    """

    fingerprint: str
    checksum: Path
    tar: Path | None
    signed: bool


def publish(bundle: Path, *, key: str | None = None, tar: bool = False) -> Published:
    """Sign a bundle's folder with ``key``, as ``sign_bundle`` takes it, pack it as a tar, or both.

    A signature that is there stays where no key is given. Every file is verified first.

    Raises:
        BundleError: there is no bundle, a damaged one, no room, or no right to write.
        UsageError: the key can't be used, or the library that signs is not installed.
    """
    bundle = bundle.resolve()
    with bundle_lock(bundle):
        opened = Bundle.open(bundle, ANYONE)
        files = {path: opened.verified(record) for path, record in opened.manifest.files.items()}
        files[MANIFEST] = opened.root / MANIFEST
        signature = opened.root / SIGNATURE
        with writing(signature):
            if key is not None:
                sign_bundle(opened.root, key, files)
            if signature.is_file():
                files[SIGNATURE] = signature
        packed = _pack(files, bundle.with_name(f"{bundle.name}.tar")) if tar else None
        checksum = bundle.with_name(f"{bundle.name}.sha256")
        with writing(checksum):
            write_text(checksum, f"{opened.fingerprint}  {bundle.name}/{MANIFEST}\n")
    return Published(opened.fingerprint, checksum, packed, SIGNATURE in files)


def _pack(files: dict[str, Path], target: Path) -> Path:
    """Write files as a tar, which is replaced as a whole, and return its path.

    The same bundle gives the same bytes, whenever and wherever: members are sorted, without times, owners or rights of
    their own.
    """
    with (
        writing(target),
        replacing(target) as partial,
        tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size = files[name].stat().st_size
            with files[name].open("rb") as file:
                tar.addfile(member, file)
    return target
