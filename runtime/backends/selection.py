"""Chooses the engine and the variant that run a bundle on this machine, and opens them.

What ``auto`` tries, in this order, until something opens; what it passes over is kept with the reason:

    tensorrt ──► cuda ──► cpu            an engine that is not on this machine, or has no variant, gives way to the next
       │           │        │
     int8        int8     int8, but behind a wider one that was clearly faster where the bundle was exported
     fp16        fp16     w8             the next where INT8 does not build, or the CPU lacks its instructions
     fp32        fp32     fp32

An engine or a precision that was asked for by name is never replaced by another one.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from ..bundle import Bundle
from ..engines.engine_options import EngineOptions
from ..engines.progress import Reporter
from ..errors import BackendError, BackendUnavailableError, BundleError, EngineMissingError, Int8EngineError, UsageError
from ..manifest import Precision, Target, Variant
from .base import Backend
from .fastest_form import open_fastest_form
from .onnxruntime import OnnxRuntimeCpu
from .onnxruntime_cuda import OnnxRuntimeCuda
from .tensorrt import TensorRtBackend
from .tuning import find_tuning

AUTO = "auto"
NARROWEST_FIRST: tuple[Precision, ...] = ("int8", "fp16", "w8", "fp32")
# the ratio of times above which a precision is slower than the wider one; below, a variant's size counts for more
MAX_SLOWDOWN = 1.1
# the engines in the order in which `auto` tries them
ENGINES: dict[Target, type[Backend]] = {"tensorrt": TensorRtBackend, "cuda": OnnxRuntimeCuda, "cpu": OnnxRuntimeCpu}

# of ONNX Runtime's kernels for weights of 8 bits in blocks; without, a product takes 15 times as long as in FP32
W8_FLAGS = frozenset({"avx2", "asimddp"})
CPUINFO_FILE = Path("/proc/cpuinfo")
ARM_MACHINES = ("aarch64", "arm64")
# x86's instructions for 8-bit dot products, by the names that Linux gives them
INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


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
        """One line for messages, such as ``ONNX Runtime 1.31.1 on CPU, variant fp32-cpu (fp32)``."""
        return f"{self.backend.device}, variant {self.variant.name} ({self.variant.precision})"


@dataclass(frozen=True)
class _Request:
    bundle: Bundle
    backend: str
    precision: str
    threads: int | None
    engine: EngineOptions
    reporter: Reporter
    batch: int = 1
    passed_over: dict[str, str] = field(default_factory=dict)


def open_backend(
    bundle: Bundle,
    backend: str = AUTO,
    precision: str = AUTO,
    *,
    threads: int | None = None,
    engine: EngineOptions | None = None,
    reporter: Reporter | None = None,
    batch: int = 1,
) -> Selection:
    """Open the engine and the variant that fit this machine; TensorRT builds its engine on first use.

    ``backend`` is ``tensorrt``, ``cuda`` or ``cpu``, and ``precision`` a ``Precision``; ``auto`` chooses as the head of
    this module draws it, among the variants that passed their parity gate. The variant's file is verified before the
    engine parses it. ``threads`` is the number of CPU threads for one batch, and None leaves it to the engine.
    ``reporter`` is told while an engine is built. ``batch`` is the number of images that will be run at once: on the
    CPU ``auto`` takes what ``hybrid-bench --tune`` found fastest for it here, where that was run.

    Raises:
        UsageError: there is no such backend or precision, or fewer than one thread was asked for.
        BundleError: the bundle has no such variant, or its file is damaged.
        BackendUnavailableError: the engine asked for, or under ``auto`` every engine, is not on this machine.
        BackendError: the engine refused the graph.
        EngineMissingError: TensorRT is here, has none of its engines yet, and ``engine`` says not to build one; another
            backend is then not taken instead.
        Int8EngineError: TensorRT does not build the INT8 graph here, and nothing else may be taken.
    """
    _check_arguments(backend, precision, threads)
    request = _Request(bundle, backend, precision, threads, engine or EngineOptions(), reporter or Reporter(), batch)
    for target, kind in ENGINES.items():
        groups = _groups(bundle.manifest.variants, target, precision) if backend in (AUTO, target) else []
        if target == "cpu" and precision == AUTO and groups:
            groups = _fastest_first(groups, request.passed_over)
            request, groups = _tuned(request, groups)
        selection = _open_target(request, target, kind, groups) if groups else None
        if selection is not None:
            return selection
    if request.passed_over:
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
    """Open this variant on the engine that it was made for, and on no other.

    Arguments and errors are those of ``open_backend``; BackendUnavailableError also says that the CPU lacks the
    instructions for this variant.
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
    """Open the first precision that works on a target; where ``auto`` may go on, note the reasons and return None."""
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
    if missing:  # `auto` must not take a slower engine because this one was not built yet
        raise missing[0]
    return None


