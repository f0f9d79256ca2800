"""Keeps an export's report, ``NAME-report/`` beside the bundle: ``report.json`` and the pictures that it speaks of.

``report.json`` is removed before the manifest is replaced and written anew after it. Whenever an export is killed, the
report is that of the bundle, or is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...runtime.errors import BundleError
from ...runtime.storage import sweep
from ..gates.comparison import Flip
from ..gates.contact_sheet import write_flips
from ..gates.reliability_diagram import write_diagrams
from .bundle_writer import writing
from .report import DIAGRAMS, ReportEntry, write_report

REPORT = "report.json"
FLIPS = "flips-{}.png"
FILES = (REPORT, DIAGRAMS, "ranges.npz", FLIPS.format("*"), "sensitivity.*")


def flips_name(variant: str) -> str:
    """Return the file name of a variant's contact sheet."""
    return FLIPS.format(variant)


def check_folder(folder: Path) -> None:
    """Remove what a killed export left unfinished; the bundle's lock must be held."""
    if folder.exists() and not folder.is_dir():
        raise BundleError(f"{folder}: expected a folder for the report, found a file; name another bundle with --out")
    with writing(folder):
        for name in FILES:
            sweep(folder, name)


def withdraw_report(folder: Path) -> None:
    """Remove the report of the bundle that is about to be replaced.

    The measured ranges stay: their file says what they were measured on.
    """
    with writing(folder):
        (folder / REPORT).unlink(missing_ok=True)
        (folder / DIAGRAMS).unlink(missing_ok=True)
        for sheet in folder.glob(FLIPS.format("*")):
            sheet.unlink()


def fill_folder(
    folder: Path, entries: Sequence[ReportEntry], flips: Mapping[str, Sequence[Flip]], content: Mapping[str, Any]
) -> None:
    """Draw the contact sheets of ``flips``, the flipped images by the variant's name, and the reliability diagrams.

    Then write ``report.json``.

    Raises:
        OSError: a file can't be written.
    """
    for entry in entries:
        if entry.parity is not None:
            write_flips(folder / flips_name(entry.name), flips.get(entry.name, ()), entry.name, entry.parity.images)
    write_diagrams(folder / DIAGRAMS, {item.name: item.temperature for item in entries if item.temperature})
    write_report(folder / REPORT, entries, content)
