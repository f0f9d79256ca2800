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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .errors import UsageError

Arithmetic = Literal["fp32", "fp16", "int8"]
Count = Annotated[int, Field(ge=0)]

PREDICTED = "predicted bound, not measured"
MIB = 2**20
# an arithmetic without a rate of its own is done in the next wider one: the values convert without loss
WIDER: Mapping[Arithmetic, Arithmetic] = {"int8": "fp16", "fp16": "fp32"}


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

    ``gmacs`` has 10^9 multiply-accumulates a second by arithmetic, ``fp32`` at least; twice that is what data sheets
    call GFLOPS or GOPS, without sparsity. Bandwidths are 10^9 bytes a second, from memory and from the last cache;
    where the latter is None, what stays in the cache costs no time. Nothing stays in a cache whose size is None.
    ``near_bytes`` is the size of the caches nearer to the cores, reading from which is part of the peak rates.
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
        return "bound from rates measured on this machine" if self.measured else PREDICTED


class Limit(BaseModel):
    """The least time that a batch can take at some rates, in milliseconds, and what limits each branch.

    ``overlapped_ms`` is what would be left if the branches ran side by side, one's arithmetic under another's memory
    traffic. ``rates`` names the machine, ``measured`` says whether its rates were measured there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    ms: float
    overlapped_ms: float
    by_branch: dict[str, float]
    limited_by: dict[str, str]
    rates: str
    measured: bool


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
        rates=rates.name,
        measured=rates.measured,
    )


def _arithmetic_ms(branch: BranchCost, rates: Rates) -> float:
    return sum(count / (_gmacs(rates, kind) * 1e6) for kind, count in branch.macs.items())


def _gmacs(rates: Rates, kind: Arithmetic) -> float:
    while kind not in rates.gmacs:
        kind = WIDER[kind]
    return rates.gmacs[kind]


def _memory_ms(branch: BranchCost, rates: Rates, weights: int) -> float:
    """Return a branch's ms of reading; ``weights``, of all branches, are the bytes that compete to stay in a cache."""
    again = ((item.bytes, item.bytes * (item.times - 1)) for item in branch.weights)
    return sum(_reading_ms(size, total, rates) for size, total in ((weights, branch.weight_bytes), *again))


def _reading_ms(size: int, total: int, rates: Rates) -> float:
    """Return the ms of reading ``total`` bytes of data of ``size`` bytes, which stay in caches as far as they fit."""
    beyond = _share_beyond(size, rates.cache_bytes or rates.near_bytes)
    inside = max(0.0, _share_beyond(size, rates.near_bytes) - beyond)
    nanoseconds = total * beyond / rates.bandwidth_gbs
    if rates.cache_bandwidth_gbs:
        nanoseconds += total * inside / rates.cache_bandwidth_gbs
    return nanoseconds / 1e6


def _share_beyond(size: int, cache: int) -> float:
    return max(0.0, 1 - cache / size) if size else 0.0


# Published rates of devices that are not here. A GPU's follow from its multiprocessors and its clock; the tests hold
# them against the TOPS and TFLOPS that its maker prints, from which the halves for sparsity and for other accelerators
# (DLA) are left out: our graphs use neither. No maker prints the bandwidth of an L2.
GPU = ("cuda", "tensorrt")
# multiply-accumulates of one multiprocessor a clock: FP32 on its CUDA cores, the others, dense, on its tensor cores
XAVIER: Mapping[Arithmetic, int] = {"fp32": 64, "fp16": 512, "int8": 1024}
ORIN: Mapping[Arithmetic, int] = {"fp32": 128, "fp16": 1024, "int8": 2048}
THOR: Mapping[Arithmetic, int] = {"fp32": 128, "fp16": 4096, "int8": 8192}