def _open_precision(
    request: _Request, kind: type[Backend], variants: list[Variant], missing: list[EngineMissingError], *, last: bool
) -> Selection | None:
    """Open one precision on one target; where ``auto`` may take another, note the reason and return None."""
    is_final = last and request.backend != AUTO
    try:
        _check_cpu(variants[0])
        opened, variant = _open(request, kind, variants)
    except (EngineMissingError, _UnfitCpuError, Int8EngineError) as error:
        if isinstance(error, EngineMissingError):
            missing.append(error)
        # INT8 asked for by name is not to become INT8 on another engine: FP16 on this one is the better offer
        elif is_final or (isinstance(error, Int8EngineError) and request.precision != AUTO):
            raise
        request.passed_over[f"{variants[0].target} {variants[0].precision}"] = str(error)
        return None
    return Selection(opened, variant, request.passed_over)


def _open(request: _Request, kind: type[Backend], variants: list[Variant]) -> tuple[Backend, Variant]:
    if kind is TensorRtBackend:
        return open_fastest_form(request.bundle, variants, request.engine, request.reporter)
    record = variants[0].file
    file = request.bundle.verified(record)
    if kind is OnnxRuntimeCpu:
        say = request.reporter.say
        opened = OnnxRuntimeCpu(
            file, request.bundle.spec, threads=request.threads, sha256=record.sha256, on_refusal=say
        )
        return opened, variants[0]
    return kind(file, request.bundle.spec, threads=request.threads), variants[0]


class _UnfitCpuError(BackendUnavailableError):
    """The CPU has none of the instructions of which a variant needs one."""


def _check_cpu(variant: Variant) -> None:
    """Refuse an INT8 variant of an older bundle where this CPU is known to have none of the instructions it needs.

    x86 without VNNI adds pairs of U8 × S8 products in 16 bits and saturates; with it, and on every ARM, nothing does
    (ONNX Runtime, "Quantize ONNX models", on U8S8). An export used to write weights that saturate, and named the
    instructions; the weights that it writes now fit, and name none. Where the system does not say what the CPU has, the
    golden check decides.
    """
    flags = x86_flags()
    if not variant.cpu_features or flags is None or flags & set(variant.cpu_features):
        return
    found = ", ".join(sorted(flags & INT8_FLAGS))
    raise _UnfitCpuError(
        f"variant {variant.name}: expected a CPU with one of {', '.join(variant.cpu_features)}, found "
        f"{platform.machine()} {f'with {found}' if found else 'without INT8 dot products'}; take --precision fp32, or "
        "export the bundle again: INT8 now runs on every CPU"
    )


@cache
def x86_flags() -> frozenset[str] | None:
    """Return the instructions that every core of this x86 CPU has; None where the system does not say, and on ARM."""
    if platform.machine() in ARM_MACHINES:  # where it is emulated it may be shown its x86 host's
        return None
    try:
        lines = CPUINFO_FILE.read_text().splitlines()
    except OSError:
        return None
    found = [set(line.partition(":")[2].split()) for line in lines if line.partition(":")[0].strip() == "flags"]
    return frozenset(set.intersection(*found)) if found else None


