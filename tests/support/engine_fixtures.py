"""What the engines' tests share: a GPU to build for, and the builder that builds for it where there is none."""

from __future__ import annotations

from hybrid_edge.runtime.engines.build import BuiltEngine, build_engine
from hybrid_edge.runtime.engines.gpu import Gpu

ADA = Gpu("NVIDIA GeForce RTX 4070", (8, 9), integrated=False, total_memory=12 * 2**30, free_memory=11 * 2**30)
ORIN = Gpu("Orin", (8, 7), integrated=True, total_memory=8 * 2**30, free_memory=3 * 2**30, multiprocessors=8)


class Builds:
    """The real builder, for the architecture that ``ADA`` has; keeps what it was given and what it made."""

    def __init__(self) -> None:
        self.timing_caches: list[bytes | None] = []
        self.made: list[BuiltEngine] = []

    def __call__(self, *arguments: object, **settings: object) -> BuiltEngine:
        self.timing_caches.append(settings["timing_cache"])  # type: ignore[arg-type]
        built = build_engine(*arguments, **settings, architecture="sm89")  # type: ignore[arg-type]
        self.made.append(built)
        return built
