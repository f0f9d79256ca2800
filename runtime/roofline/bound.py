"""Compute the shortest time that a machine of given rates can take for a graph, with a roofline for each branch.

A branch takes at least as long as its products at the peak rate, and as its bytes at the peak bandwidth; whichever is
longer limits it (Williams, Waterman, Patterson: "Roofline", CACM 2009). Branches run one after the other, so their
times add up; what would be left if they overlapped perfectly is given beside it.

A cache is credited with all that any cache of its size could do. Of a weight that is read again, and of an activation,
the part that fits is moved at the cache's rate, the rest at the memory's; of the weights of the whole model, the part
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
    """This is the least time that a batch can take on a machine.

    Attributes:
        ms: milliseconds a batch, the branches one after the other.
        overlapped_ms: milliseconds a batch if the branches ran side by side, the arithmetic of one under the memory
            traffic of the other.
        by_branch: milliseconds of ``cnn``, ``recurrent`` and ``head``, as far as the model has them.
        limited_by: whether arithmetic or memory takes that long, by branch.
        arithmetic_ms: milliseconds of the products alone, by branch.
        memory_ms: milliseconds of the bytes alone, by branch.
        batch: the number of images in the batch.
        rates: the machine's rates.
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
        """The words to print beside the number: that its rates were measured here, or that it is predicted."""
        return self.rates.label

    def reached(self, measured_ms: float) -> float:
        """Return how close a measured time comes: 1 at the bound, 0.5 where it takes twice as long."""
        return self.ms / measured_ms


def bound(cost: Cost, rates: Rates, batch: int = 1) -> Bound:
    """Compute the least time for one batch.

    Args:
        cost: the graph's cost, from the manifest.
        rates: the machine's rates.
        batch: the number of images, from 1.

    Raises:
        UsageError: the batch has no image.
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
    """Return a branch's ms of moving; ``weights``, of all branches, are the bytes that compete to stay in a cache."""
    again = ((item.bytes, item.bytes * (item.times - 1)) for item in branch.weights if item.times > 1)
    activations = ((item.bytes * batch, item.total * batch) for item in branch.activations)
    moved = ((weights, branch.weight_bytes), *again, *activations)
    return sum(_moving_ms(size, total, rates) for size, total in moved)


def _moving_ms(size: int, total: int, rates: Rates) -> float:
    """Return the ms of moving ``total`` bytes of data of ``size`` bytes, which stay in caches as far as they fit."""
    beyond = _share_beyond(size, rates.cache_bytes or rates.near_bytes)
    inside = max(0.0, _share_beyond(size, rates.near_bytes) - beyond)
    nanoseconds = total * beyond / rates.bandwidth_gbs
    if rates.cache_bandwidth_gbs:
        nanoseconds += total * inside / rates.cache_bandwidth_gbs
    return nanoseconds / 1e6


def _share_beyond(size: int, cache: int) -> float:
    """Return the share of ``size`` bytes that does not fit into a cache of so many bytes."""
    return max(0.0, 1 - cache / size) if size else 0.0
