"""Compute the least time that a variant can take, from what it must compute and read and how fast a machine does both.

A branch of the model takes at least as long as its products at the peak rate, and as reading its weights at the peak
bandwidth; whichever is longer limits it (Williams, Waterman, Patterson: "Roofline", CACM 2009). Branches run one after
the other, so their times add up.

A cache is credited with all that any cache of its size could do. Of a weight that is read again, the part that fits is
read at the cache's rate, the rest at the memory's; of the weights of the whole model, the part that fits is there from
the batch before. No replacement rule keeps more, so it stays a lower bound. What fits into the cores' own caches costs
nothing, and so do activations, of which most fit there.

The exporter records a variant's ``Cost`` in the manifest (``export/bundle/cost.py``). This module knows no bundle.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from .errors import UsageError

Arithmetic = Literal["fp32", "fp16", "int8"]
Count = Annotated[int, Field(ge=0)]
ARITHMETICS: tuple[Arithmetic, ...] = get_args(Arithmetic)

MIB = 2**20
PUBLISHED = Path(__file__).with_name("published_rates.csv")


@dataclass(frozen=True)
class WeightReads:
    """Constants of a size in bytes that a batch of any size reads so many times."""

    bytes: Count
    times: Count


@dataclass(frozen=True)
class BranchCost:
    """What one branch of a graph must compute and read.

    Attributes:
        macs: multiply-accumulates of convolutions, matrix products and LSTMs for one image, by their arithmetic.
        weights: the constants that are read once are one entry together; an LSTM's recurrent weights are one a layer,
            read at each timestep but the first, whose state is zero.
    """

    macs: Mapping[Arithmetic, Count] = field(default_factory=dict)
    weights: tuple[WeightReads, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """The bytes of all constants, each counted once."""
        return sum(item.bytes for item in self.weights)


@dataclass(frozen=True)
class Cost:
    """The cost of a graph, by branch; a branch that the model lacks is None. The head takes the others' results."""

    head: BranchCost
    cnn: BranchCost | None = None
    recurrent: BranchCost | None = None

    @property
    def branches(self) -> dict[str, BranchCost]:
        """The branches that the model has, by name: ``cnn``, ``recurrent``, ``head``."""
        every = {"cnn": self.cnn, "recurrent": self.recurrent, "head": self.head}
        return {name: branch for name, branch in every.items() if branch is not None}


@dataclass(frozen=True)
class Rates:
    """The peak rates of one machine, measured on it or published, and in words their ``source``.

    ``gmacs`` has 10^9 multiply-accumulates a second by arithmetic; one that is missing is done in ``fp32``. Twice that
    is what data sheets call GFLOPS or GOPS, without sparsity. Bandwidths are 10^9 bytes a second, from memory and from
    the last cache; where the latter is None, what stays in the cache costs no time. Nothing stays in a cache whose size
    is None. ``near_bytes`` is the size of the caches nearer to the cores, reading from which is part of the peak rates.
    """

    name: str
    gmacs: Mapping[Arithmetic, float]
    bandwidth_gbs: float
    cache_bytes: int | None
    cache_bandwidth_gbs: float | None
    source: str
    measured: bool
    near_bytes: int = 0
    targets: tuple[str, ...] = ("cpu",)

    @property
    def label(self) -> str:
        """The words to print beside every number that follows from these rates."""
        return "bound from rates measured on this machine" if self.measured else "predicted bound, not measured"


@dataclass(frozen=True)
class Limit:
    """The least time that a batch can take at some rates, in milliseconds, and what limits each branch.

    ``overlapped_ms`` is what would be left if one branch's arithmetic ran under another's memory traffic.
    """

    ms: float
    overlapped_ms: float
    by_branch: dict[str, float]
    limited_by: dict[str, str]


def limit_of(cost: Cost, rates: Rates, batch: int = 1) -> Limit:
    """Compute the least time for one batch of so many images, at least 1."""
    branches = cost.branches
    weights = sum(branch.weight_bytes for branch in branches.values())
    arithmetic = {name: batch * _arithmetic_ms(branch, rates) for name, branch in branches.items()}
    memory = {name: _memory_ms(branch, rates, weights) for name, branch in branches.items()}
    by_branch = {name: max(arithmetic[name], memory[name]) for name in branches}
    return Limit(
        ms=sum(by_branch.values()),
        overlapped_ms=max(sum(arithmetic.values()), sum(memory.values())),
        by_branch=by_branch,
        limited_by={name: "arithmetic" if arithmetic[name] >= memory[name] else "memory" for name in branches},
    )


def _arithmetic_ms(branch: BranchCost, rates: Rates) -> float:
    return sum(count / rates.gmacs.get(kind, rates.gmacs["fp32"]) for kind, count in branch.macs.items()) / 1e6


def _memory_ms(branch: BranchCost, rates: Rates, weights: int) -> float:
    """Return a branch's ms of reading; ``weights``, of all branches, are the bytes that compete to stay in a cache."""
    again = ((item.bytes, item.bytes * (item.times - 1)) for item in branch.weights)
    return sum(_reading_ms(size, total, rates) for size, total in ((weights, branch.weight_bytes), *again))


def _reading_ms(size: int, total: int, rates: Rates) -> float:
    """Return the ms of reading ``total`` bytes of data of ``size`` bytes, which stay in caches as far as they fit."""
    near, last = (max(0.0, 1 - cache / max(1, size)) for cache in (rates.near_bytes, rates.cache_bytes or 0))
    beyond = min(near, last)
    inside = (near - beyond) / rates.cache_bandwidth_gbs if rates.cache_bandwidth_gbs else 0.0
    return total * (beyond / rates.bandwidth_gbs + inside) / 1e6


def rates_of(device: str) -> Rates:
    """Return the published rates of a device that isn't here by its name; UsageError lists the names that are known.

    The tests hold a GPU's against the TOPS and TFLOPS that its maker prints, from which the halves for sparsity and for
    other accelerators (DLA) are left out: our graphs use neither. No maker prints the bandwidth of an L2.
    """
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        rows = {name: row for row in csv.DictReader(file) for name in row["names"].split()}
    if device not in rows:
        raise UsageError(
            f"expected one of {', '.join(rows)} as the device whose rates are taken, found {device!r}; "
            "the machine that hybrid-bench runs on is measured with --probe"
        )
    row = rows[device]
    gmacs: dict[Arithmetic, float] = {kind: float(row[kind]) for kind in ARITHMETICS}
    size, targets = round(float(row["cache_mib"]) * MIB), tuple(row["targets"].split())
    return Rates(
        row["title"], gmacs, float(row["gb_per_s"]), size, None, row["source"], measured=False, targets=targets
    )
