"""What one inference of a graph must do at least: multiply-accumulates and bytes, branch by branch.

The exporter reads it off the graph that it wrote (``export/cost.py``) and puts it into the manifest; ``hybrid-bench``
turns it into the shortest time that a machine of given rates can take (``bound.py``).
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
    """Something in memory that is moved several times: a weight that is read, an activation that is written and read.

    Attributes:
        bytes: its size.
        times: how often all of it is moved. Equal things are one entry with their times together.
    """

    bytes: Count
    times: Count

    @property
    def total(self) -> int:
        """Bytes that cross, all times together."""
        return self.bytes * self.times


@dataclass(frozen=True)
class BranchCost:
    """One branch of a graph.

    Attributes:
        macs: multiply-accumulates for one image, by the arithmetic that they are done in. Multiplications and
            additions that are no product of matrices are not counted.
        weights: the constants, each as often as a batch of any size reads it: those that are read once are one entry
            together; an LSTM's recurrent weights are one entry a layer, read once for each timestep but the first,
            whose state is zero.
        activations: tensors for one image at the borders of the operators that can't be fused into one another, each
            written once and read once by each operator that takes it.
    """

    macs: Mapping[Arithmetic, Count] = field(default_factory=dict)
    weights: tuple[Moved, ...] = ()
    activations: tuple[Moved, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants, each counted once."""
        return sum(item.bytes for item in self.weights)

    @property
    def weight_traffic(self) -> int:
        """Bytes of constants that a batch reads."""
        return sum(item.total for item in self.weights)

    @property
    def weight_reads(self) -> int:
        """How often a batch reads the constant that it reads most often: 1 without a recurrence, else T - 1."""
        return max((item.times for item in self.weights), default=0)

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations that one image writes and reads."""
        return sum(item.total for item in self.activations)


@dataclass(frozen=True)
class Cost:
    """A graph's branches; a branch that the model lacks is None. The head is what takes the branches' results."""

    head: BranchCost
    cnn: BranchCost | None = None
    recurrent: BranchCost | None = None

    @property
    def branches(self) -> dict[str, BranchCost]:
        """Those that there are, by name: ``cnn``, ``recurrent``, ``head``."""
        every = {"cnn": self.cnn, "recurrent": self.recurrent, "head": self.head}
        return {name: branch for name, branch in every.items() if branch is not None}

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(sum(branch.macs.values()) for branch in self.branches.values())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants, each counted once."""
        return sum(branch.weight_bytes for branch in self.branches.values())

    def bytes_moved(self, batch: int = 1) -> int:
        """Bytes of weights and activations that a batch moves, in and out of a cache or not."""
        branches = self.branches.values()
        return sum(branch.weight_traffic + batch * branch.activation_bytes for branch in branches)