QUERIED = "L2 as CUDA's deviceQuery shows it"
AGX_BRIEF = "NVIDIA's Jetson AGX Orin series technical brief (multiprocessors, TOPS, memory, L2)"
NX_SHEET = f"NVIDIA's Jetson Orin NX series data sheet (clock, TOPS, memory); {QUERIED}"
NANO_SHEET = f"NVIDIA's Jetson Orin Nano series data sheet (clock, TOPS, memory); {QUERIED}"
NANO_NEWS = f"NVIDIA's announcement of the Orin Nano Super (clocks, dense TOPS, memory, before and after); {QUERIED}"
NX_NEWS = f"NVIDIA's announcement of JetPack 6.2's Super modes (clock, TOPS, memory); {QUERIED}"
XAVIER_SHEET = f"NVIDIA's Jetson Xavier NX data sheet, per clock as AGX Xavier's 22.6 INT8 TOPS; {QUERIED}"
THOR_SHEET = f"NVIDIA's Jetson Thor series data sheet (clock, FP16 and FP8 TFLOPS, memory), INT8 as FP8; {QUERIED}"
H200_SHEET = "NVIDIA's H200 data sheet (TFLOPS and TOPS without sparsity, memory); L2 of its H100 white paper"
PI_GUIDE = (  # each core's two pipes do 8 products a clock in FP32, 16 in FP16, 32 in INT8
    "4 Cortex-A76 at 2.4 GHz with two 128-bit pipes (Arm's Cortex-A76 software optimization guide: FMLA and SDOT); "
    "LPDDR4X-4267, 32 bits wide, 2 MB of L3 (Raspberry Pi's page of BCM2712)"
)


def _jetson(
    name: str,
    processors: int,
    mhz: int,
    gbs: float,
    l2_mib: float,
    source: str,
    per_clock: Mapping[Arithmetic, int] = ORIN,
) -> Rates:
    gmacs = {kind: processors * count * mhz / 1e3 for kind, count in per_clock.items()}
    said = f"{processors} multiprocessors at {mhz} MHz; {source}"
    return Rates(name, gmacs, gbs, round(l2_mib * MIB), None, said, measured=False, targets=GPU)


H200: Mapping[Arithmetic, float] = {"fp32": 33_500, "fp16": 494_750, "int8": 989_500}
PI: Mapping[Arithmetic, float] = {"fp32": 76.8, "fp16": 153.6, "int8": 307.2}
DEVICES: Mapping[str, Rates] = {
    "orin-nano-4": _jetson("Jetson Orin Nano 4GB", 4, 625, 34, 2, NANO_SHEET),
    "orin-nano": _jetson("Jetson Orin Nano 8GB", 8, 635, 68, 2, NANO_NEWS),
    "orin-nano-super": _jetson("Jetson Orin Nano 8GB, Super", 8, 1020, 102, 2, NANO_NEWS),
    "orin-nx-8": _jetson("Jetson Orin NX 8GB", 8, 765, 102.4, 2, NX_SHEET),
    "orin-nx-16": _jetson("Jetson Orin NX 16GB", 8, 918, 102.4, 2, NX_SHEET),
    "orin-nx-16-super": _jetson("Jetson Orin NX 16GB, Super", 8, 1173, 102.4, 2, NX_NEWS),
    "agx-orin-32": _jetson("Jetson AGX Orin 32GB", 14, 930, 204.8, 4, AGX_BRIEF),
    "agx-orin-64": _jetson("Jetson AGX Orin 64GB", 16, 1300, 204.8, 4, AGX_BRIEF),
    "xavier-nx": _jetson("Jetson Xavier NX", 6, 1100, 59.7, 0.5, XAVIER_SHEET, XAVIER),
    "thor": _jetson("Jetson Thor T5000", 20, 1575, 273, 32, THOR_SHEET, THOR),
    "h200": Rates("H200 SXM", H200, 4800, 50 * MIB, None, H200_SHEET, measured=False, targets=GPU),
    "rpi5": Rates("Raspberry Pi 5, CPU", PI, 17.1, 2 * MIB, None, PI_GUIDE, measured=False),
}
ALIASES = {"orin-nx": "orin-nx-16", "agx-orin": "agx-orin-64"}  # a name without a size means the larger module


def rates_of(device: str) -> Rates:
    """Return a device's published rates by its name in ``DEVICES`` or ``ALIASES``, which UsageError lists."""
    try:
        return DEVICES[ALIASES.get(device, device)]
    except KeyError:
        raise UsageError(
            f"expected one of {', '.join((*DEVICES, *ALIASES))} as the device whose rates are taken, found {device!r}; "
            "the machine that hybrid-bench runs on is measured with --probe"
        ) from None
