"""Decides what FP16 can hold, from the largest |activation| of every tensor.

ONNX Runtime on a CPU does not show an overflow, so nothing is learnt from running the FP16 graph there: the FP32 graph
is measured, and the precision of each layer decided from that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..convert.layers import branch_of
from .typed import FP16_MAX

__all__ = ["FP16_WARNING", "Activations"]

FP16_WARNING = 16_000.0  # two bits below FP16's end: a brighter scene than any that was measured may double a value
SHOWN = 5


@dataclass(frozen=True)
class Activations:
    """The largest |activation| of each tensor that FP16 would hold.

    Attributes:
        largest: the largest |activation|, by the tensor's name.
        constants: the largest |value| of the weights beyond FP16's range, by the tensor that their layer makes.
    """

    largest: Mapping[str, float]
    constants: Mapping[str, float]

    @classmethod
    def of(cls, measured: Iterable[Mapping[str, float]], constants: Mapping[str, float] | None = None) -> Activations:
        """Join the peaks that were measured over several sets of images; the larger one of each tensor counts."""
        largest: dict[str, float] = {}
        for peaks in measured:
            for name, peak in peaks.items():
                if branch_of(name) != "head":  # the head stays in FP32
                    largest[name] = max(largest.get(name, 0.0), peak)
        return cls(largest, constants or {})

    @property
    def wide(self) -> frozenset[str]:
        """The names of the tensors that stay in FP32."""
        beyond = {name for name, value in self.largest.items() if not value <= FP16_MAX}
        return frozenset(beyond | self.constants.keys())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the report that name what stays in FP32 and what comes near the end of FP16's range."""
        lines = []
        if self.wide:
            found = {name: max(self.constants.get(name, 0.0), self.largest.get(name, 0.0)) for name in self.wide}
            lines.append(f"beyond FP16's {FP16_MAX:,.0f}, so these layers stay in FP32: {_listed(found)}")
        near = {name: value for name, value in self.largest.items() if value > FP16_WARNING and name not in self.wide}
        if near:
            lines.append(
                f"activations above {FP16_WARNING:,.0f} in FP16 (its largest number is {FP16_MAX:,.0f}): "
                f"{_listed(near)}; a brighter or stranger image may overflow: FP32 is safer here"
            )
        return tuple(lines)


def _listed(values: Mapping[str, float]) -> str:
    ordered = sorted(values.items(), key=lambda item: -item[1])
    more = f", and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return ", ".join(f"{name} ({value:,.0f})" for name, value in ordered[:SHOWN]) + more
