"""Makes the variants of a planned artifact, and judges each by its gate.

Artifact ──► graph in the bundle's folder ──► Proof on each target ──► TriedVariant ──► the same, timed
                    ▲                                   │
                    └── INT8 that is refused gives layers back
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import onnx

from ..runtime.backends.selection import MAX_SLOWDOWN
from ..runtime.errors import ConversionError, EngineError, Int8EngineError, ParityError
from ..runtime.guard.graph_guard import check_graph_bytes
from ..runtime.guard.onnx_file import GraphFaultError
from ..runtime.manifest import FileRecord, Precision, Target, Variant
from ..runtime.roofline import Cost
from .artifacts import UNCALIBRATED, Artifact, plan_artifacts
from .bundle.bundle_writer import BundleWriter, made_by
from .bundle.cost import measure_cost
from .bundle.golden_examples import Golden, add_arrays
from .bundle.report import ReportEntry
from .bundle.report_folder import flips_name
from .convert.fp32_graph import serialize
from .convert.inspection import count_operators, describe
from .explain.sensitivity import SENSITIVITY_IMAGES, measure_sensitivity, ranked_groups
from .export_request import ExportSettings
from .gates.comparison import Flip
from .gates.gate import SIMULATED_IMAGES
from .gates.hidden_states import hidden_drift
from .gates.simulation import SharedFeatures
from .gates.target_runs import AgainstWider, Proof, against_wider, prove, time_ratio
from .gates.verdict import GateLimits, require_passed
from .quantize.cpu_speed import one_image_at_a_time
from .quantize.prepared_model import PreparedModel
from .step_log import StepLog

# another CPU or engine rounds differently, by about as much as ONNX Runtime differs from Keras; another model differs
# from 1e-2 on in FP32, and a damaged one by far more than rounding costs in the others
GOLDEN_FACTOR = 10
GOLDEN_FLOOR = {"w8": 5e-3, "fp16": 5e-3, "int8": 2e-2}
GOLDEN_CEILING = 0.25
MB = 1e6


@dataclass(frozen=True)
class TriedVariant:
    """A variant after its gate; ``variant`` is None where it was refused, and ``tried`` says how it was judged.

    ``flips`` are the images whose first label is not Keras's. ``measured`` is what the report says of times and the
    bundle does not: the same model gives the same bundle, and no two runs take the same time.
    """

    tried: ReportEntry
    variant: Variant | None = None
    flips: tuple[Flip, ...] = ()
    measured: tuple[str, ...] = ()
    time_ratio: float | None = None

    @property
    def entry(self) -> ReportEntry:
        """What the report says of the variant as it stands."""
        if self.variant is None:
            return self.tried
        entry = ReportEntry.of(self.variant, flips=self.tried.flips, no_temperature=self.tried.no_temperature)
        return entry.model_copy(update={"warnings": (*entry.warnings, *self.measured), "time_ratio": self.time_ratio})

    def with_warning(self, warning: str, measured: Sequence[str] = ()) -> TriedVariant:
        """Return the same with one more warning in front of the others; a refused one stays as it is."""
        if self.variant is None:
            return self
        variant = self.variant.model_copy(update={"warnings": (warning, *self.variant.warnings)})
        return replace(self, variant=variant, measured=(*self.measured, *measured))

    def timed(self, beside: AgainstWider | None) -> TriedVariant:
        """Return the same with its time beside the next wider precision's; one that was not timed stays as it is."""
        if self.variant is None or beside is None:
            return self
        variant = self.variant.model_copy(update={"slower": beside.ratio > MAX_SLOWDOWN})
        measured = (*self.measured, *([beside.warning] if beside.warning else []))
        return replace(self, variant=variant, measured=measured, time_ratio=beside.ratio)


@dataclass(frozen=True)
class _Written:
    """A checked graph in the bundle's folder that no manifest refers to yet."""

    artifact: Artifact
    wider: tuple[str, ...]
    file: FileRecord
    opset: int
    ir_version: int
    operators: dict[str, int]
    branches: tuple[str, ...]
    cost: Cost
    drifts: tuple[float, ...] = field(default=())


