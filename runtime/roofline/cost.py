"""Hold what one inference of a graph must do at least: multiply-accumulates and bytes, branch by branch.

The exporter reads the cost off the graph that it wrote (``export/bundle/cost.py``) and puts it into the manifest;
``hybrid-bench`` turns it into the shortest time that a machine of given rates can take (``bound.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

__all__ = ["Arithmetic", "BranchCost", "Cost", "Moved"]

Arithmetic = Literal["fp32", "fp16", "int8"]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Moved:
    """This is data moved between memory and processor: a weight that is read, an activation that is written and read.

    Attributes:
        bytes: the size of the data.
        times: how often all of it is moved. Equal data are one entry, which adds up their times.
    """

    bytes: Count
    times: Count

    @property
    def total(self) -> int:
        """The bytes that are moved, all times together."""
        return self.bytes * self.times


@dataclass(frozen=True)
class BranchCost:
    """This is the cost of one branch of a graph.

    Attributes:
        macs: multiply-accumulates for one image, by the arithmetic that they are done in. Multiplications and
            additions that are no product of matrices are not counted.
        weights: the constants, with how often a batch of any size reads them: those that are read once are one entry
            together; an LSTM's recurrent weights are one entry a layer, read once for each timestep but the first,
            whose state is zero.
        activations: one image's tensors between operators that can't be fused into one another, each written once and
            read once by each operator that takes it.
    """

    macs: Mapping[Arithmetic, Count] = field(default_factory=dict)
    weights: tuple[Moved, ...] = ()
    activations: tuple[Moved, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """The bytes of all constants, each counted once."""
        return sum(item.bytes for item in self.weights)

    @property
    def weight_traffic(self) -> int:
        """The bytes of constants that a batch reads, each counted as often as it is read."""
        return sum(item.total for item in self.weights)

    @property
    def weight_reads(self) -> int:
        """The number of times that a batch reads the constant it reads most: 1 without a recurrence, else T - 1."""
        return max((item.times for item in self.weights), default=0)

    @property
    def activation_bytes(self) -> int:
        """The bytes of activations that one image writes and reads."""
        return sum(item.total for item in self.activations)


@dataclass(frozen=True)
class Cost:
    """This is the cost of a graph, by branch; a branch that the model lacks is None. The head takes their results."""

    head: BranchCost
    cnn: BranchCost | None = None
    recurrent: BranchCost | None = None

    @property
    def branches(self) -> dict[str, BranchCost]:
        """The branches that the model has, by name: ``cnn``, ``recurrent``, ``head``."""
        every = {"cnn": self.cnn, "recurrent": self.recurrent, "head": self.head}
        return {name: branch for name, branch in every.items() if branch is not None}

    @property
    def macs(self) -> int:
        """The number of multiply-accumulates for one image."""
        return sum(sum(branch.macs.values()) for branch in self.branches.values())

    @property
    def weight_bytes(self) -> int:
        """The bytes of all constants, each counted once."""
        return sum(branch.weight_bytes for branch in self.branches.values())

    def bytes_moved(self, batch: int = 1) -> int:
        """Return the bytes of weights and activations that a batch moves, whether a cache holds them or not."""
        branches = self.branches.values()
        return sum(branch.weight_traffic + batch * branch.activation_bytes for branch in branches)
