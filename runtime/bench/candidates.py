"""Open and check the variants to be measured that run here, and say why the others don't."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import get_args

from ..backends import Selection, open_variant
from ..bundle import Bundle
from ..engines.engine_options import EngineOptions
from ..engines.progress import Reporter
from ..errors import BackendError, BackendUnavailableError, BundleError, GateError, HybridEdgeError, UsageError
from ..golden import check_golden
from ..manifest import Precision, Target, Variant
from ..preprocess import Preprocessor
from .request import BenchRequest

__all__ = ["Candidates", "choose_variants", "open_candidates"]


@dataclass
class Candidates:
    """This class holds the open variants, in the manifest's order, and by name the reasons why others were skipped."""

    selections: list[Selection] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def choose_variants(bundle: Bundle, request: BenchRequest) -> list[Variant]:
    """Return the bundle's variants that a request names; all of them where it names none.

    Raises:
        UsageError: the request names an unknown backend or precision, or a variant that the bundle does not have.
        BundleError: the bundle has no variant of these backends and precisions.
    """
    every = bundle.manifest.variants
    _check("backend", request.backends, get_args(Target))
    _check("precision", request.precisions, get_args(Precision))
    _check("variant", request.variants, tuple(item.name for item in every))
    chosen = [
        item
        for item in every
        if (not request.backends or item.target in request.backends)
        and (not request.precisions or item.precision in request.precisions)
        and (not request.variants or item.name in request.variants)
    ]
    if not chosen:
        wanted = ", ".join((*request.backends, *request.precisions, *request.variants))
        found = ", ".join(item.name for item in every)
        raise BundleError(f"{bundle.root}: expected a variant that is {wanted}, found {found}; hybrid-export adds one")
    return chosen


def open_candidates(
    bundle: Bundle,
    request: BenchRequest,
    options: EngineOptions,
    reporter: Reporter,
    stack: ExitStack,
    *,
    after: Callable[[], object] = lambda: None,
) -> Candidates:
    """Open every chosen variant that runs here and passes its golden check; they are closed with the stack.

    Args:
        bundle: the bundle that has the variants.
        request: says which of them to open, and on how many threads.
        options: the options of TensorRT's engines, which are built where there are none.
        reporter: told of the progress of such a build.
        stack: closes the variants.
        after: called after each variant.

    Raises:
        UsageError, BundleError: as ``choose_variants`` raises them.
        BackendError: a variant whose backend or own name was asked for does not run here; or none does.
        GateError: a variant asked for like this computes something else than the exporter did.
    """
    found = Candidates()
    absent: dict[Target, str] = {}
    preprocessor = Preprocessor(bundle.spec)
    for variant in choose_variants(bundle, request):
        if variant.target in absent:
            found.skipped[variant.name] = absent[variant.target]
            continue
        try:
            selection = open_variant(bundle, variant, threads=request.threads, engine=options, reporter=reporter)
            stack.enter_context(selection.backend)
            check_golden(bundle, variant, selection.backend, preprocessor)
            found.selections.append(selection)
        except (BackendError, GateError) as error:
            _require_unnamed(request, variant, error)
            found.skipped[variant.name] = str(error)
            if isinstance(error, BackendUnavailableError) and not variant.cpu_features:
                absent[variant.target] = str(error)
        after()
    if not found.selections:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.skipped.items())
        raise BackendUnavailableError(f"expected a variant that runs here, found none: {reasons}")
    return found


def _require_unnamed(request: BenchRequest, variant: Variant, error: HybridEdgeError) -> None:
    """Raise the error of a variant whose target or own name was asked for, as such a one may not be left out."""
    if variant.target in request.backends or variant.name in request.variants:
        raise error


def _check(what: str, wanted: tuple[str, ...], known: tuple[str, ...]) -> None:
    unknown = [item for item in wanted if item not in known]
    if unknown:
        raise UsageError(f"expected a {what} of {', '.join(known)}, found {', '.join(map(repr, unknown))}")
