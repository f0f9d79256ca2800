"""A bundle's manifest says what its files are, how they were made, and what they must give on golden examples.

A bundle is a folder (or one tar of it) holding ``manifest.json``, ``artifacts/SHA256.onnx``, ``golden/SHA256.png`` and
``golden/SHA256.npz``. Every file but the manifest is named by its SHA-256, so replacing ``manifest.json`` is the one
commit point.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from reprlib import repr as short
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from .errors import ArtifactHashError, BundleError
from .roofline import Cost
from .spec import Label, ModelSpec, describe_faults

MANIFEST = "manifest.json"
FORMAT_VERSION = 3  # the newest that is read; a bundle is of the oldest whose readers know its spec and precisions
PRECISIONS_FORMAT = 3  # the first that knows ``w8``
MAX_MANIFEST_SIZE = 2**22  # 4 MiB; a real one is some tens of KiB, also with a thousand class labels
MAX_FILE_SIZE = 2**31  # bytes; protobuf's limit for one message, which a graph is
MAX_EXAMPLES = 64  # an export writes 8
MAX_VARIANTS = 64
MAX_VERSION = 1000  # of ONNX's format and operators, which count from 1
MAX_TOLERANCE = 0.25  # the widest that an export writes, for INT8; beyond it the check would pass another model

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0  # beyond them no classifier of any use lies
# the manifest's last member: the SHA-256 of the manifest's bytes with zeros in the place of its 64 digits
CHECKSUM = "checksum"
NO_CHECKSUM = b"0" * 64
LAST_TEXT = re.compile(rb'"([^"]*)"\s*:\s*"([^"]*)"\s*\}\s*\Z')
TAIL = 400  # bytes at the end in which it is looked for

Precision = Literal["fp32", "w8", "fp16", "int8"]  # widest first; ``w8`` is FP32 with recurrent weights of 8 bits
Target = Literal["tensorrt", "cuda", "cpu"]
RecurrentForm = Literal["lstm", "unrolled", "none"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# relative, at most one folder deep, no dot at a name's start: nothing can point outside the bundle
RelativePath = Annotated[str, Field(max_length=160, pattern=r"^(?:[A-Za-z0-9_-]+/)?[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
# the names of files and of Triton's folders are made of it: no slash, no dot at its start
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sentence = Annotated[str, Field(max_length=4096)]


class _ManifestRecord(BaseModel):
    # a later minor version may add fields; validators are built when first used, so that importing is faster
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class FileRecord(_ManifestRecord):
    """A file of the bundle: its path inside, its size in bytes and its SHA-256."""

    path: RelativePath
    size: int = Field(ge=0, lt=MAX_FILE_SIZE)
    sha256: Sha256


def _named_onnx(record: FileRecord) -> FileRecord:
    if not record.path.endswith(".onnx"):  # ONNX Runtime reads files of other names as other formats
        raise ValueError("an artifact's path ends in .onnx")
    return record


GraphFile = Annotated[FileRecord, AfterValidator(_named_onnx)]


class Check(NamedTuple):
    """One figure of a gate: what was found, its limit, and on which side of it the figure must be."""

    name: str
    found: float
    limit: float
    at_most: bool = True

    @property
    def passed(self) -> bool:
        """Whether the figure is within its limit; NaN is within none."""
        return self.found <= self.limit if self.at_most else self.found >= self.limit


class Accuracy(_ManifestRecord):
    """Top-1 accuracy of Keras and of the variant on the same labelled images, 0 to 1.

    ``drop`` is Keras's minus the variant's; ``drop_low`` and ``drop_high`` are its paired 95 % interval.
    """

    keras: float
    variant: float
    drop: float
    drop_low: float
    drop_high: float
    max_drop: float | None = None


class Parity(_ManifestRecord):
    """How far a variant's outputs are from the Keras model's, on real images; a figure without a limit is not judged.

    ``max_logit_error`` is max |difference| / max |logit|. ``batch_error`` is the largest difference between the same
    rows in batches of different sizes, ``neighbour_error`` that between the same row beside other rows, both relative
    to max |logit| too. ``sequence_error`` is the largest difference between the preprocessing's ``sequence`` and the
    Keras model's own. ``confident_agreement`` is over the images on which Keras's first two probabilities are more than
    0.1 apart; ``top5_overlap`` is the mean share of common labels among the first five; ``hidden_drift`` is for each
    timestep the RMS difference of the last LSTM's hidden state over its RMS. ``simulated`` says that the figures were
    measured on a CPU in place of the variant's target.
    """

    images: int
    simulated: bool = False
    max_logit_error: float
    logit_limit: float | None = None
    max_probability_error: float
    mean_probability_error: float
    probability_limit: float | None = None
    top1_agreement: float
    agreement_limit: float | None = None
    confident_images: int = 0
    confident_agreement: float | None = None
    confident_limit: float | None = None
    top5_overlap: float | None = None
    accuracy: Accuracy | None = None
    flips: int = 0
    hidden_drift: tuple[float, ...] = ()
    batch_error: float
    batch_limit: float | None = None
    neighbour_error: float | None = None
    neighbour_limit: float | None = None
    sequence_error: float | None = None
    sequence_limit: float | None = None
    measured_on: Sentence
    warnings: tuple[Sentence, ...] = ()

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every figure that has a limit."""
        logits, rows = "max |difference| / max |logit|", "the same row"
        drop = (self.accuracy.drop, self.accuracy.max_drop) if self.accuracy else (None, None)
        figures: tuple[tuple[str, float | None, float | None, bool], ...] = (
            (f"logits, {logits}", self.max_logit_error, self.logit_limit, True),
            ("probabilities, max |difference|", self.max_probability_error, self.probability_limit, True),
            ("top-1 agreement", self.top1_agreement, self.agreement_limit, False),
            ("top-1 agreement where the margin is above 0.1", self.confident_agreement, self.confident_limit, False),
            ("accuracy drop", *drop, True),
            (f"{rows}s in batches of 1, 3 and 8, {logits}", self.batch_error, self.batch_limit, True),
            (f"{rows} beside other rows, {logits}", self.neighbour_error, self.neighbour_limit, True),
            ("sequence, max |difference|", self.sequence_error, self.sequence_limit, True),
        )
        return tuple(
            Check(name, found, limit, at_most)
            for name, found, limit, at_most in figures
            if found is not None and limit is not None
        )

    @property
    def passed(self) -> bool:
        """Whether every figure that has a limit is within it."""
        return all(check.passed for check in self.checks)


