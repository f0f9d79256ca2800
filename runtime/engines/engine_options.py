"""Options say how an engine is built: for which batch sizes, and with how much scratch memory."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from .gpu import MIB, Gpu, available_memory

Profile = tuple[int, int, int]

DEFAULT_PROFILE: Profile = (1, 1, 8)
LEAST_WORKSPACE = 64 * MIB
# TensorRT's own default is all of the GPU's memory. On a Jetson that is the system's memory, in which the graph, its
# weights and the engine lie at the same time, each as large as the others: building ran out of memory there.
GPU_SHARE = 2
SYSTEM_SHARE = 4


@dataclass(frozen=True)
class EngineOptions:
    """What a user may choose about an engine.

    Attributes:
        profile: smallest, usual and largest batch; kernels are chosen for the usual one. Larger batches are split.
        workspace: the most scratch memory that a kernel may take, bytes; None is half of a GPU's own memory, or a
            quarter of what the system has free where the GPU shares it (Jetson).
        build: whether an engine that is not in the cache may be built, which takes minutes while a camera waits.

    Raises:
        UsageError: the profile is not 1 <= smallest <= usual <= largest, or the workspace is under 64 MiB.
    """

    profile: Profile = DEFAULT_PROFILE
    workspace: int | None = None
    build: bool = True

    def __post_init__(self) -> None:
        smallest, usual, largest = self.profile
        if not 1 <= smallest <= usual <= largest:
            raise UsageError(
                f"expected a batch profile of 1 <= MIN <= OPT <= MAX, found {','.join(map(str, self.profile))}"
            )
        if self.workspace is not None and self.workspace < LEAST_WORKSPACE:
            raise UsageError(
                f"expected a workspace of at least {LEAST_WORKSPACE // MIB} MiB, found {self.workspace / MIB:g} MiB"
            )

    @classmethod
    def from_flags(cls, profile: str | None, workspace: int | None, *, build: bool = True) -> EngineOptions:
        """Make options of ``--profile MIN,OPT,MAX``, ``--workspace MIB`` and ``--no-build``, or raise UsageError."""
        sizes = {} if profile is None else {"profile": parse_profile(profile)}
        return cls(**sizes, workspace=None if workspace is None else workspace * MIB, build=build)

    def workspace_on(self, gpu: Gpu | None) -> int | None:
        """Return the bytes of scratch memory on this GPU; None, without a GPU, leaves them to TensorRT."""
        if self.workspace is not None or gpu is None:
            return self.workspace
        if gpu.integrated:
            return max(LEAST_WORKSPACE, available_memory(gpu.free_memory) // SYSTEM_SHARE)
        return gpu.total_memory // GPU_SHARE

    @property
    def arguments(self) -> str:
        """The command-line options that differ from the defaults, each after a blank: `` --profile 1,2,4``."""
        profile = "" if self.profile == DEFAULT_PROFILE else f" --profile {','.join(map(str, self.profile))}"
        return profile + ("" if self.workspace is None else f" --workspace {self.workspace // MIB}")


def parse_profile(text: str) -> Profile:
    """Read ``1,1,8`` as three batch sizes, or raise UsageError where the text is not three whole numbers."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"expected a batch profile of MIN,OPT,MAX such as 1,1,8, found {text!r}")
    smallest, usual, largest = (int(part) for part in parts)
    return smallest, usual, largest