def _has_any(wanted: frozenset[str]) -> bool:
    """Tell whether this CPU has one of some instructions, x86's or ARM's; it has where the system does not say."""
    try:
        lines = CPUINFO_FILE.read_text().splitlines()
    except OSError:
        return True
    found = {item for line in lines if line.startswith(("flags", "Features")) for item in line.split()}
    return not found or not wanted.isdisjoint(found)


def _check_arguments(backend: str, precision: str, threads: int | None) -> None:
    if backend not in (AUTO, *ENGINES):
        raise UsageError(f"expected a backend of {AUTO}, {', '.join(ENGINES)}, found {backend!r}")
    if precision not in (AUTO, *NARROWEST_FIRST):
        raise UsageError(f"expected a precision of {AUTO}, {', '.join(NARROWEST_FIRST)}, found {precision!r}")
    if threads is not None and threads < 1:
        raise UsageError(f"expected at least 1 thread, found {threads}")


def _groups(variants: Sequence[Variant], target: Target, precision: str) -> list[list[Variant]]:
    """Group a target's variants by precision: the one asked for, or those within their parity limits, narrowest first.

    TensorRT may have two forms of one precision; which of them is faster is found out on the device.
    """
    ours = [item for item in variants if item.target == target]
    if precision == AUTO:
        ours = [item for item in ours if item.parity.passed]
    wanted = NARROWEST_FIRST if precision == AUTO else (precision,)
    groups = [[item for item in ours if item.precision == name] for name in wanted]
    return [group for group in groups if group]


def _fastest_first(groups: list[list[Variant]], passed_over: dict[str, str]) -> list[list[Variant]]:
    """Order the CPU's precisions, and put one behind the next wider one if it took clearly longer when exported.

    The unrolled steps of a small recurrent branch do: their operators cost more than INT8 saves. So does ``w8`` on a
    CPU without the instructions of its kernels, where ONNX Runtime restores the whole weight for every product.
    """
    ordered: list[list[Variant]] = []
    for group in reversed(groups):  # the widest first
        variant = group[0]
        if ordered and variant.precision == "w8" and not _has_any(W8_FLAGS):
            passed_over["cpu w8"] = f"{variant.name} needs one of {', '.join(sorted(W8_FLAGS))} to be fast"
            ordered.append(group)
        elif ordered and (variant.slower or (variant.time_ratio or 0.0) > MAX_SLOWDOWN):
            passed_over[f"{variant.target} {variant.precision}"] = (
                f"{variant.name} took clearly longer than {ordered[0][0].name} where it was exported; "
                f"--precision {variant.precision} takes it all the same"
            )
            ordered.append(group)
        else:
            ordered.insert(0, group)
    return ordered


def _tuned(request: _Request, groups: list[list[Variant]]) -> tuple[_Request, list[list[Variant]]]:
    """Put the variant that was found fastest here first, with its number of threads unless one was asked for."""
    tuning = find_tuning(request.bundle.manifest.variants)
    if tuning is None:
        return request, groups
    choice = tuning.of(request.batch)
    place = next(index for index, group in enumerate(groups) if choice.variant in {item.name for item in group})
    first = sorted(groups[place], key=lambda item: item.name != choice.variant)  # two forms of one precision
    request.passed_over.pop(f"cpu {first[0].precision}", None)
    for group in groups[:place]:
        reason = f"{choice.variant} was found faster here by hybrid-bench --tune"
        request.passed_over[f"cpu {group[0].precision}"] = reason
    threads = choice.threads if request.threads is None else request.threads
    return replace(request, threads=threads), [first, *groups[:place], *groups[place + 1 :]]


def _no_variant(bundle: Bundle, backend: str, precision: str) -> str:
    found = ", ".join(f"{item.precision} for {item.target}{_remark(item)}" for item in bundle.manifest.variants)
    precisions = "any precision" if precision == AUTO else precision
    wanted = f"{precisions} for {' or '.join(ENGINES) if backend == AUTO else backend}"
    return (
        f"{bundle.root}: expected a variant of {wanted}, found {found}; "
        "hybrid-export adds one (--fp32, --w8, --fp16, --int8)"
    )


def _remark(variant: Variant) -> str:
    return "" if variant.parity.passed else " (over its parity limits: name its precision)"
