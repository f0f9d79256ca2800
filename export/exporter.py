"""Exports from end to end: a Keras model becomes checked ONNX artifacts, and those that pass their gates a bundle.

    ExportRequest ──► PreparedModel ──► Artifacts ──► TriedVariants ──► timed ──► manifest.json ──► report

One export holds the bundle's lock. Artifacts are written first, under their hash; writing the manifest that names those
that passed is the one commit. The report follows it, so that no report speaks of a bundle that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import ParityError
from ..runtime.manifest import Manifest, Variant, oldest_format
from ..runtime.preprocess import contract
from ..runtime.process import peak_mib
from ..runtime.trust import check_key
from .artifacts import plan_artifacts
from .bundle.bundle_writer import BundleWriter, provenance
from .bundle.golden_examples import Golden, keep_golden, make_golden
from .bundle.publish import Published, publish
from .bundle.report import ReportEntry
from .bundle.report_folder import REPORT, check_folder, fill_folder, withdraw_report
from .export_request import MIN_IMAGES, ExportRequest
from .quantize.prepared_model import PreparedModel, prepare
from .step_log import StepLog
from .variant_maker import TriedVariant, VariantMaker


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        published: the bundle's fingerprint and, where they were asked for, its tar and its signature; None where there
            is no bundle.
        manifest: the bundle's manifest as it stands now; None where nothing passed and there was none.
        written: the names of the variants that this export wrote; others were there before.
        entries: every variant that was tried, also those refused.
        report: the folder with ``report.json`` and the contact sheets.
        seconds: how long each step took, by its name.
        peak_memory: the most memory that the process held, MiB.
    """

    bundle: Path
    published: Published | None
    manifest: Manifest | None
    written: tuple[str, ...]
    entries: tuple[ReportEntry, ...]
    report: Path
    seconds: dict[str, float]
    peak_memory: float

    def require_passed(self) -> None:
        """Raise ParityError unless every variant passed; it says which were refused, and what is in the bundle."""
        refused = [entry.name for entry in self.entries if entry.refused]
        if refused:
            held = [item.name for item in self.manifest.variants] if self.manifest else []
            earlier = [name for name in held if name not in self.written]
            stays = f"; of an earlier export it keeps {', '.join(earlier)}" if earlier else ""
            raise ParityError(
                f"{len(refused)} of {len(self.entries)} variants refused: {', '.join(refused)}; written to the bundle: "
                f"{', '.join(self.written) or 'nothing'}{stays}. Reasons and figures are in {self.report / REPORT}"
            )


def export(
    request: ExportRequest, *, tar: bool = False, key: str | None = None, log: StepLog | None = None
) -> ExportResult:
    """Convert a model to ONNX, prove each artifact on real images, and write those that pass to the bundle.

    What a gate refuses is not in the bundle: see ``ExportResult.require_passed``. With ``tar`` the bundle is packed
    too, with ``key`` signed: see ``publish``.

    Raises:
        ModelFileError: the file is not one that hybrid-train wrote, or it is damaged.
        ConversionError: a graph is not the one that was declared.
        CalibrationError: there is no image to calibrate on.
        ParityError: the Keras model itself gives NaN or infinity.
        BundleError: the bundle can't be written; the one that was there is unchanged.
        UsageError: the key can't be used.
    """
    if key is not None:
        check_key(key)
    log = log or StepLog(quiet=True)
    with BundleWriter(request.out, lambda: log.say("another export writes this bundle: waiting for it")) as writer:
        check_folder(request.report)
        prepared = prepare(request, log)
        golden = _record_golden(request, writer, prepared, log)
        tried = _try_variants(request, writer, prepared, golden, log)
        passed = [item.variant for item in tried if item.variant is not None]
        withdraw_report(request.report)
        if passed:
            _commit(request, writer, prepared, golden, passed, log)
        current = writer.current()
        manifest = current.manifest if current else None
        _report(request, prepared, tried, log)
    published = None
    if manifest is not None:
        with log.step("publish the bundle"):
            published = publish(writer.path, key=key, tar=tar)
    return ExportResult(
        bundle=writer.path,
        published=published,
        manifest=manifest,
        written=tuple(item.name for item in passed),
        entries=tuple(item.entry for item in tried),
        report=request.report,
        seconds=log.seconds,
        peak_memory=peak_mib(),
    )


def _record_golden(request: ExportRequest, writer: BundleWriter, prepared: PreparedModel, log: StepLog) -> Golden:
    with log.step("record golden examples"):
        kept = keep_golden(writer, prepared.weights, prepared.spec)
        return kept or make_golden(writer, request.images.images[:MIN_IMAGES], prepared.spec)


def _try_variants(
    request: ExportRequest, writer: BundleWriter, prepared: PreparedModel, golden: Golden, log: StepLog
) -> list[TriedVariant]:
    settings = request.settings
    maker = VariantMaker(writer, settings, prepared, golden, log)
    artifacts = plan_artifacts(settings.precisions, settings.recurrent, prepared.parts)
    judged = [item for artifact in artifacts for item in maker.make(artifact)]
    timings = maker.time([item.variant for item in judged if item.variant is not None])
    return [item.timed(timings.get(item.tried.name)) for item in judged]


def _commit(
    request: ExportRequest,
    writer: BundleWriter,
    prepared: PreparedModel,
    golden: Golden,
    passed: Sequence[Variant],
    log: StepLog,
) -> None:
    names = {item.name for item in passed}
    variants = (*passed, *(item for item in golden.kept if item.name not in names))
    manifest = Manifest(
        format_version=oldest_format(prepared.spec, variants),
        spec=prepared.spec,
        preprocessing=contract(prepared.spec),
        weights_sha256=prepared.weights,
        variants=variants,
        golden=golden.record,
        provenance=provenance(request.model, request.run, request.metrics),
    )
    with log.step("commit the bundle"):
        writer.commit(manifest)


def _report(request: ExportRequest, prepared: PreparedModel, tried: Sequence[TriedVariant], log: StepLog) -> None:
    content: dict[str, Any] = {
        "bundle": str(request.out),
        "written": [item.variant.name for item in tried if item.variant is not None],
        "method": request.settings.method,
        "seconds": log.seconds,
        **_measured(prepared),
    }
    flips = {item.tried.name: item.flips for item in tried}
    try:
        fill_folder(request.report, [item.entry for item in tried], flips, content)
    except OSError as error:  # the bundle is whole, and what the report has is shown
        log.say(f"the report can't be written: {error}", style="yellow")


def _measured(prepared: PreparedModel) -> dict[str, Any]:
    record, calibration = prepared.record(), prepared.calibration
    content: dict[str, Any] = {"adoption": dict(prepared.adoption)} if prepared.adoption else {}
    if record is None:
        return content
    peaks = {name: found for name in ("fp16", "int8") if (found := prepared.graphs.peaks(name))}
    return content | {
        "calibration": {**record, "ranges": calibration.reason if calibration else None},
        "stale_batch_norm": prepared.graphs.survey.stale,
        "largest_activations": {name: dict(item.largest) for name, item in peaks.items()},
        "fp32_because_of_range": {name: sorted(item.wide) for name, item in peaks.items()},
    }
