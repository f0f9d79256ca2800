"""What the engines' tests share: a GPU to build for, the builder that builds for it, and a cache of another user's."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from hybrid_edge.runtime.backends.cuda import find_gpu
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend
from hybrid_edge.runtime.engines.build import BuiltEngine, build_engine
from hybrid_edge.runtime.engines.gpu import Gpu
from hybrid_edge.runtime.errors import BackendUnavailableError
from support.models.small_graphs import SPEC

ADA = Gpu("NVIDIA GeForce RTX 4070", (8, 9), integrated=False, total_memory=12 * 2**30, free_memory=11 * 2**30)
ORIN = Gpu("Orin", (8, 7), integrated=True, total_memory=8 * 2**30, free_memory=3 * 2**30, multiprocessors=8)


def inputs(batch: int, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Inputs of ``small_graphs``' graph, others for each seed."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, (batch, *shape)).astype(np.float32) for name, shape in SPEC.inputs.items()}


def skip_on_a_gpu() -> None:
    """For tests of what is said, and what the real bindings answer, where there is none."""
    try:
        find_gpu()
    except BackendUnavailableError:
        return
    pytest.skip("this machine has a GPU")


def skip_where_tensorrt_runs() -> None:
    """For tests of what is done without an engine."""
    try:
        TensorRtBackend.require()
    except BackendUnavailableError:
        return
    pytest.skip("this machine has TensorRT and a GPU")


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


@contextmanager
def another_users(folder: Path) -> Iterator[None]:
    """The folder as another user's: its files can be read, and nothing there written, also by tests that root runs."""
    inside = [folder, *folder.rglob("*")]
    root = os.geteuid() == 0
    above = [path for path in folder.parents if root and path.stat().st_mode & 0o011 != 0o011]
    modes = {path: path.stat().st_mode for path in (*inside, *above)}
    for path in inside:
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in above:
        path.chmod(modes[path] | 0o011)  # pytest's folders are for who made them alone
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)
