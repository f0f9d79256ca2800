"""Define what a call of ``hybrid-compare`` asks for; imports are light, so that mistakes are told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..sources.names import parse_live

__all__ = ["CompareRequest"]


@dataclass(frozen=True)
class CompareRequest:
    """This request applies the same settings to each of several bundles.

    Attributes:
        sources: images, folders, globs and videos, as they were named.
        bundle: the first of the compared bundles; None looks in the usual places.
        others: the paths of the further bundles, at least one.
        sheet: the PNG of images on which the models differ; None means ``differences.png`` for class folders, and no
            PNG for other sources.
        top_k: how many labels of each answer the JSON has.
        as_json: whether stdout gets JSON lines in place of rows and a table.
        batch: the number of images that go through a model at once.
        backend, precision, threads, check: see ``Classifier.load``.
        profile, workspace, build: see ``engine_options``.

    Raises:
        UsageError: there is no source or nothing to compare with, a source is live, or the sheet can't have that name
            or folder.
    """

    sources: tuple[str, ...]
    bundle: Path | None
    others: tuple[Path, ...]
    sheet: Path | None = None
    top_k: int = 5
    as_json: bool = False
    batch: int = 8
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    check: bool = True
    profile: str | None = None
    workspace: int | None = None
    build: bool = True

    def __post_init__(self) -> None:
        if not self.sources:
            raise UsageError("Missing argument 'IMAGES': expected at least one image, folder, glob or video")
        if not self.others:
            raise UsageError("expected at least one further bundle to compare with, found none: --with BUNDLE")
        if any(parse_live(name) is not None for name in self.sources):
            raise UsageError(
                "expected images, folders, globs or videos, which every bundle can be given; found a camera or a "
                "stream; record it first with hybrid-infer --save FILE.mp4"
            )
        if self.sheet is not None:
            _check_sheet(self.sheet)


def _check_sheet(sheet: Path) -> None:
    """Refuse a sheet that can't be written there, which would otherwise be told after the last image."""
    if sheet.suffix.lower() != ".png" or sheet.is_dir():
        raise UsageError(f"--sheet: expected the name of a PNG to write, found {sheet}; name one as in differences.png")
    if not sheet.parent.is_dir():
        raise UsageError(f"--sheet: expected the folder {sheet.parent} to exist, found none; create it")