class VariantMaker:
    """Makes the variants of one export, and writes them into the bundle's folder."""

    def __init__(
        self, writer: BundleWriter, settings: ExportSettings, prepared: PreparedModel, golden: Golden, log: StepLog
    ) -> None:
        self._writer = writer
        self._settings = settings
        self._prepared = prepared
        self._graphs = prepared.graphs
        self._reference = prepared.reference
        self._golden = golden
        self._log = log
        self._shared = SharedFeatures()

    def make(self, artifact: Artifact) -> list[TriedVariant]:
        """Write an artifact, run it for each of its targets, and judge it.

        INT8 that is refused may give layers back, a group at a time, the most sensitive first, until it passes.
        """
        first = found = self._try(artifact, ())
        if artifact.precision != "int8" or not self._settings.give_back or all(item.variant for item in first):
            return first
        wider: list[str] = []
        always = self._graphs.always_wide(artifact)
        for group in self._groups:
            if always.issuperset(group):
                continue
            if all(item.variant for item in found):
                break
            wider += group
            self._log.say(f"{artifact.title} is refused: {', '.join(group)} given back to a wider precision")
            found = self._try(artifact, wider)
        if not all(item.variant for item in found):
            return first  # it fails even without any INT8: the fault is not quantization's
        files = [self._write(artifact), self._write(artifact, wider)]
        ratio = time_ratio(files[0], files[1], artifact.targets[0], self._prepared.spec, self._settings.engine)
        time = [] if ratio is None else [f"with {', '.join(wider)} wider: {ratio:.2f} times the time of all in INT8"]
        return [item.with_warning(_gave_back(wider, first[0].entry, item.entry), time) for item in found]

    def time(self, variants: Sequence[Variant]) -> dict[str, AgainstWider]:
        """Time each variant against the next wider precision on this machine; return what was found by its name."""
        timings: dict[str, AgainstWider] = {}
        for target in dict.fromkeys(item.target for item in variants if not item.parity.simulated):
            # the first of TensorRT's two forms stands for both: the device chooses between them
            own = {item.precision: item for item in reversed(variants) if item.target == target}
            with self._log.step(f"time the precisions for {target}"):
                found = against_wider(self._files(own, target), target, self._prepared.spec, self._settings.engine)
            timings |= {own[precision].name: beside for precision, beside in found.items() if precision in own}
        return timings

    def _files(self, own: Mapping[Precision, Variant], target: Target) -> dict[Precision, Path]:
        """Find an artifact of each precision for a target; one in FP32 is made to compare with where there is none."""
        files = {precision: self._writer.path / item.file.path for precision, item in own.items()}
        if "fp32" not in files:
            planned = plan_artifacts(("fp32",), self._settings.recurrent, self._prepared.parts)
            form = next(item.recurrent for item in planned if target in item.targets)
            files["fp32"] = self._write(Artifact("fp32", form, (target,)))
        return files

    def _write(self, artifact: Artifact, wider: Sequence[str] = ()) -> Path:
        """Write an artifact's graph into the bundle's folder; what no manifest refers to is swept later."""
        return self._writer.path / self._add(artifact, self._graphs.write(artifact, wider)).path

    def _try(self, artifact: Artifact, wider: Sequence[str]) -> list[TriedVariant]:
        written = self._write_described(artifact, wider)
        limits = GateLimits.for_precision(artifact.precision, self._prepared.spec, self._settings.max_drop)
        count = len(self._reference) if "cpu" in artifact.targets else min(len(self._reference), SIMULATED_IMAGES)
        try:
            with self._log.step(f"gate {artifact.title}: {count} images", count) as advance:
                proofs = prove(
                    self._writer.path / written.file.path,
                    artifact,
                    self._reference,
                    self._golden,
                    limits,
                    options=self._settings.engine,
                    drifts=written.drifts,
                    shared=self._shared,
                    on_batch=advance,
                )
        except (ParityError, EngineError, Int8EngineError) as error:  # NaN, or no engine: there are no figures
            return [TriedVariant(self._refused(written, name, str(error))) for name in artifact.names.values()]
        return [self._judge(written, proof) for proof in proofs]

    @cached_property
    def _groups(self) -> list[tuple[str, ...]]:
        """The groups of layers, the most sensitive first; they are measured when the first variant asks."""
        form = "unrolled" if self._prepared.parts.recurrent else "none"
        count = len(self._graphs.parameters(form))
        with self._log.step(f"measure the sensitivity of {count} layers", count) as advance:
            paths = self._prepared.calibration_paths[:SENSITIVITY_IMAGES]
            return ranked_groups(measure_sensitivity(self._graphs, paths, on_layer=advance))

    def _write_described(self, artifact: Artifact, wider: Sequence[str]) -> _Written:
        with self._log.step(f"write {artifact.title}"):
            model = self._graphs.write(artifact, wider)
            file = self._add(artifact, model)
            versions = (model.opset_import[0].version, model.ir_version)
            facts = (*versions, count_operators(model), describe(model), measure_cost(model))
        with self._log.step(f"hidden state of {artifact.title}"):
            drifts = hidden_drift(model, self._reference.hidden, self._reference.batches)
        return _Written(artifact, tuple(wider), file, *facts, drifts)

    def _add(self, artifact: Artifact, model: onnx.ModelProto) -> FileRecord:
        if artifact.runs_integers_on_cpu:
            model = one_image_at_a_time(model)
        data = serialize(model)
        try:
            check_graph_bytes(data, self._prepared.spec)
        except GraphFaultError as error:
            raise ConversionError(f"expected a graph that devices accept ({artifact.title}), found {error}") from error
        return self._writer.add("artifacts", "onnx", data)

    def _judge(self, written: _Written, proof: Proof) -> TriedVariant:
        name = written.artifact.names[proof.target]
        flips = proof.flips
        sheet = flips_name(name) if flips else ""
        try:
            require_passed(proof.parity, name, stale=self._graphs.survey.stale)
        except ParityError as error:
            entry = self._refused(written, name, str(error))
            return TriedVariant(entry.model_copy(update={"parity": proof.parity, "flips": sheet}), flips=flips)
        variant = self._variant(written, proof)
        reason = proof.temperature if isinstance(proof.temperature, str) else ""
        return TriedVariant(ReportEntry.of(variant, flips=sheet, no_temperature=reason), variant, flips)

    def _variant(self, written: _Written, proof: Proof) -> Variant:
        artifact = written.artifact
        return Variant(
            name=artifact.names[proof.target],
            precision=artifact.precision,
            target=proof.target,
            recurrent=artifact.recurrent,
            file=written.file,
            opset=written.opset,
            ir_version=written.ir_version,
            operators=written.operators,
            made_by=made_by(),
            parity=proof.parity,
            calibration=self._calibration(written),
            branches=written.branches,
            cost=written.cost,
            warnings=self._warnings(artifact),
            temperature=None if isinstance(proof.temperature, str) else proof.temperature,
            golden=add_arrays(self._writer, dict(proof.golden)),
            golden_tolerance=_tolerance(artifact, proof),
        )

    def _calibration(self, written: _Written) -> dict[str, object] | None:
        record = self._prepared.record()
        if written.artifact.precision in UNCALIBRATED or record is None:
            return None
        if written.artifact.precision == "int8":
            record |= {"method": self._settings.method, "wider_layers": sorted(written.wider)}
        return record

    def _warnings(self, artifact: Artifact) -> tuple[str, ...]:
        if artifact.precision in UNCALIBRATED:
            return ()
        peaks = None if artifact.runs_integers_on_cpu else self._graphs.peaks(artifact.precision)
        return (*self._prepared.warnings, *(peaks.warnings if peaks else ()))

    def _refused(self, written: _Written, name: str, reason: str) -> ReportEntry:
        artifact = written.artifact
        return ReportEntry(
            name=name,
            precision=artifact.precision,
            targets=tuple(target for target, own in artifact.names.items() if own == name),
            recurrent=artifact.recurrent,
            size=written.file.size,
            branches=written.branches,
            operators=written.operators,
            warnings=self._warnings(artifact),
            refused=reason,
        )


def _gave_back(wider: Sequence[str], first: ReportEntry, last: ReportEntry) -> str:
    """Say which layers were given back, and what that cost in the artifact's size."""
    return (
        f"in a wider precision, without which the gate refused it: {', '.join(wider)}; "
        f"{last.size / MB:.1f} MB in place of {first.size / MB:.1f} MB"
    )


def _tolerance(artifact: Artifact, proof: Proof) -> float:
    """Return how far a device's probabilities may be from the recorded ones: by rounding steps, not another model."""
    parity = proof.parity
    if parity.probability_limit is not None:
        return GOLDEN_FACTOR * parity.probability_limit
    return min(max(GOLDEN_FLOOR[artifact.precision], parity.max_probability_error), GOLDEN_CEILING)
