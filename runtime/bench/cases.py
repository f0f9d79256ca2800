"""Say what is to be measured, open the variants that run here, and make a case of each variant at each batch size."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from ..backends import Selection, open_variant
from ..bundle import Bundle
from ..classifier import Classifier
from ..engines.engine_options import EngineOptions
from ..engines.progress import Reporter
from ..errors import BackendError, BackendUnavailableError, BundleError, GateError, UsageError
from ..golden import check_golden
from ..manifest import Precision, Target, Variant
from ..preprocess import Preprocessor
from ..roofline import Limit, Rates, limit_of, rates_of
from ..timing import Milliseconds
from ..trust import Trust
from .bench_report import NO_COST, Case, Stats

MAX_BATCH = 4096  # more is a typing error: the reference model's inputs alone would be 5 GiB
MAX_SECONDS = 86_400  # a day for each part of each case: more is a typing error
MAX_ROUNDS = 10_000
MAX_STARTS = 1_000
FRAME_SIZE = (720, 1280)  # height and width of the frames, pixels: a common camera's


@dataclass(frozen=True)
class BenchRequest:
    """Name a bundle, what of it to measure, and for how long.

    Attributes:
        bundle: a bundle's folder or tar, or a run folder; None looks in the usual places.
        trust: what the bundle must be to be opened.
        batches: the numbers of frames that go through the model at once, each a case of its own.
        backends, precisions, variants: measure only these; empty means all. One that is named and can't run here is an
            error; one that is not named and can't is left out, with the reason.
        seconds: how long each part of a case (inference, preprocess, whole, copies) is measured, all rounds together.
        rounds: the number of bursts that this time is divided into.
        warm_up: seconds for which each case runs before anything counts.
        threads: CPU threads for one batch; None leaves the number to the engine.
        seed: the seed of the order of the cases in a round.
        probe: whether to measure this CPU's peak rates, for the limit beside its numbers.
        rates: the device whose published rates give the limit beside the numbers of its targets, a GPU's mostly; None
            for no limit there. On the CPU, measured rates are taken before published ones.
        starts: the number of fresh processes for each variant, for memory and the time to the first prediction.
        profile: a TensorRT engine's batch sizes as they were given; None takes those of ``hybrid-infer``, and so its
            engine. Larger batches are split.

    Raises:
        UsageError: a value makes no sense.
    """

    bundle: Path | str | None = None
    trust: Trust = field(default_factory=Trust)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    seconds: float = 2.0
    rounds: int = 12
    warm_up: float = 0.5
    threads: int | None = None
    seed: int = 0
    probe: bool = False
    rates: str | None = None
    starts: int = 3
    profile: str | None = None

    def __post_init__(self) -> None:
        listed = ",".join(map(str, self.batches)) or "none"
        if not self.batches or not all(1 <= batch <= MAX_BATCH for batch in self.batches):
            raise UsageError(f"expected batch sizes from 1 to {MAX_BATCH}, found {listed}")
        if len(set(self.batches)) != len(self.batches):
            raise UsageError(f"expected each batch size once, found {listed}")
        if not 0 < self.seconds <= MAX_SECONDS or not 0 <= self.warm_up <= MAX_SECONDS:
            raise UsageError(
                f"expected more than 0 seconds, no negative warm-up, and neither over {MAX_SECONDS}, found "
                f"{self.seconds} and {self.warm_up}"
            )
        if not 1 <= self.rounds <= MAX_ROUNDS or not 0 <= self.starts <= MAX_STARTS:
            raise UsageError(
                f"expected 1 to {MAX_ROUNDS} rounds and 0 to {MAX_STARTS} starts, found {self.rounds} and {self.starts}"
            )


@dataclass(frozen=True)
class BenchProgress:
    """The functions that are told how far the work is.

    ``begin`` gets the name and the number of steps of a part of the work when that begins; ``step`` is called after
    each step, outside of what is timed. ``reporter`` is told of the progress of TensorRT's builds.
    """

    begin: Callable[[str, int], None] = lambda _name, _count: None
    step: Callable[[], None] = lambda: None
    reporter: Reporter = field(default_factory=Reporter)


def choose_variants(bundle: Bundle, request: BenchRequest) -> list[Variant]:
    """Return the bundle's variants that a request names; all of them where it names none."""
    every = bundle.manifest.variants
    names = tuple(item.name for item in every)
    _check_names("backend", request.backends, get_args(Target))
    _check_names("precision", request.precisions, get_args(Precision))
    _check_names("variant", request.variants, names)
    chosen = [
        item
        for item in every
        if (not request.backends or item.target in request.backends)
        and (not request.precisions or item.precision in request.precisions)
        and (not request.variants or item.name in request.variants)
    ]
    if not chosen:
        wanted = ", ".join((*request.backends, *request.precisions, *request.variants))
        raise BundleError(
            f"{bundle.root}: expected a variant that is {wanted}, found {', '.join(names)}; hybrid-export adds one"
        )
    return chosen


def open_variants(
    bundle: Bundle, request: BenchRequest, options: EngineOptions, progress: BenchProgress, stack: ExitStack
) -> tuple[list[Selection], dict[str, str]]:
    """Open every chosen variant that runs here and passes its golden check; they are closed with the stack.

    They come in the manifest's order, with the reasons, by name, why others were left out.
    """
    chosen = choose_variants(bundle, request)
    progress.begin("opening", len(chosen))
    selections: list[Selection] = []
    skipped: dict[str, str] = {}
    absent: dict[Target, str] = {}
    preprocessor = Preprocessor(bundle.spec)
    for variant in chosen:
        if variant.target in absent:
            skipped[variant.name] = absent[variant.target]
            continue
        try:
            selection = open_variant(
                bundle, variant, threads=request.threads, engine=options, reporter=progress.reporter
            )
            stack.enter_context(selection.backend)
            check_golden(bundle, variant, selection.backend, preprocessor)
            selections.append(selection)
        except (BackendError, GateError) as error:
            if variant.target in request.backends or variant.name in request.variants:
                raise
            skipped[variant.name] = str(error)
            if isinstance(error, BackendUnavailableError) and not variant.cpu_features:
                absent[variant.target] = str(error)
        progress.step()
    if not selections:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise BackendUnavailableError(f"expected a variant that runs here, found none: {reasons}")
    return selections, skipped


