"""Hold the rates of a machine: how fast it multiplies, and how fast it reads its memory and its cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UsageError
from ..manifest import Target
from .cost import Arithmetic

__all__ = ["PREDICTED", "Rates"]

PREDICTED = "predicted bound, not measured"
# an arithmetic without a rate of its own is done in the next wider one: the values convert without loss
WIDER: Mapping[Arithmetic, Arithmetic] = {"int8": "fp16", "fp16": "fp32"}


@dataclass(frozen=True)
class Rates:
    """These are the peak rates of one machine.

    Attributes:
        name: the machine's name.
        gmacs: 10^9 multiply-accumulates a second, by arithmetic; ``fp32`` must be there. Twice this is what data
            sheets call GFLOPS or GOPS, without sparsity.
        bandwidth_gbs: 10^9 bytes a second from memory.
        cache_bytes: the size of the last cache before memory that the processor running the model has; None where it is
            not known, and then nothing stays in that cache.
        cache_bandwidth_gbs: 10^9 bytes a second from that cache; None where it is not known, and then what stays in
            the cache costs no time.
        source: where these numbers are from, in words.
        measured: whether ``probe`` measured the rates on the machine itself; otherwise they are published.
        near_bytes: the size of the caches nearer to the cores than that one; what stays in them costs no time, as
            moving it is part of what products at their peak rate do.
        targets: the targets whose variants these rates are for: ``cpu``, or the GPU's, ``cuda`` and ``tensorrt``.

    Raises:
        UsageError: there is no rate for FP32, or a rate is not above 0.
    """

    name: str
    gmacs: Mapping[Arithmetic, float]
    bandwidth_gbs: float
    cache_bytes: int | None
    cache_bandwidth_gbs: float | None
    source: str
    measured: bool
    near_bytes: int = 0
    targets: tuple[Target, ...] = ("cpu",)

    def __post_init__(self) -> None:
        given = [*self.gmacs.values(), self.bandwidth_gbs, self.cache_bytes, self.cache_bandwidth_gbs]
        if "fp32" not in self.gmacs or not all(value is None or value > 0 for value in given):
            raise UsageError(
                f"rates of {self.name}: expected a rate for fp32, and every rate above 0, found {dict(self.gmacs)} "
                f"10^9 MAC/s, {self.bandwidth_gbs} GB/s, a cache of {self.cache_bytes} bytes at "
                f"{self.cache_bandwidth_gbs} GB/s"
            )

    @property
    def label(self) -> str:
        """The words to print beside every number that follows from these rates."""
        return "bound from rates measured on this machine" if self.measured else PREDICTED

    def gmacs_for(self, arithmetic: Arithmetic) -> float:
        """Return 10^9 multiply-accumulates a second; those of the next wider arithmetic where this one has no rate."""
        while arithmetic not in self.gmacs:
            arithmetic = WIDER[arithmetic]
        return self.gmacs[arithmetic]
