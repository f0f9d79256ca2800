"""Keeps what was found fastest on this device, and finds it again: which CPU variant, on how many threads.

``hybrid-bench --tune`` measures; ``open_backend`` takes it. It holds for the same graphs, ONNX Runtime, CPU, number of
CPUs and clock limits, which a power mode changes: with any other it is not found, and the exporter's order holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..engines.cache import EngineCache, OnRefusal, digest_of
from ..errors import BackendUnavailableError
from ..manifest import Precision, Variant
from ..process import cpu_identity, usable_cpus
from .onnxruntime import onnxruntime_build

CLOCK_FILES = ("scaling_governor", "scaling_max_freq")  # of each CPU; a Jetson's power modes set the second
PRECISIONS = get_args(Precision)
WORTH = 1.03  # how many times as fast a narrower precision, or a number of threads, must be to be worth taking


class Choice(BaseModel):
    """What is fastest for one batch size; ``threads`` of None leaves their number to ONNX Runtime."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    variant: str
    threads: int | None = Field(ge=1, le=1024)
    milliseconds: float


class Tuning(BaseModel):
    """The choice for each batch size that was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    batches: Mapping[int, Choice]

    def of(self, batch: int) -> Choice:
        """Return the choice of the largest size measured that is no larger than ``batch``, or of the smallest."""
        return self.batches[max((size for size in self.batches if size <= batch), default=min(self.batches))]


def tunable(variants: Sequence[Variant]) -> list[Variant]:
    """Return the variants that ``auto`` may take on a CPU, the widest precision first."""
    ours = [item for item in variants if item.target == "cpu" and item.parity.passed]
    return sorted(ours, key=lambda item: PRECISIONS.index(item.precision))


def find_tuning(variants: Sequence[Variant]) -> Tuning | None:
    """Return what was kept for a bundle's variants on this device as it is now; None where nothing was."""
    try:
        name = _note_name(variants)
    except BackendUnavailableError:  # there is no ONNX Runtime to run them
        return None
    content = None if name is None else EngineCache().read_note(name)
    if content is None:
        return None
    try:
        found = Tuning.model_validate_json(content)
    except ValidationError:
        return None
    names = {item.name for item in tunable(variants)}
    return found if found.batches and all(item.variant in names for item in found.batches.values()) else None


def keep_tuning(variants: Sequence[Variant], tuning: Tuning, on_refusal: OnRefusal = lambda _: None) -> bool:
    """Keep what was measured; return False, with the reason told to ``on_refusal``, where that can't be done."""
    reasons: list[str] = []
    name = _note_name(variants)
    if name is None:
        reasons.append("the system does not say which CPU this is: what was measured can't be kept")
    else:
        EngineCache().keep_note(name, tuning.model_dump_json().encode(), reasons.append)
    for reason in reasons:
        on_refusal(reason)
    return not reasons


def _note_name(variants: Sequence[Variant]) -> str | None:
    cpu = cpu_identity()
    if cpu is None:
        return None
    hashes = sorted(f"{item.name} {item.file.sha256}" for item in tunable(variants))
    return f"{digest_of([hashes, onnxruntime_build(), cpu, len(usable_cpus()), clock_limits()])}.tuning"


def clock_limits(root: Path = Path("/")) -> list[str]:
    """Return what limits the CPUs' clocks now, one text for each kind of core; ``root`` has /sys."""
    found = set[str]()
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"):
        with contextlib.suppress(OSError):
            found.add(" ".join((folder / name).read_text().strip() for name in CLOCK_FILES))
    return sorted(found)
