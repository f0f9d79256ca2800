"""Which engine runs a bundle here: TensorRT, then ONNX Runtime on the GPU, then on the CPU.

Each engine has one module. To add one: write its subclass of ``Backend`` and put it into ``ENGINES``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from ..bundle import Bundle
from ..cpu import describe_cpu, missing_features
from ..engines.options import EngineOptions
from ..engines.progress import Reporter
from ..errors import (
    BackendError,
    BackendUnavailableError,
    BundleError,
    EngineMissingError,
    Int8EngineError,
    UsageError,
)
from ..manifest import Precision, Target, Variant
from .base import Backend
from .forms import open_form
from .onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda
from .tensorrt import TensorRtBackend

__all__ = ["ENGINES", "SLOWER", "Backend", "Selection", "open_backend", "open_variant"]

AUTO = "auto"
TARGETS: tuple[Target, ...] = get_args(Target)
NARROWEST_FIRST: tuple[Precision, ...] = ("int8", "fp16", "fp32")
SLOWER = 1.1  # times a wider precision's time from which `auto` takes that; below, a variant's size counts for more
# in the order in which `auto` tries them
ENGINES: dict[Target, type[Backend]] = {"tensorrt": TensorRtBackend, "cuda": OnnxRuntimeCuda, "cpu": OnnxRuntimeCpu}


@dataclass(frozen=True)
class Selection:
    """The backend that was opened, the variant it runs, and what ``auto`` passed over, with the reasons.

    ``passed_over`` is keyed by target (``cuda``), or by target and precision (``tensorrt int8``) where another
    precision was taken there.
    """

    backend: Backend
    variant: Variant
    passed_over: Mapping[str, str] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """One line for people: ``ONNX Runtime 1.31.1 on CPU, variant fp32-cpu (fp32)``."""
        return f"{self.backend.device}, variant {self.variant.name} ({self.variant.precision})"


@dataclass(frozen=True)
class _Request:
    """What the user asked for, and where notes of what was passed over go."""

    bundle: Bundle
    backend: str
    precision: str
    threads: int | None
    engine: EngineOptions
    reporter: Reporter
    passed_over: dict[str, str] = field(default_factory=dict)


def open_backend(
    bundle: Bundle,
    backend: str = AUTO,
    precision: str = AUTO,
    *,
    threads: int | None = None,
    engine: EngineOptions | None = None,
    reporter: Reporter | None = None,
) -> Selection:
    """Open the engine and the variant that fit this machine; TensorRT builds its engine on first use.

    Args:
        bundle: where the variants are; the one taken is verified before the engine parses it.
        backend: ``tensorrt``, ``cuda`` or ``cpu``; ``auto`` takes the first of them that works here and that the bundle
            has a variant for. One asked for by name is never replaced by another.
        precision: ``fp32``, ``fp16`` or ``int8``; ``auto`` takes the narrowest that passed its parity gate, that this
            CPU has the instructions for, and that TensorRT builds here; on the CPU the wider one where the exporter
            found it faster.
        threads: how many the engine may use for one batch; None leaves it to the engine.
        engine: how TensorRT engines are built, and whether.
        reporter: whom to tell while they are.

    Raises:
        UsageError: no such backend or precision, or fewer than one thread.
        BundleError: the bundle has no such variant, or its file is damaged.
        BackendUnavailableError: the engine asked for, or under ``auto`` every engine, is not on this machine.
        BackendError: the engine refused the graph.
        EngineMissingError: TensorRT is here, has none of its engines yet, and ``engine`` says not to build one; another
            backend is then not taken instead.
        Int8EngineError: TensorRT does not build the INT8 graph here, and nothing else may be taken.
    """
    _check_arguments(backend, precision, threads)
    request = _Request(bundle, backend, precision, threads, engine or EngineOptions(), reporter or Reporter())
    tried = False
    for target, kind in ENGINES.items():
        groups = _groups(bundle.manifest.variants, target, precision) if backend in (AUTO, target) else []
        if target == "cpu" and precision == AUTO:
            groups = _fastest_first(groups, request.passed_over)
        tried = tried or bool(groups)
        selection = _open_target(request, target, kind, groups) if groups else None
        if selection is not None:
            return selection
    if tried:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in request.passed_over.items())
        raise BackendUnavailableError(f"no engine here runs this bundle: {reasons}")
    raise BundleError(_no_variant(bundle, backend, precision))


def open_variant(
    bundle: Bundle,
    variant: Variant,
    *,
    threads: int | None = None,
    engine: EngineOptions | None = None,
    reporter: Reporter | None = None,
) -> Selection:
    """Open this variant on the engine that it was made for, and no other.

    Args:
        bundle: where its file is, which is verified before the engine parses it.
        variant: of the bundle's manifest.
        threads: how many the engine may use for one batch; None leaves it to the engine.
        engine: how a TensorRT engine is built, and whether.
        reporter: whom to tell while it is.

    Raises:
        BundleError: its file is damaged.
        BackendUnavailableError: the engine, or the CPU's instructions for this variant, are not on this machine.
        BackendError: the engine refused the graph.
        EngineMissingError: TensorRT has no engine of it yet, and ``engine`` says not to build one.
        Int8EngineError: TensorRT does not build this INT8 graph here.
    """
    request = _Request(
        bundle, variant.target, variant.precision, threads, engine or EngineOptions(), reporter or Reporter()
    )
    kind = ENGINES[variant.target]
    kind.require()
    _check_cpu(variant)
    return Selection(*_open(request, kind, [variant]))


def _open_target(
    request: _Request, target: Target, kind: type[Backend], groups: list[list[Variant]]
) -> Selection | None:
    """Open the first precision that works on a target; None, with the reasons noted, where ``auto`` may go on."""
    missing: list[EngineMissingError] = []
    try:
        kind.require()
        for variants in groups:
            selection = _open_precision(request, kind, variants, missing, last=variants is groups[-1])
            if selection is not None:
                return selection
    except BackendError as error:
        if request.backend != AUTO:
            raise
        request.passed_over[target] = str(error)
    if missing:  # a slower engine in its place is not what was asked for
        raise missing[0]
    return None


def _open_precision(
    request: _Request, kind: type[Backend], variants: list[Variant], missing: list[EngineMissingError], *, last: bool
) -> Selection | None:
    """Open one precision on one target; None, with the reason noted, where ``auto`` may take another instead."""
    must = last and request.backend != AUTO
    try:
        _check_cpu(variants[0])
        opened, variant = _open(request, kind, variants)
    except EngineMissingError as error:
        missing.append(error)
        request.passed_over[f"{variants[0].target} {variants[0].precision}"] = str(error)
        return None
    except (_UnfitCpuError, Int8EngineError) as error:
        # INT8 asked for by name is not to become INT8 on another engine: FP16 on this one is the better offer
        if must or (isinstance(error, Int8EngineError) and request.precision != AUTO):
            raise
        request.passed_over[f"{variants[0].target} {variants[0].precision}"] = str(error)
        return None
    return Selection(opened, variant, request.passed_over)


def _open(request: _Request, kind: type[Backend], variants: list[Variant]) -> tuple[Backend, Variant]:
    if kind is TensorRtBackend:
        return open_form(request.bundle, variants, request.engine, request.reporter)
    file = request.bundle.verified(variants[0].file)
    return kind(file, request.bundle.spec, threads=request.threads), variants[0]


class _UnfitCpuError(BackendUnavailableError):
    """The CPU has none of the instructions of which a variant needs one."""


def _check_cpu(variant: Variant) -> None:
    if missing_features(variant.cpu_features):
        raise _UnfitCpuError(
            f"variant {variant.name}: expected a CPU with one of {', '.join(variant.cpu_features)}, found "
            f"{describe_cpu()}; take --precision fp32, or export the bundle again: INT8 now runs on every CPU"
        )


def _check_arguments(backend: str, precision: str, threads: int | None) -> None:
    if backend not in (AUTO, *TARGETS):
        raise UsageError(f"expected a backend of {AUTO}, {', '.join(TARGETS)}, found {backend!r}")
    if precision not in (AUTO, *NARROWEST_FIRST):
        raise UsageError(f"expected a precision of {AUTO}, {', '.join(NARROWEST_FIRST)}, found {precision!r}")
    if threads is not None and threads < 1:
        raise UsageError(f"expected at least 1 thread, found {threads}")


def _groups(variants: Sequence[Variant], target: Target, precision: str) -> list[list[Variant]]:
    """A target's variants by precision: the one asked for, else those within their parity limits, narrowest first.

    TensorRT may have two forms of one precision; whichever is faster is found out on the device.
    """
    ours = [item for item in variants if item.target == target]
    if precision == AUTO:
        ours = [item for item in ours if item.parity.passed]
    wanted = NARROWEST_FIRST if precision == AUTO else (precision,)
    groups = [[item for item in ours if item.precision == name] for name in wanted]
    return [group for group in groups if group]


def _fastest_first(groups: list[list[Variant]], passed_over: dict[str, str]) -> list[list[Variant]]:
    """The CPU's precisions, each behind the next wider one where it took clearly longer than that when exported.

    Unrolled steps of a small recurrent branch do: their operators cost more than INT8 saves.
    """
    ordered: list[list[Variant]] = []
    for group in reversed(groups):  # the widest first
        (variant, *_), ratio = group, group[0].time_ratio or 0.0
        if ordered and ratio > SLOWER:
            passed_over[f"{variant.target} {variant.precision}"] = (
                f"{variant.name} took {ratio:.2f} times as long as {ordered[0][0].name} where it was exported; "
                f"--precision {variant.precision} takes it all the same"
            )
            ordered.append(group)
        else:
            ordered.insert(0, group)
    return ordered


def _no_variant(bundle: Bundle, backend: str, precision: str) -> str:
    found = ", ".join(f"{item.precision} for {item.target}{_remark(item)}" for item in bundle.manifest.variants)
    precisions = "any precision" if precision == AUTO else precision
    wanted = f"{precisions} for {' or '.join(ENGINES) if backend == AUTO else backend}"
    return (
        f"{bundle.root}: expected a variant of {wanted}, found {found}; hybrid-export adds one (--fp32, --fp16, --int8)"
    )


def _remark(variant: Variant) -> str:
    return "" if variant.parity.passed else " (over its parity limits: name its precision)"
