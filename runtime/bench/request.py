"""What a call of ``hybrid-bench`` asks for, checked before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

__all__ = ["BenchRequest", "parse_batches", "parse_names"]

LARGEST_BATCH = 4096  # more is a typing error: the reference model's inputs alone would be 5 GiB
LONGEST = 86_400  # seconds: a day for each part of each case, more is a typing error
MOST_ROUNDS = 10_000
MOST_STARTS = 1_000


@dataclass(frozen=True)
class BenchRequest:
    """A bundle, what of it to measure, and for how long.

    Attributes:
        bundle: a bundle's folder or tar, or a run folder; None looks in the usual places.
        batches: frames that go through the model at once, each size a case of its own.
        backends, precisions, variants: only these; empty: all. One named that can't run here is an error, one of all
            that can't is left out, with the reason.
        seconds: for which each part of a case is measured (inference, preprocess, whole, copies), all rounds together.
        rounds: in how many bursts.
        warm_up: seconds for which each case runs before anything counts.
        threads: CPU threads for one batch; None leaves it to the engine.
        seed: of the order of the cases in a round.
        probe: whether to measure this CPU's peak rates, for the limit beside its numbers.
        rates: the device whose published rates give the limit beside the numbers of its targets, a GPU's mostly; None
            for no limit there. On the CPU, measured rates are taken before published ones.
        starts: fresh processes for each variant, for memory and the time to the first prediction; 0: none.
        profile: a TensorRT engine's batch sizes as they were given; None: those of ``hybrid-infer``, whose engine it
            then is. Larger batches are split.

    Raises:
        UsageError: values that make no sense.
    """

    bundle: Path | str | None = None
    batches: tuple[int, ...] = (1, 2, 4, 8)
    backends: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    seconds: float = 2.0
    rounds: int = 12
    warm_up: float = 0.5
    threads: int | None = None
    seed: int = 0
    probe: bool = False
    rates: str | None = None
    starts: int = 3
    profile: str | None = None

    def __post_init__(self) -> None:
        if not self.batches or not all(1 <= batch <= LARGEST_BATCH for batch in self.batches):
            raise UsageError(f"expected batch sizes from 1 to {LARGEST_BATCH}, found {_listed(self.batches)}")
        if len(set(self.batches)) != len(self.batches):
            raise UsageError(f"expected each batch size once, found {_listed(self.batches)}")
        if not 0 < self.seconds <= LONGEST or not 0 <= self.warm_up <= LONGEST:
            raise UsageError(
                f"expected more than 0 seconds, no negative warm-up, and neither over {LONGEST}, found {self.seconds} "
                f"and {self.warm_up}"
            )
        if not 1 <= self.rounds <= MOST_ROUNDS or not 0 <= self.starts <= MOST_STARTS:
            raise UsageError(
                f"expected 1 to {MOST_ROUNDS} rounds and 0 to {MOST_STARTS} starts, found {self.rounds} and "
                f"{self.starts}"
            )

    @property
    def burst(self) -> float:
        """Seconds for which each part of a case is called in one round."""
        return self.seconds / self.rounds


def parse_batches(text: str) -> tuple[int, ...]:
    """``1,2,4,8`` as numbers.

    Raises:
        UsageError: something else.
    """
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError:
        raise UsageError(f"expected --batch as numbers such as 1,2,4,8, found {text!r}") from None


def parse_names(text: str | None) -> tuple[str, ...]:
    """``cpu,cuda`` as names; None and the empty text as none."""
    return tuple(item.strip() for item in (text or "").split(",") if item.strip())


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers)) or "none"
