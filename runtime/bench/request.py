"""Define what a call of ``hybrid-bench`` asks for, checked before anything heavy is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

__all__ = ["BenchRequest", "parse_batches", "parse_names"]

LARGEST_BATCH = 4096  # more is a typing error: the reference model's inputs alone would be 5 GiB
LONGEST = 86_400  # seconds, a day for each part of each case: more is a typing error
MOST_ROUNDS = 10_000
MOST_STARTS = 1_000


@dataclass(frozen=True)
class BenchRequest:
    """This request names a bundle, what of it to measure, and for how long.

    Attributes:
        bundle: a bundle's folder or tar, or a run folder; None looks in the usual places.
        batches: the numbers of frames that go through the model at once, each a case of its own.
        backends, precisions, variants: measure only these; empty means all. One that is named and can't run here is an
            error; one that is not named and can't is left out, with the reason.
        seconds: how long each part of a case (inference, preprocess, whole, copies) is measured, all rounds together.
        rounds: the number of bursts that this time is divided into.
        warm_up: seconds for which each case runs before anything counts.
        threads: CPU threads for one batch; None leaves the number to the engine.
        seed: the seed of the order of the cases in a round.
        probe: whether to measure this CPU's peak rates, for the limit beside its numbers.
        rates: the device whose published rates give the limit beside the numbers of its targets, a GPU's mostly; None
            for no limit there. On the CPU, measured rates are taken before published ones.
        starts: the number of fresh processes for each variant, for memory and the time to the first prediction.
        profile: a TensorRT engine's batch sizes as they were given; None takes those of ``hybrid-infer``, and so its
            engine. Larger batches are split.

    Raises:
        UsageError: a value makes no sense.
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
        """The seconds for which each part of a case is called in one round."""
        return self.seconds / self.rounds


def parse_batches(text: str) -> tuple[int, ...]:
    """Return batch sizes such as ``1,2,4,8`` as numbers.

    Raises:
        UsageError: the text is something else.
    """
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError:
        raise UsageError(f"expected --batch as numbers such as 1,2,4,8, found {text!r}") from None


def parse_names(text: str | None) -> tuple[str, ...]:
    """Return names such as ``cpu,cuda`` one by one; none for None and the empty text."""
    return tuple(item.strip() for item in (text or "").split(",") if item.strip())


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers)) or "none"
