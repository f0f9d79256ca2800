"""Packs a bundle into one file, to be copied to a device."""

from __future__ import annotations

import tarfile
from pathlib import Path

from ...runtime.bundle import Bundle
from ...runtime.manifest import MANIFEST
from ...runtime.storage import replacing
from .writer import locked, writing

__all__ = ["pack"]


def pack(bundle: Path) -> Path:
    """Write a bundle's folder as ``NAME.tar`` beside it: the same bundle gives the same bytes, whenever and wherever.

    Members are sorted, without times, owners or rights of their own; the tar is replaced as a whole.

    Returns:
        The tar's path.

    Raises:
        BundleError: there is no bundle, a damaged one, no room, or no right to write.
    """
    bundle = bundle.resolve()
    target = bundle.with_name(f"{bundle.name}.tar")
    with locked(bundle):
        opened = Bundle.open(bundle)
        files = {path: opened.verified(record) for path, record in opened.manifest.files.items()}
        files[MANIFEST] = bundle / MANIFEST
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
