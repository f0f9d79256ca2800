"""Makes the variants of a planned artifact, and judges each by its gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from ..runtime.errors import EngineError, Int8EngineError, ParityError
from ..runtime.manifest import FileRecord, Variant
from ..runtime.roofline import Cost
from .bundle.bundle_writer import BundleWriter, made_by
from .bundle.cost import measure_cost
from .bundle.golden_examples import Golden, add_arrays
from .bundle.report import ReportEntry, flips_name
from .convert.build import serialize
from .convert.check import count_operators
from .convert.describe import describe
from .explain.sensitivity import SENSITIVITY_IMAGES, measure_sensitivity, ranked_groups
from .gates.compare import Flip
from .gates.gate import SIMULATED_IMAGES, Limits
from .gates.prove import Proof, drift, prove
from .gates.speed import time_ratio
from .gates.verdict import require
from .plan import Artifact
from .quantize.each_image import each_image
from .quantize.prepare import Prepared
from .settings import ExportSettings
from .steps import Steps

__all__ = ["Candidate", "VariantMaker", "gave_back"]

# another CPU or engine rounds differently, by about as much as ONNX Runtime differs from Keras; another model differs
# from 1e-2 on in FP32, and a damaged one by far more than rounding costs in the others
GOLDEN_FACTOR = 10
GOLDEN_FLOOR = {"fp16": 5e-3, "int8": 2e-2}
GOLDEN_CEILING = 0.25
MB = 1e6


@dataclass(frozen=True)
class Candidate:
    """A variant that was tried: its entry for the report, its flipped images, and if it passed, itself."""

    entry: ReportEntry
    variant: Variant | None = None
    flips: tuple[Flip, ...] = ()

    def with_warning(self, warning: str) -> Candidate:
        """Return the candidate with one more warning in front of the others; a refused one stays as it is."""
        if self.variant is None:
            return self
        return self.renewed(self.variant.model_copy(update={"warnings": (warning, *self.variant.warnings)}))

    def renewed(self, variant: Variant | None) -> Candidate:
        """Return the candidate with ``variant`` in place of its own; with None it stays as it is."""
        if variant is None:
            return self
        return replace(self, entry=ReportEntry.of(variant, flips=self.entry.flips), variant=variant)


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
    drifts: tuple[float, ...]


class VariantMaker:
    """Makes the variants of one export.

    Args:
        writer: the writer of the bundle.
        settings: the export's settings.
        prepared: the model, Keras's answers, and what was measured.
        golden: the bundle's golden examples.
        steps: reports what is being done.
    """

    def __init__(
        self, writer: BundleWriter, settings: ExportSettings, prepared: Prepared, golden: Golden, steps: Steps
    ) -> None:
        self._writer = writer
        self._settings = settings
        self._lowering = prepared.lowering
        self._reference = prepared.reference
        self._measurement = prepared.measurement
        self._golden = golden
        self._steps = steps
        self._calibration_paths = prepared.calibration_paths
        self._ranked: list[tuple[str, ...]] | None = None

    def write(self, artifact: Artifact, wider: Sequence[str] = ()) -> Path:
        """Write an artifact's graph into the bundle's folder; what no manifest refers to is swept later."""
        return self._writer.path / self._add(artifact, self._lowering.write(artifact, wider)).path

    def make(self, artifact: Artifact) -> list[Candidate]:
        """Write an artifact, run it for each of its targets, and judge it.

        INT8 that is refused may give layers back, a group at a time, the most sensitive first, until it passes.

        Raises:
            ConversionError: the graph is not the one that was declared.
            BundleError: the graph can't be written.
        """
        first = candidates = self._try(artifact, ())
        if artifact.precision != "int8" or not self._settings.give_back or all(item.variant for item in first):
            return first
        wider: list[str] = []
        always = self._lowering.always_wide(artifact)
        for group in self._groups():
            if always.issuperset(group):
                continue
            if all(item.variant for item in candidates):
                break
            wider += group
            self._steps.say(f"{artifact.title} is refused: {', '.join(group)} given back to a wider precision")
            candidates = self._try(artifact, wider)
        if not all(item.variant for item in candidates):
            return first  # it fails even without any INT8: the fault is not quantization's
        ratio = self._time(artifact, wider)
        return [item.with_warning(gave_back(wider, first[0].entry, item.entry, ratio)) for item in candidates]

    def _time(self, artifact: Artifact, wider: Sequence[str]) -> float | None:
        """Time how much longer the artifact takes with wider layers; None where its target is not on this machine."""
        files = [self.write(artifact), self.write(artifact, wider)]
        return time_ratio(files[0], files[1], artifact.targets[0], self._reference.spec, self._settings.engine)

    def _try(self, artifact: Artifact, wider: Sequence[str]) -> list[Candidate]:
        written = self._write(artifact, wider)
        limits = Limits.for_precision(artifact.precision, self._reference.spec, self._settings.max_drop)
        count = len(self._reference) if "cpu" in artifact.targets else min(len(self._reference), SIMULATED_IMAGES)
        try:
            with self._steps.step(f"gate {artifact.title}: {count} images", count) as advance:
                proofs = prove(
                    self._writer.path / written.file.path,
                    artifact,
                    self._reference,
                    self._golden,
                    limits,
                    options=self._settings.engine,
                    drifts=written.drifts,
                    on_batch=advance,
                )
        except (ParityError, EngineError, Int8EngineError) as error:  # NaN, or no engine: there are no figures
            return [Candidate(self._entry(written, name, str(error))) for name in artifact.names.values()]
        return [self._judge(written, proof) for proof in proofs]

    def _groups(self) -> list[tuple[str, ...]]:
        """Return the groups of layers, the most sensitive first; they are measured when the first variant asks."""
        if self._ranked is None:
            form = "unrolled" if self._reference.spec.uses_rnn else "none"
            count = len(self._lowering.parameters(form))
            with self._steps.step(f"measure the sensitivity of {count} layers", count) as advance:
                paths = self._calibration_paths[:SENSITIVITY_IMAGES]
                found = measure_sensitivity(self._lowering, paths, self._reference.spec, on_layer=advance)
            self._ranked = ranked_groups(found)
        return self._ranked

    def _write(self, artifact: Artifact, wider: Sequence[str]) -> _Written:
        with self._steps.step(f"write {artifact.title}"):
            model = self._lowering.write(artifact, wider)
            file = self._add(artifact, model)
            versions = (model.opset_import[0].version, model.ir_version)
            facts = (*versions, count_operators(model), describe(model), measure_cost(model))
        with self._steps.step(f"hidden state of {artifact.title}"):
            return _Written(artifact, tuple(wider), file, *facts, drift(model, self._reference))

    def _add(self, artifact: Artifact, model: onnx.ModelProto) -> FileRecord:
        if artifact.runs_integers_on_cpu:
            model = each_image(model)
        return self._writer.add("artifacts", "onnx", serialize(model))

    def _judge(self, written: _Written, proof: Proof) -> Candidate:
        name = written.artifact.names[proof.target]
        flips = proof.measured.flips
        sheet = flips_name(name) if flips else ""
        stale = self._measurement.stale if self._measurement else None
        try:
            require(proof.parity, name, stale=stale)
        except ParityError as error:
            entry = self._entry(written, name, str(error))
            return Candidate(entry.model_copy(update={"parity": proof.parity, "flips": sheet}), flips=flips)
        variant = self._variant(written, proof)
        return Candidate(ReportEntry.of(variant, flips=sheet), variant, flips)

    def _variant(self, written: _Written, proof: Proof) -> Variant:
        artifact, parity = written.artifact, proof.parity
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
            parity=parity,
            calibration=self._calibration(written),
            branches=written.branches,
            cost=written.cost,
            warnings=self._warnings(artifact),
            golden=add_arrays(self._writer, dict(proof.golden)),
            golden_tolerance=_tolerance(artifact, proof),
        )

    def _calibration(self, written: _Written) -> dict[str, object] | None:
        if written.artifact.precision == "fp32" or self._measurement is None:
            return None
        record = self._measurement.record()
        if written.artifact.precision == "int8":
            record |= {"method": self._settings.method, "wider_layers": sorted(written.wider)}
        return record

    def _warnings(self, artifact: Artifact) -> tuple[str, ...]:
        if artifact.precision == "fp32" or self._measurement is None:
            return ()
        activations = self._measurement.activations(artifact.precision)
        half = () if artifact.runs_integers_on_cpu or activations is None else activations.warnings
        return (*self._measurement.warnings, *half)

    def _entry(self, written: _Written, name: str, refused: str) -> ReportEntry:
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
            refused=refused,
        )


def gave_back(wider: Sequence[str], first: ReportEntry, last: ReportEntry, ratio: float | None) -> str:
    """Say what giving layers back cost: the artifact's size and, where its target is on this machine, its time."""
    time = "" if ratio is None else f", and {ratio:.2f} times the time of all of them in INT8"
    return (
        f"in a wider precision, without which the gate refused it: {', '.join(wider)}; "
        f"{last.size / MB:.1f} MB in place of {first.size / MB:.1f} MB{time}"
    )


def _tolerance(artifact: Artifact, proof: Proof) -> float:
    """Return how far a device's probabilities may be from the recorded ones: by rounding steps, not another model."""
    parity = proof.parity
    if parity.probability_limit is not None:
        return GOLDEN_FACTOR * parity.probability_limit
    return min(max(GOLDEN_FLOOR[artifact.precision], parity.max_probability_error), GOLDEN_CEILING)
