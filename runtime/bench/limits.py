"""Compute the limit beside a measured number, and the limits on machines that aren't here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..manifest import Target, Variant
from ..roofline.bound import bound
from ..roofline.rates import Rates
from .report import Limit

__all__ = ["AGAIN", "Prediction", "limit_of", "predict"]

AGAIN = "export again to see the limit: the bundle is from before its variants' costs were recorded"


@dataclass(frozen=True)
class Prediction:
    """This is one artifact's bound on a machine that isn't here; ``limit`` is None if its cost was not recorded."""

    variants: tuple[Variant, ...]
    batch: int
    limit: Limit | None

    @property
    def name(self) -> str:
        """The names of the variants that share the artifact, as in ``fp32-cuda, fp32-tensorrt``."""
        return ", ".join(item.name for item in self.variants)


def limit_of(variant: Variant, rates: Mapping[Target, Rates], batch: int) -> Limit | None:
    """Return the least time for a batch of a variant at its target's rates; None without rates or recorded cost."""
    if variant.cost is None or variant.target not in rates:
        return None
    taken = rates[variant.target]
    least = bound(variant.cost, taken, batch)
    return Limit(
        ms=least.ms,
        overlapped_ms=least.overlapped_ms,
        by_branch=dict(least.by_branch),
        limited_by=dict(least.limited_by),
        rates=taken.name,
        measured=taken.measured,
    )


def predict(variants: Iterable[Variant], rates: Rates, batches: Sequence[int]) -> list[Prediction]:
    """Return the bounds of the variants that a device runs, one for each artifact and batch size; nothing is run."""
    shared: dict[str, list[Variant]] = {}
    for variant in (item for item in variants if item.target in rates.targets):
        shared.setdefault(variant.file.sha256, []).append(variant)
    return [
        Prediction(tuple(group), batch, limit_of(group[0], {group[0].target: rates}, batch))
        for group in shared.values()
        for batch in batches
    ]
