"""Holds and checks what a user may choose about an export."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ..calib import METHODS, Method
from ..runtime.engines.engine_options import EngineOptions
from ..runtime.errors import UsageError
from ..runtime.manifest import Precision
from .plan import PRECISIONS, Recurrent

__all__ = ["ExportSettings", "choose_precisions"]

RECURRENT = ("lstm", "unrolled", "auto")


@dataclass(frozen=True)
class ExportSettings:
    """The precisions to export, and how they are made and judged.

    Attributes:
        precisions: the precisions that were asked for.
        recurrent: the form of the recurrent branch.
        method: how INT8's ranges follow from what was measured.
        max_drop: the accuracy that INT8 may lose, 0 to 1.
        give_back: whether INT8 that fails gives its most sensitive layers back to the next wider precision.
        engine: the batch profile and workspace of TensorRT's engines.

    Raises:
        UsageError: a value is not one of those allowed.
    """

    precisions: tuple[Precision, ...] = ("fp32",)
    recurrent: Recurrent = "auto"
    method: Method = "percentile"
    max_drop: float = 0.005
    give_back: bool = False
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        _require("--recurrent", self.recurrent, RECURRENT)
        _require("--method", self.method, METHODS)
        if not 0 <= self.max_drop <= 1:
            raise UsageError(f"--max-drop: expected points of accuracy from 0 to 100, found {100 * self.max_drop:g}")

    @property
    def needs_calibration(self) -> bool:
        """Whether images are needed to calibrate on: FP16 needs the largest activations, INT8 the ranges."""
        return self.precisions != ("fp32",)


def choose_precisions(*, fp32: bool, fp16: bool, int8: bool) -> tuple[Precision, ...]:
    """Return the precisions that were asked for, the widest first; FP32 where none was."""
    asked = dict(zip(PRECISIONS, (fp32, fp16, int8), strict=True))
    return tuple(name for name, wanted in asked.items() if wanted) or ("fp32",)


def _require(option: str, found: str, expected: Iterable[str]) -> None:
    if found not in expected:
        raise UsageError(f"{option}: expected {', '.join(expected)}, found {found!r}")
