"""Keeps the report's folder, ``NAME-report/`` beside the bundle, never half written and never about another bundle.

``report.json`` is removed before the manifest is replaced and written anew after it. Whenever an export is killed, the
report is that of the bundle, or is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import BundleError
from ...runtime.storage import sweep
from ..gates.compare import Flip
from ..gates.flips import write_flips
from .report import Entry, write_report
from .writer import writing

__all__ = ["REPORT", "check_folder", "fill_folder", "flips_name", "withdraw_report"]

REPORT = "report.json"
FLIPS = "flips-{}.png"
FILES = (REPORT, "ranges.npz", FLIPS.format("*"), "sensitivity.*")


def flips_name(variant: str) -> str:
    """Return the file name of a variant's contact sheet."""
    return FLIPS.format(variant)


def check_folder(folder: Path) -> None:
    """Remove what a killed export left unfinished; the bundle's lock must be held.

    Raises:
        BundleError: a file is in the folder's place, or there is no right to write.
    """
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder}: expected a folder for the report, found a file; name another bundle with --out")
    with writing(folder):
        for name in FILES:
            sweep(folder, name)


def withdraw_report(folder: Path) -> None:
    """Remove the report of the bundle that is about to be replaced.

    The measured ranges stay: their file says what they were measured on.

    Raises:
        BundleError: there is no right to write.
    """
    with writing(folder):
        (folder / REPORT).unlink(missing_ok=True)
        for sheet in folder.glob(FLIPS.format("*")):
            sheet.unlink()


def fill_folder(
    folder: Path, entries: Sequence[Entry], flips: Mapping[str, Sequence[Flip]], content: Mapping[str, Any]
) -> None:
    """Draw the contact sheets, then write ``report.json``.

    Args:
        folder: the report's folder.
        entries: one entry for each variant.
        flips: the flipped images by the variant's name.
        content: what else belongs to the report, by name.

    Raises:
        OSError: a file can't be written.
    """
    for entry in entries:
        if entry.parity is not None:
            write_flips(folder / flips_name(entry.name), flips.get(entry.name, ()), entry.name, entry.parity.images)
    write_report(folder / REPORT, entries, content)
