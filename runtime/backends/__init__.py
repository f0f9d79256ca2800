"""Which engine runs a bundle here: TensorRT, then ONNX Runtime on the GPU, then on the CPU.

Each engine has one module. To add one: write its subclass of ``Backend`` and put it into ``ENGINES``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

from ..bundle import Bundle
from ..errors import BackendError, BackendUnavailableError, BundleError, UsageError
from ..manifest import Precision, Target, Variant
from .base import Backend
from .onnxruntime import OnnxRuntimeCpu, OnnxRuntimeCuda

__all__ = ["ENGINES", "Backend", "Selection", "open_backend"]

AUTO = "auto"
TARGETS: tuple[Target, ...] = get_args(Target)
NARROWEST_FIRST: tuple[Precision, ...] = ("int8", "fp16", "fp32")
# in the order in which `auto` tries them
ENGINES: dict[Target, type[Backend]] = {"cuda": OnnxRuntimeCuda, "cpu": OnnxRuntimeCpu}


@dataclass(frozen=True)
class Selection:
    """The backend that was opened, the variant it runs, and the targets that ``auto`` passed over, with the reasons."""

    backend: Backend
    variant: Variant
    passed_over: dict[Target, str] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """One line for people: ``ONNX Runtime 1.31.1 on CPU, variant fp32-cpu (fp32)``."""
        return f"{self.backend.device}, variant {self.variant.name} ({self.variant.precision})"


def open_backend(
    bundle: Bundle, backend: str = AUTO, precision: str = AUTO, *, threads: int | None = None
) -> Selection:
    """Open the engine and the variant that fit this machine.

    Args:
        bundle: where the variants are; the one taken is verified before the engine parses it.
        backend: ``tensorrt``, ``cuda`` or ``cpu``; ``auto`` takes the first of them that works here and that the bundle
            has a variant for. One asked for by name is never replaced by another.
        precision: ``fp32``, ``fp16`` or ``int8``; ``auto`` takes the narrowest that passed its parity gate.
        threads: how many the engine may use for one batch; None leaves it to the engine.

    Raises:
        UsageError: no such backend or precision, or fewer than one thread.
        BundleError: the bundle has no such variant, or its file is damaged.
        BackendUnavailableError: the engine asked for, or under ``auto`` every engine, is not on this machine.
        BackendError: the engine refused the graph.
    """
    _check_arguments(backend, precision, threads)
    passed_over: dict[Target, str] = {}
    for target, engine in ENGINES.items():
        variant = _choose(bundle.manifest.variants, target, precision) if backend in (AUTO, target) else None
        if variant is None:
            continue
        try:
            opened = engine(bundle.verified(variant.file), bundle.spec, threads=threads)
        except BackendError as error:
            if backend != AUTO:
                raise
            passed_over[target] = str(error)
            continue
        return Selection(opened, variant, passed_over)
    if passed_over:
        reasons = "; ".join(f"{target}: {reason}" for target, reason in passed_over.items())
        raise BackendUnavailableError(f"no engine here runs this bundle: {reasons}")
    raise BundleError(_no_variant(bundle, backend, precision))


def _check_arguments(backend: str, precision: str, threads: int | None) -> None:
    if backend not in (AUTO, *TARGETS):
        raise UsageError(f"expected a backend of {AUTO}, {', '.join(TARGETS)}, found {backend!r}")
    if precision not in (AUTO, *NARROWEST_FIRST):
        raise UsageError(f"expected a precision of {AUTO}, {', '.join(NARROWEST_FIRST)}, found {precision!r}")
    if threads is not None and threads < 1:
        raise UsageError(f"expected at least 1 thread, found {threads}")
    if backend == "tensorrt" and "tensorrt" not in ENGINES:
        raise BackendUnavailableError(
            "this version of hybrid-edge does not build TensorRT engines yet; take --backend cuda or cpu, "
            "or a newer version"
        )


def _choose(variants: Sequence[Variant], target: Target, precision: str) -> Variant | None:
    """The variant of a precision asked for, else the narrowest within its parity limits."""
    ours = [item for item in variants if item.target == target]
    if precision != AUTO:
        return next((item for item in ours if item.precision == precision), None)
    passed = [item for item in ours if _passed(item)]
    return min(passed, key=lambda item: NARROWEST_FIRST.index(item.precision), default=None)


def _passed(variant: Variant) -> bool:
    parity = variant.parity
    return parity.max_logit_error <= parity.logit_limit and parity.max_probability_error <= parity.probability_limit


def _no_variant(bundle: Bundle, backend: str, precision: str) -> str:
    found = ", ".join(
        f"{item.precision} for {item.target}{'' if _passed(item) else ' (over its parity limits: name its precision)'}"
        for item in bundle.manifest.variants
    )
    precisions = "any precision" if precision == AUTO else precision
    wanted = f"{precisions} for {' or '.join(ENGINES) if backend == AUTO else backend}"
    return (
        f"{bundle.root}: expected a variant of {wanted}, found {found}; hybrid-export adds one (--fp32, --fp16, --int8)"
    )
