"""One export of the digits stand-in in every precision, and how to export it again with something damaged."""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import pytest

from hybrid_edge.calib import Range
from hybrid_edge.export import exporter
from hybrid_edge.export.export_request import ExportRequest, ExportSettings, make_request
from hybrid_edge.export.exporter import ExportResult
from hybrid_edge.export.gates import target_runs
from hybrid_edge.export.quantize.prepared_model import PreparedModel
from hybrid_edge.export.step_log import StepLog
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.manifest import Variant
from support.models.standin import crops

EVERY = ("fp32", "fp16", "int8")
NAMES = (
    *("fp32-cpu", "fp32-cuda", "fp32-tensorrt", "fp32-tensorrt-unrolled"),
    *("fp16-cuda", "fp16-tensorrt", "fp16-tensorrt-unrolled"),
    *("int8-cpu-unrolled", "int8-tensorrt", "int8-tensorrt-unrolled"),
)
PHOTOS, CALIBRATION = 16, 40
SIDE = 64  # pixels; larger files only take longer to read
DECIDED = 0.4  # between the first two probabilities: what is not damaged does not flip these


@dataclass(frozen=True, eq=False)
class Whole:
    """An export with ``--fp32 --fp16 --int8``, what it was asked for, and what it was made from."""

    request: ExportRequest
    result: ExportResult
    prepared: PreparedModel
    photos: Path
    calibration: Path

    @property
    def variants(self) -> dict[str, Variant]:
        return {item.name: item for item in self.result.manifest.variants}

    @cached_property
    def report(self) -> dict[str, Any]:
        return read_report(self.result)

    def again(
        self, monkeypatch: pytest.MonkeyPatch, out: Path, prepared: PreparedModel | None = None, **settings: Any
    ) -> ExportResult:
        """Export to ``out`` from what was prepared before: by default INT8, LSTM operators as they are."""
        given = prepared or self.prepared
        monkeypatch.setattr(exporter, "prepare", lambda *_: given)
        hurry(monkeypatch)
        chosen = ExportSettings(**{"precisions": ("int8",), "recurrent": "lstm", **settings})
        return exporter.export(replace(self.request, out=out, settings=chosen))

    def damaged(self, factor: float, only: Collection[str] | None = None) -> PreparedModel:
        """What was prepared, with its ranges, or those of some tensors alone, divided by ``factor``."""
        return with_damaged_ranges(self.prepared, factor, only)


def with_damaged_ranges(prepared: PreparedModel, factor: float, only: Collection[str] | None = None) -> PreparedModel:
    """The same with its ranges, or those of some tensors alone, divided by ``factor``."""

    def damage(ranges: Mapping[str, Range]) -> dict[str, Range]:
        return {
            name: Range(item.low / factor, item.high / factor) if only is None or name in only else item
            for name, item in ranges.items()
        }

    ranges = prepared.graphs.int8
    broken = replace(ranges, signed=damage(ranges.signed), unsigned=damage(ranges.unsigned))
    return replace(prepared, graphs=replace(prepared.graphs, int8=broken))


def export_whole(file: Path, photos: Path, folder: Path) -> Whole:
    """Export a model file; ranges are measured on few images, so all but FP32 come with a warning."""
    calibration = write_flat(folder / "calibration", CALIBRATION, seed=78)
    request = make_request(
        file, images=photos, calib=calibration, out=folder / "bundle", settings=ExportSettings(precisions=EVERY)
    )
    kept: list[PreparedModel] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter, "prepare", lambda *given: kept.append(PREPARE(*given)) or kept[-1])
        hurry(patch)
        result = exporter.export(request, log=StepLog(quiet=True))
    return Whole(request, result, kept[0], photos, calibration)


PREPARE = exporter.prepare


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that nobody looks at need not be exact."""
    monkeypatch.setattr(target_runs, "MIN_SECONDS", 0.05)
    monkeypatch.setattr(target_runs, "WARM_UP_SECONDS", 0.01)


def read_report(result: ExportResult) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((result.report / "report.json").read_text())
    return content


def write_flat(folder: Path, count: int, seed: int) -> Path:
    """Crops of photographs as they lie, without classes."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(small_crops(count, seed)):
        cv2.imwrite(os.fspath(folder / f"{number:03}.png"), frame)
    return folder


def write_decided(bundle: Path, folder: Path, count: int, seed: int) -> Path:
    """Crops on which a model decides, in class folders of its own labels: its accuracy on them is 100 %."""
    frames = small_crops(4 * count, seed)
    written = 0
    with Classifier.load(bundle, backend="cpu", precision="fp32") as classifier:
        for number, (frame, found) in enumerate(zip(frames, classifier.predict(frames), strict=True)):
            first, second = sorted(found.probabilities, reverse=True)[:2]
            if first - second > DECIDED and written < count:
                target = folder / found.label
                target.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(os.fspath(target / f"{number:03}.png"), frame)
                written += 1
    assert written == count
    return folder


def small_crops(count: int, seed: int) -> list[Any]:
    """Crops of photographs as small files."""
    return [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in crops(count, seed)]
