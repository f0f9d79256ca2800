"""Define what ``hybrid-infer SOURCE --with BUNDLE`` asks for; imports are light, so that mistakes are told at once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UsageError
from ..pipeline.infer_request import InferRequest

__all__ = ["CompareRequest"]

TAKEN = frozenset(
    {"sources", "bundle", "top_k", "as_json", "batch", "backend", "precision", "threads", "check"}
    | {"profile", "workspace", "build"}
)


@dataclass(frozen=True)
class CompareRequest:
    """This request applies one run's settings to each of several bundles.

    Attributes:
        run: the sources and settings, as for one bundle; its ``bundle`` is the first of those compared.
        others: the paths of the further bundles.
        sheet: the PNG of images on which the models differ; None means ``differences.png`` for class folders, and no
            PNG for other sources.

    Raises:
        UsageError: there is nothing to compare with, a source is live, a setting is for one bundle alone, or the sheet
            can't have that name or folder.
    """

    run: InferRequest
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
            for item in fields(InferRequest)
            if item.name not in TAKEN and getattr(self.run, item.name) != item.default
        ]
        if foreign:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in foreign)
            raise UsageError(f"--with: expected settings that go with several bundles, found {names}; leave them out")
        if self.sheet is not None:
            _check_sheet(self.sheet)


def _check_sheet(sheet: Path) -> None:
    """Refuse a sheet that can't be written there, which would otherwise be told after the last image."""
    if sheet.suffix.lower() != ".png" or sheet.is_dir():
        raise UsageError(f"--sheet: expected the name of a PNG to write, found {sheet}; name one as in differences.png")
    if not sheet.parent.is_dir():
        raise UsageError(f"--sheet: expected the folder {sheet.parent} to exist, found none; create it")