def predict_limits(request: BenchRequest, device: str) -> tuple[list[tuple[str, int, Limit | None]], Rates]:
    """Compute the bounds of the chosen variants on a device that isn't here; without a choice, of all that it runs.

    There is one bound for each artifact and batch size: the names of the variants that share the artifact, the batch
    size, and the limit, None where its cost was not recorded. With them come the device's rates.

    Raises:
        UsageError: there is no such device, backend, precision or variant.
        BundleError: there is no bundle; or none of its variants, or of those chosen, is for such a device, or has its
            cost recorded.
    """
    rates = rates_of(device)
    if not request.backends and not request.variants:
        request = replace(request, backends=rates.targets)
    bundle = Bundle.open(request.bundle, request.trust)
    variants = choose_variants(bundle, request)
    shared: dict[str, list[Variant]] = {}
    for variant in (item for item in variants if item.target in rates.targets):
        shared.setdefault(variant.file.sha256, []).append(variant)
    if not shared:
        raise BundleError(
            f"{bundle.root}: expected a variant for {' or '.join(rates.targets)}, which {device} runs, found "
            f"{', '.join(item.name for item in variants)}; choose others, or another device"
        )
    if all(group[0].cost is None for group in shared.values()):
        raise BundleError(f"{bundle.root}: expected a variant whose cost is recorded, found none; {NO_COST}")
    found = [
        (", ".join(item.name for item in group), batch, _limit(group[0], {group[0].target: rates}, batch))
        for group in shared.values()
        for batch in request.batches
    ]
    return found, rates


Frames = list[npt.NDArray[np.uint8]]


@dataclass
class TimedCase:
    """A variant at a batch size, the number of frames in a call, with its memory allocated.

    ``calls`` are what is timed: ``inference``, then ``preprocess``, ``whole``, and ``copy in`` and ``copy out`` where
    data are copied. ``profile`` takes a number of runs, and returns the milliseconds of each node over these.
    """

    selection: Selection
    batch: int
    calls: dict[str, Callable[[], object]]
    profile: Callable[[int], dict[str, float]] = field(repr=False)

    @property
    def name(self) -> str:
        """The name of the case in the report, as in ``int8-cpu b8``."""
        return f"{self.selection.variant.name} b{self.batch}"

    def result(
        self,
        times: Mapping[str, list[Milliseconds]],
        shares: dict[str, float],
        joules: float | None,
        rates: Mapping[str, Rates],
    ) -> Case:
        """Return the report's case, made of the times of its calls by round, milliseconds, and rates by target."""
        stats = {part: Stats.of(rounds) for part, rounds in times.items()}
        variant = self.selection.variant
        return Case(
            variant=variant.name,
            target=variant.target,
            precision=variant.precision,
            device=self.selection.backend.device,
            batch=self.batch,
            shares=shares,
            joules_per_frame=joules,
            limit=_limit(variant, rates, self.batch),
            file_sha256=variant.file.sha256,
            inference=stats["inference"],
            preprocess=stats["preprocess"],
            whole=stats["whole"],
            copy_in=stats.get("copy in"),
            copy_out=stats.get("copy out"),
        )


def make_frames(bundle: Bundle, count: int) -> Frames:
    """Return ``count`` frames, (720, 1280, 3) uint8 BGR, filled with the golden examples: looks don't matter here."""
    examples = [np.resize(example, (*FRAME_SIZE, 3)) for example in islice(bundle.golden_images(), count)]
    return [examples[index % len(examples)].copy() for index in range(count)]


def make_case(bundle: Bundle, selection: Selection, batch: int, frames: Frames) -> TimedCase:
    """Allocate a case's buffers and name its calls, of ``batch`` frames each; ``frames`` has that many or more."""
    backend = selection.backend
    buffers = backend.buffers(batch, 1)[0]
    classifier = Classifier(bundle, selection, batch_size=batch, check=False)
    preprocessor = Preprocessor(bundle.spec)
    taken = frames[:batch]

    def preprocess() -> None:
        for row, frame in enumerate(taken):
            preprocessor.fill(frame, buffers.tensors, row)

    def infer() -> None:
        backend.collect(backend.submit(buffers, batch))

    def classify() -> list[str]:
        return [prediction.label for prediction in classifier.predict(taken)]

    preprocess()  # inference is then timed on frames, and not on zeros
    calls: dict[str, Callable[[], object]] = {"inference": infer, "preprocess": preprocess, "whole": classify}
    tensors = {name: tensor[:batch] for name, tensor in buffers.tensors.items()}
    copies = backend.copies(buffers, batch)
    return TimedCase(selection, batch, calls | copies, lambda runs: backend.profile(tensors, runs=runs))


def _limit(variant: Variant, rates: Mapping[str, Rates], batch: int) -> Limit | None:
    if variant.cost is None or variant.target not in rates:
        return None
    return limit_of(variant.cost, rates[variant.target], batch)


def _check_names(what: str, wanted: Collection[str], known: Collection[str]) -> None:
    unknown = [item for item in wanted if item not in known]
    if unknown:
        raise UsageError(f"expected a {what} of {', '.join(known)}, found {', '.join(map(repr, unknown))}")
