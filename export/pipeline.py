"""Exports from end to end: a Keras model becomes checked ONNX artifacts, and those that pass their gates a bundle.

One export holds the bundle's lock. Artifacts are written first, under their hash; writing the manifest that names those
that passed is the one commit. The report follows it, so that no report speaks of a bundle that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import ParityError
from ..runtime.manifest import Manifest, Precision, Target, Variant
from ..runtime.preprocess import contract
from ..runtime.process import peak_mib
from .bundle.bundle_writer import BundleWriter, pack, provenance
from .bundle.golden_examples import Golden, keep_golden, make_golden
from .bundle.report import REPORT, ReportEntry, check_folder, fill_folder, withdraw_report
from .gates.speed import AgainstWider, against_wider
from .images import MINIMUM
from .plan import Artifact, plan_artifacts
from .quantize.measure import Measurement
from .quantize.prepare import prepare
from .request import ExportRequest
from .steps import Steps
from .variants import Candidate, VariantMaker

__all__ = ["ExportResult", "export"]


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        bundle: the bundle's folder.
        tar: the bundle as one file, if that was asked for.
        manifest: the bundle's manifest as it stands now; None where nothing passed and there was none.
        written: the names of the variants that this export wrote; others were there before.
        entries: every variant that was tried, also those refused.
        report: the folder with ``report.json`` and the contact sheets.
        seconds: how long each step took, by its name.
        peak_memory: the most memory that the process held, MiB.
    """

    bundle: Path
    tar: Path | None
    manifest: Manifest | None
    written: tuple[str, ...]
    entries: tuple[ReportEntry, ...]
    report: Path
    seconds: dict[str, float]
    peak_memory: float

    def require_passed(self) -> None:
        """Raise an error unless every variant passed its gate.

        Raises:
            ParityError: variants were refused; the message says which, and what is in the bundle. ``entries`` say why.
        """
        refused = [entry.name for entry in self.entries if entry.refused]
        if refused:
            held = [item.name for item in self.manifest.variants] if self.manifest else []
            earlier = [name for name in held if name not in self.written]
            stays = f"; of an earlier export it keeps {', '.join(earlier)}" if earlier else ""
            raise ParityError(
                f"{len(refused)} of {len(self.entries)} variants refused: {', '.join(refused)}; written to the bundle: "
                f"{', '.join(self.written) or 'nothing'}{stays}. Reasons and figures are in {self.report / REPORT}"
            )


def export(request: ExportRequest, *, tar: bool = False, steps: Steps | None = None) -> ExportResult:
    """Convert a model to ONNX, prove each artifact on real images, and write those that pass to the bundle.

    What a gate refuses is not in the bundle: see ``ExportResult.require_passed``.

    Args:
        request: what to export, from ``make_request``.
        tar: whether to pack the bundle into a tar too.
        steps: reports what is being done, and times it.

    Raises:
        ModelFileError: the file is not one that hybrid-train wrote, or it is damaged.
        ConversionError: a graph is not the one that was declared.
        CalibrationError: there is no image to calibrate on.
        ParityError: the Keras model itself gives NaN or infinity.
        BundleError: the bundle can't be written; the one that was there is unchanged.
    """
    steps = steps or Steps(quiet=True)
    with BundleWriter(request.out, lambda: steps.say("another export writes this bundle: waiting for it")) as writer:
        check_folder(request.report)
        job = _Export(request, writer, steps)
        manifest = job.run()
    packed = None
    if tar and manifest is not None:
        with steps.step("pack the bundle"):
            packed = pack(writer.path)
    return job.result(packed, manifest)


