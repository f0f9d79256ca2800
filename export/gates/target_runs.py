"""Runs artifacts on their targets: against Keras, on the golden examples, and against the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...runtime.backends import ENGINES
from ...runtime.backends.base import Backend
from ...runtime.backends.tensorrt import TensorRtBackend
from ...runtime.engines.engine_options import EngineOptions
from ...runtime.errors import BackendUnavailableError
from ...runtime.manifest import Parity, Precision, Target, Temperature
from ...runtime.spec import ModelSpec
from ...runtime.timing import Timing, time_interleaved
from ..artifacts import PRECISIONS, Artifact
from ..bundle.golden_examples import Golden, golden_outputs
from .comparison import Flip
from .gate import run_gate
from .reference import Reference
from .simulation import SharedFeatures, simulate
from .verdict import GateLimits

Tensor = npt.NDArray[np.float32]
OnBatch = Callable[[int], None]

MIN_SECONDS = 2.0
WARM_UP_SECONDS = 0.3
MIN_ROUNDS = 5


@dataclass(frozen=True)
class Proof:
    """An artifact on one target: the gate's figures, the flipped images, and its outputs for the golden examples.

    ``temperature`` is the reason, a sentence, where there is none.
    """

    target: Target
    parity: Parity
    flips: tuple[Flip, ...]
    golden: Mapping[str, Tensor]
    temperature: Temperature | str


def prove(
    file: Path,
    artifact: Artifact,
    reference: Reference,
    golden: Golden,
    limits: GateLimits,
    *,
    options: EngineOptions | None = None,
    drifts: tuple[float, ...] = (),
    shared: SharedFeatures | None = None,
    on_batch: OnBatch | None = None,
) -> list[Proof]:
    """Run an artifact for each of its targets; nothing is judged yet.

    A target that is not on this machine is simulated on the CPU; what was run for one such target, or for the CPU in
    FP32, stands for the others. ``drifts`` of the hidden state, from ``hidden_drift``, are recorded with the figures;
    simulations compute once what artifacts with the same ``shared`` have in common. ``on_batch`` gets the number of
    images of each batch of the gate.

    Raises:
        ParityError: an engine refused the graph's outputs, or gave NaN or infinity.
        BackendError: an engine failed.
    """
    proofs: list[Proof] = []
    for target in artifact.targets:
        with open_target(target, file, reference.spec, options, shared) as (backend, simulated):
            stand_in = _stand_in(proofs, artifact) if simulated else None
            if stand_in is not None:
                parity = stand_in.parity.model_copy(update={"simulated": True})
                proofs.append(replace(stand_in, target=target, parity=parity))
                continue
            found = run_gate(
                reference,
                backend,
                precision=artifact.precision,
                simulated=simulated,
                limits=limits,
                on_batch=on_batch,
            )
            parity = found.parity.model_copy(update={"hidden_drift": drifts})
            proofs.append(Proof(target, parity, found.flips, golden_outputs(backend, golden), found.temperature))
    return proofs


@contextmanager
def open_target(
    target: Target,
    file: Path,
    spec: ModelSpec,
    options: EngineOptions | None = None,
    shared: SharedFeatures | None = None,
) -> Iterator[tuple[Backend, bool]]:
    """Open a target's engine, or where this machine lacks it, its simulation on the CPU, see ``simulate``.

    The block gets the backend, and whether it is the simulation.
    """
    kind = ENGINES[target]
    backend: Backend
    try:
        kind.require()
        backend = TensorRtBackend(file, spec, options=options) if kind is TensorRtBackend else kind(file, spec)
        simulated = False
    except BackendUnavailableError:
        backend, simulated = simulate(file, spec, shared), True
    with backend:
        yield backend, simulated


def _stand_in(proofs: list[Proof], artifact: Artifact) -> Proof | None:
    for proof in proofs:
        if proof.parity.simulated or (artifact.precision == "fp32" and proof.target == "cpu"):
            return proof
    return None


@dataclass(frozen=True)
class AgainstWider:
    """How a precision's time compares with the next wider one's; ``warning`` has both times where it is slower."""

    ratio: float
    warning: str | None


def against_wider(
    files: Mapping[Precision, Path], target: Target, spec: ModelSpec, options: EngineOptions | None = None
) -> dict[Precision, AgainstWider]:
    """Time the precisions of a target side by side, one image at a time, each beside the next wider one.

    The widest is left out, and all where nothing was timed: a target that is only simulated here is not.
    """
    ordered = [precision for precision in PRECISIONS if precision in files]
    timings, device = _time([files[precision] for precision in ordered], target, spec, options)
    found: dict[Precision, AgainstWider] = {}
    for (wider, slow), (narrower, fast) in pairwise(zip(ordered, timings, strict=False)):
        ratio = fast.p50 / slow.p50
        warning = (
            f"{narrower} takes {fast.p50:.2f} ms an image on {device}, {wider} {slow.p50:.2f} ms: {narrower} is "
            f"{ratio:.2f} times slower here"
        )
        found[narrower] = AgainstWider(ratio, warning if ratio > 1 else None)
    return found


def time_ratio(
    first: Path, second: Path, target: Target, spec: ModelSpec, options: EngineOptions | None = None
) -> float | None:
    """Measure how many times as long as the first the second artifact takes for an image; None if only simulated."""
    timings, _ = _time([first, second], target, spec, options)
    return timings[1].p50 / timings[0].p50 if timings else None


def _time(
    files: Sequence[Path], target: Target, spec: ModelSpec, options: EngineOptions | None
) -> tuple[list[Timing], str]:
    """Time artifacts and name the device; the list is empty for one artifact alone or where they are only simulated."""
    tensors = {name: np.zeros((1, *shape), np.float32) for name, shape in spec.inputs.items()}
    calls: dict[str, Callable[[], object]] = {}
    device = ""
    with ExitStack() as stack:
        for number, file in enumerate(files if len(files) > 1 else ()):
            backend, simulated = stack.enter_context(open_target(target, file, spec, options))
            if simulated:
                return [], ""
            calls[str(number)] = partial(backend.run, tensors)
            device = backend.device
        if not calls:
            return [], ""
        timings = time_interleaved(calls, warm_up_s=WARM_UP_SECONDS, min_seconds=MIN_SECONDS, min_rounds=MIN_ROUNDS)
    return list(timings.values()), device
