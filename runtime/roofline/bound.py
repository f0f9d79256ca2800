"""The shortest time that a machine of given rates can take for a graph: a roofline for each branch.

A branch takes at least as long as its products at the peak rate, and as its bytes at the peak bandwidth; whichever is
longer limits it (Williams, Waterman, Patterson: "Roofline", CACM 2009). Branches run one after the other, so their
times add up; what would be left if they overlapped perfectly is given beside it.

A cache is credited with all that any cache of its size could do: of a weight that is read again, and of an activation,
the part that fits is moved at the cache's rate, the rest at the memory's; of the weights of the whole model the part
that fits is there from the batch before. No replacement rule keeps more than this, so it stays a lower bound. What
fits into the cores' own caches costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError
from .cost import BranchCost, Cost
from .rates import Rates

__all__ = ["Bound", "bound"]

Limit = Literal["arithmetic", "memory"]


@dataclass(frozen=True)
class Bound:
    """The least that a batch can take on a machine.

    Attributes:
        ms: of the branches one after the other, milliseconds a batch.
        overlapped_ms: if they ran side by side, the arithmetic of one under the memory traffic of the other.
        by_branch: ms of ``cnn``, ``recurrent`` and ``head``, those that there are.
        limited_by: what takes that long in each branch.
        arithmetic_ms: of each branch's products alone.
        memory_ms: of each branch's bytes alone.
        batch: images.
        rates: the machine's.
    """

    ms: float
    overlapped_ms: float
    by_branch: Mapping[str, float]
    limited_by: Mapping[str, Limit]
    arithmetic_ms: Mapping[str, float]
    memory_ms: Mapping[str, float]
    batch: int
    rates: Rates

    @property
    def images_per_second(self) -> float:
        """The highest throughput that ``ms`` allows."""
        return self.batch / self.ms * 1e3

    @property
    def label(self) -> str:
        """What is to stand beside the number: from rates measured here, or predicted and not measured."""
        return self.rates.label

    def reached(self, measured_ms: float) -> float:
        """How close a measured time comes: 1 at the bound, 0.5 where it takes twice as long."""
        return self.ms / measured_ms


def bound(cost: Cost, rates: Rates, batch: int = 1) -> Bound:
    """The least time for one batch.

    Args:
        cost: of the graph, from the manifest.
        rates: of the machine.
        batch: images, from 1.

    Raises:
        UsageError: a batch without an image.
    """
    if batch < 1:
        raise UsageError(f"expected a batch of at least 1 image, found {batch}")
    branches = cost.branches
    arithmetic = {name: batch * _arithmetic_ms(branch, rates) for name, branch in branches.items()}
    memory = {name: _memory_ms(branch, rates, batch, cost.weight_bytes) for name, branch in branches.items()}
    by_branch = {name: max(arithmetic[name], memory[name]) for name in branches}
    return Bound(
        ms=sum(by_branch.values()),
        overlapped_ms=max(sum(arithmetic.values()), sum(memory.values())),
        by_branch=by_branch,
        limited_by={name: "arithmetic" if arithmetic[name] >= memory[name] else "memory" for name in branches},
        arithmetic_ms=arithmetic,
        memory_ms=memory,
        batch=batch,
        rates=rates,
    )


def _arithmetic_ms(branch: BranchCost, rates: Rates) -> float:
    return sum(count / (rates.gmacs_for(kind) * 1e6) for kind, count in branch.macs.items())


def _memory_ms(branch: BranchCost, rates: Rates, batch: int, weights: int) -> float:
    """``weights``: bytes of all branches', which compete for what stays in a cache from one batch to the next."""
    again = ((item.bytes, item.bytes * (item.times - 1)) for item in branch.weights if item.times > 1)
    activations = ((item.bytes * batch, item.total * batch) for item in branch.activations)
    moved = ((weights, branch.weight_bytes), *again, *activations)
    return sum(_moving_ms(size, total, rates) for size, total in moved)


def _moving_ms(size: int, total: int, rates: Rates) -> float:
    """Milliseconds of moving ``total`` bytes, out of something of ``size`` that is there when it is moved again."""
    beyond = _share_beyond(size, rates.cache_bytes or rates.near_bytes)
    inside = max(0.0, _share_beyond(size, rates.near_bytes) - beyond)
    nanoseconds = total * beyond / rates.bandwidth_gbs
    if rates.cache_bandwidth_gbs:
        nanoseconds += total * inside / rates.cache_bandwidth_gbs
    return nanoseconds / 1e6


def _share_beyond(size: int, cache: int) -> float:
    """The share of something that does not fit into a cache."""
    return max(0.0, 1 - cache / size) if size else 0.0