class ReliabilityBin(_ManifestRecord):
    """The images whose top-1 probability lies in one bin: how many, their mean top-1 probability, their accuracy.

    Both are 0 to 1, and 0 where there is no image.
    """

    images: int = Field(ge=0)
    confidence: float
    accuracy: float


class Temperature(_ManifestRecord):
    """What a variant's logits are divided by so that its probabilities are as often right as they say.

    ``value`` was fitted on all of the ``images``. ``error_before`` is the expected calibration error of the
    probabilities as they are, ``error_after`` that with a temperature fitted on other images: each half of them is
    judged with the other half's. Both are 0 to 1, of 15 bins of equal width (C. Guo et al., On Calibration of Modern
    Neural Networks, ICML 2017), from the lowest up in ``before`` and ``after``.
    """

    value: float = Field(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)
    images: int = Field(gt=0)
    error_before: float
    error_after: float
    before: tuple[ReliabilityBin, ...] = ()
    after: tuple[ReliabilityBin, ...] = ()


class Variant(_ManifestRecord):
    """One artifact for one target: its precision, its form of the recurrent branch, its making and its parity.

    Two variants may share a file: FP32 is one graph for every target. ``branches`` says in which precision each branch
    really runs; ``cpu_features`` names instructions of which the CPU must have one, or the variant is not to be run
    (in older bundles alone: weights don't saturate any more).
    ``cost`` is what an inference must compute and move at least; None in bundles from before it was recorded.
    ``slower`` says that it took clearly longer than the next wider precision, one image at a time, where it was
    exported: the times themselves, which no two exports have alike, are in the report. Older bundles have their ratio,
    ``time_ratio``, in its place. ``temperature`` is what ``--calibrated`` takes; None in older bundles, and where there
    were too few labelled images to fit one.
    """

    name: VariantName
    precision: Precision
    target: Target
    recurrent: RecurrentForm
    file: GraphFile
    opset: int = Field(ge=1, le=MAX_VERSION)
    ir_version: int = Field(ge=1, le=MAX_VERSION)
    operators: dict[Label, Annotated[int, Field(ge=0, lt=MAX_FILE_SIZE)]]
    made_by: dict[Label, Label]
    parity: Parity
    calibration: dict[str, Any] | None = None
    branches: tuple[Sentence, ...] = ()
    cost: Cost | None = None
    slower: bool = False
    time_ratio: float | None = Field(default=None, gt=0)
    temperature: Temperature | None = None
    cpu_features: tuple[Label, ...] = ()
    warnings: tuple[Sentence, ...] = ()
    golden: FileRecord = Field(description="npz: logits (G, C) and probabilities (G, C), float32")
    golden_tolerance: float = Field(
        gt=0, le=MAX_TOLERANCE, description="largest |difference| of a probability that a device may show"
    )


class GoldenImage(_ManifestRecord):
    """A golden example: a PNG and its class, empty where the image came without one."""

    file: FileRecord
    label: Label | Literal[""]