class _Export:
    """One export under way: what was prepared, and the variants tried so far."""

    def __init__(self, request: ExportRequest, writer: BundleWriter, steps: Steps) -> None:
        self._request = request
        self._writer = writer
        self._steps = steps
        self._settings = request.settings
        self._prepared = prepare(request, steps)
        self._candidates: list[Candidate] = []

    def run(self) -> Manifest | None:
        """Make, prove and commit; return the manifest, or None where nothing passed and no bundle was there."""
        golden = self._golden()
        maker = VariantMaker(self._writer, self._settings, self._prepared, golden, self._steps)
        artifacts = plan_artifacts(self._settings.precisions, self._settings.recurrent, self._prepared.spec)
        self._candidates = [candidate for artifact in artifacts for candidate in maker.make(artifact)]
        passed = self._time(maker, [item.variant for item in self._candidates if item.variant is not None])
        withdraw_report(self._request.report)
        manifest = self._commit(passed, golden) if passed else self._current()
        self._report(passed)
        return manifest

    def _current(self) -> Manifest | None:
        current = self._writer.current()
        return current.manifest if current else None

    def result(self, packed: Path | None, manifest: Manifest | None) -> ExportResult:
        """Put together what ``export`` returns."""
        written = tuple(item.entry.name for item in self._candidates if item.variant is not None)
        entries = tuple(item.entry for item in self._candidates)
        seconds = self._steps.seconds
        return ExportResult(
            self._writer.path, packed, manifest, written, entries, self._request.report, seconds, peak_mib()
        )

    def _golden(self) -> Golden:
        prepared = self._prepared
        with self._steps.step("record golden examples"):
            kept = keep_golden(self._writer, prepared.weights, prepared.spec)
            return kept or make_golden(self._writer, self._request.images.images[:MINIMUM], prepared.spec)

    def _time(self, maker: VariantMaker, variants: Sequence[Variant]) -> list[Variant]:
        """Time each variant against the next wider precision on this machine, and warn where it is slower."""
        timed: dict[str, AgainstWider] = {}
        for target in dict.fromkeys(item.target for item in variants if not item.parity.simulated):
            with self._steps.step(f"time the precisions for {target}"):
                files = self._files(maker, variants, target)
                found = against_wider(files, target, self._prepared.spec, self._settings.engine)
            names = {item.precision: item.name for item in reversed(variants) if item.target == target}
            timed |= {names[precision]: beside for precision, beside in found.items() if precision in names}
        noted = [_noted(item, timed[item.name]) if item.name in timed else item for item in variants]
        by_name = {item.name: item for item in noted}
        self._candidates = [item.renewed(by_name.get(item.entry.name)) for item in self._candidates]
        return noted

    def _files(self, maker: VariantMaker, variants: Sequence[Variant], target: Target) -> dict[Precision, Path]:
        """Find an artifact of each precision for a target; one in FP32 is made to compare with where there is none."""
        # the first of TensorRT's two forms stands for both: the device chooses between them
        own = [item for item in reversed(variants) if item.target == target]
        files = {item.precision: self._writer.path / item.file.path for item in own}
        if "fp32" not in files:
            planned = plan_artifacts(("fp32",), self._settings.recurrent, self._prepared.spec)
            form = next(item.recurrent for item in planned if target in item.targets)
            files["fp32"] = maker.write(Artifact("fp32", form, (target,)))
        return files

    def _report(self, passed: Sequence[Variant]) -> None:
        content: dict[str, Any] = {
            "bundle": str(self._request.out),
            "written": [item.name for item in passed],
            "method": self._settings.method,
            "seconds": self._steps.seconds,
        }
        measured = self._prepared.measurement
        if measured is not None:
            content |= _measured(measured)
        flips = {item.entry.name: item.flips for item in self._candidates}
        try:
            fill_folder(self._request.report, [item.entry for item in self._candidates], flips, content)
        except OSError as error:  # the bundle is whole, and what the report has is shown
            self._steps.say(f"the report can't be written: {error}", style="yellow")

    def _commit(self, passed: Sequence[Variant], golden: Golden) -> Manifest:
        names = {item.name for item in passed}
        manifest = Manifest(
            spec=self._prepared.spec,
            preprocessing=contract(self._prepared.spec),
            weights_sha256=self._prepared.weights,
            variants=(*passed, *(item for item in golden.kept if item.name not in names)),
            golden=golden.record,
            provenance=provenance(self._request.run, self._request.metrics),
        )
        with self._steps.step("commit the bundle"):
            self._writer.commit(manifest)
        return manifest


def _measured(measurement: Measurement) -> dict[str, Any]:
    """Put together what the report says of the activations."""
    calibration = measurement.calibration
    found = {name: item for name, item in (("fp16", measurement.half), ("int8", measurement.quantized)) if item}
    return {
        "calibration": {**measurement.record(), "ranges": calibration.reason if calibration else None},
        "stale_batch_norm": measurement.stale,
        "largest_activations": {name: dict(item.largest) for name, item in found.items()},
        "fp32_because_of_range": {name: sorted(item.wide) for name, item in found.items()},
    }


def _noted(variant: Variant, beside: AgainstWider) -> Variant:
    warnings = (*variant.warnings, *([beside.warning] if beside.warning else []))
    return variant.model_copy(update={"time_ratio": beside.ratio, "warnings": warnings})
