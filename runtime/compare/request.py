"""What ``hybrid-infer SOURCE --with BUNDLE`` asks for; light, so that a mistake is told before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UsageError
from ..live.request import Request

__all__ = ["CompareRequest"]

TAKEN = frozenset(
    {"sources", "bundle", "top_k", "as_json", "batch", "backend", "precision", "threads", "check"}
    | {"profile", "workspace", "build"}
)


@dataclass(frozen=True)
class CompareRequest:
    """One run's settings, applied to each of several bundles.

    Attributes:
        run: sources and settings as for one bundle; its ``bundle`` is the first of those compared.
        others: the further bundles.
        sheet: the PNG of images on which they differ; None: ``differences.png`` for class folders, else none.

    Raises:
        UsageError: nothing to compare with, a live source, a setting that is for one bundle alone, or a sheet whose
            name or folder can't be.
    """

    run: Request
    others: tuple[Path, ...]
    sheet: Path | None = None

    def __post_init__(self) -> None:
        if not self.others:
            raise UsageError("--sheet: expected at least one further bundle to compare with, found none: --with BUNDLE")
        if self.run.live:
            raise UsageError(
                "--with: expected images, folders, globs or videos, which every bundle can be given; found a camera "
                "or a stream; record it first with --save FILE.mp4"
            )
        foreign = [
            item.name
            for item in fields(Request)
            if item.name not in TAKEN and getattr(self.run, item.name) != item.default
        ]
        if foreign:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
            raise UsageError(f"--with: expected settings that go with several bundles, found {names}; leave them out")
        if self.sheet is not None:
            _check_sheet(self.sheet)


def _check_sheet(sheet: Path) -> None:
    """A mistake here would otherwise be told after the last image."""
    if sheet.suffix.lower() != ".png" or sheet.is_dir():
        raise UsageError(f"--sheet: expected the name of a PNG to write, found {sheet}; name one as in differences.png")
    if not sheet.parent.is_dir():
        raise UsageError(f"--sheet: expected the folder {sheet.parent} to exist, found none; create it")