class GoldenRecord(_ManifestRecord):
    """The examples by which a device checks itself."""

    images: tuple[GoldenImage, ...] = Field(max_length=MAX_EXAMPLES)
    tensors: FileRecord = Field(description="npz: image (G, S, S, 3) and/or sequence (G, T, S*S/T), float32")


class Provenance(_ManifestRecord):
    """Where a bundle comes from; nothing of it is needed to run the bundle."""

    created: Label
    hybrid_edge: Label
    run: Sentence = ""
    packages: dict[Label, Label] = Field(default_factory=dict)
    metrics: dict[Label, float] = Field(default_factory=dict)


class Manifest(_ManifestRecord):
    """The content of ``manifest.json``."""

    format: Literal["hybrid-edge-bundle"] = "hybrid-edge-bundle"
    format_version: int = 1
    spec: ModelSpec
    preprocessing: dict[str, Any]
    weights_sha256: Sha256
    variants: tuple[Variant, ...] = Field(min_length=1, max_length=MAX_VARIANTS)
    golden: GoldenRecord
    provenance: Provenance

    @property
    def files(self) -> dict[str, FileRecord]:
        """Every file that the manifest refers to, by its path."""
        records = [self.golden.tensors, *(item.file for item in self.golden.images)]
        for variant in self.variants:
            records += [variant.file, variant.golden]
        return {record.path: record for record in records}


def oldest_format(spec: ModelSpec, variants: Iterable[Variant]) -> int:
    """Return the first version of the format whose readers know a spec and the precisions of all variants."""
    return max(spec.format_version, PRECISIONS_FORMAT if any(item.precision == "w8" for item in variants) else 1)


def sealed(manifest: Manifest) -> bytes:
    """Return the bytes of a ``manifest.json``, which end with their own checksum.

    Older versions of hybrid-edge read them too: they pass over the field.
    """
    content = manifest.model_dump_json(indent=2).removesuffix("\n}")
    start, end = f'{content},\n  "{CHECKSUM}": "'.encode(), b'"\n}\n'
    return start + hashlib.sha256(start + NO_CHECKSUM + end).hexdigest().encode() + end


def parse_manifest(data: bytes, name: str = MANIFEST) -> Manifest:
    """Validate the JSON text of a ``manifest.json``, which error messages call ``name``.

    Raises:
        BundleError: the manifest is too large, not hybrid-edge's, malformed, or of a newer format version.
        ArtifactHashError: it differs from its own checksum.
    """
    if len(data) > MAX_MANIFEST_SIZE:
        raise BundleError(f"{name}: expected a manifest of at most {MAX_MANIFEST_SIZE} bytes, found {len(data)}")
    try:
        _check_format(name, _Head.model_validate_json(data))
        _check_seal(name, data)
        manifest = Manifest.model_validate_json(data)
    except ValueError as error:
        faults = describe_faults(error) if isinstance(error, ValidationError) else error
        raise BundleError(
            f"{name}: expected a hybrid-edge manifest, found: {faults}; copy or export the bundle again"
        ) from None
    if not manifest.spec.class_labels or not manifest.golden.images:
        missing = "golden examples" if manifest.spec.class_labels else "class labels"
        raise BundleError(f"{name}: expected at least one of {missing}, found none; export the bundle again")
    return manifest


class _Head(_ManifestRecord):
    """What is read first, as all else may differ in a newer format; the rest is passed over."""

    format: Any = None
    format_version: Any = None


def _check_format(name: str, head: _Head) -> None:
    if head.format != "hybrid-edge-bundle":
        raise BundleError(
            f"{name}: expected format 'hybrid-edge-bundle', found {short(head.format)}; name the bundle's folder or "
            "tar with --bundle"
        )
    version = head.format_version
    if not isinstance(version, int) or version < 1:
        raise BundleError(
            f"{name}: expected a format version from 1 on, found {short(version)}; export the bundle again"
        )
    if version > FORMAT_VERSION:
        found = version if version < 10**6 else "a higher one"
        raise BundleError(
            f"{name}: expected format version {FORMAT_VERSION} or older, found {found}, made by a newer hybrid-edge; "
            "upgrade here (pip install -U hybrid-edge), or export the bundle again with this version"
        )


def _check_seal(name: str, data: bytes) -> None:
    """Compare a manifest with its checksum; one of an older version, which ends with an object, has none.

    A text at the end under any other name is a checksum whose name was damaged.
    """
    last = LAST_TEXT.search(data, max(len(data) - TAIL, 0))
    if last is None:
        return
    start, end = last.span(2)
    digest = hashlib.sha256(data[:start] + NO_CHECKSUM + data[end:]).hexdigest()
    if last[1] != CHECKSUM.encode() or last[2] != digest.encode():
        raise ArtifactHashError(
            f"{name}: differs from its own checksum: damaged, or changed after its export; copy the bundle again, or "
            "export it again with hybrid-export"
        )
