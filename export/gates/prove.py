"""Runs an artifact for each of its targets: against Keras, on the golden examples, and for its states' drift."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from ...runtime.backends import ENGINES
from ...runtime.backends.base import Backend
from ...runtime.backends.onnxruntime import OnnxRuntimeSimulated, TensorSession
from ...runtime.backends.tensorrt import TensorRtBackend
from ...runtime.engines.engine_options import EngineOptions
from ...runtime.errors import BackendUnavailableError
from ...runtime.manifest import Parity, Target
from ...runtime.spec import ModelSpec
from ..bundle.golden_examples import Golden, golden_outputs
from ..convert.build import serialize
from ..plan import Artifact
from .gate import Limits, Measured, measure, measure_drift
from .instrument import HIDDEN, with_hidden_states
from .reference import Reference

__all__ = ["Proof", "drift", "open_target", "prove"]

Tensor = npt.NDArray[np.float32]
OnBatch = Callable[[int], None]


@dataclass(frozen=True)
class Proof:
    """The gate's figures of an artifact on one target, and its outputs for the golden examples."""

    target: Target
    measured: Measured
    golden: Mapping[str, Tensor]

    @property
    def parity(self) -> Parity:
        """The gate's figures, beside their limits."""
        return self.measured.parity


def prove(
    file: Path,
    artifact: Artifact,
    reference: Reference,
    golden: Golden,
    limits: Limits,
    *,
    options: EngineOptions | None = None,
    drifts: tuple[float, ...] = (),
    on_batch: OnBatch | None = None,
) -> list[Proof]:
    """Run an artifact for each of its targets; nothing is judged yet.

    A target that is not on this machine is simulated on the CPU; what was run for one such target, or for the CPU in
    FP32, stands for the others.

    Args:
        file: the artifact's ONNX file.
        artifact: its precision, form and targets.
        reference: what Keras gives.
        golden: the bundle's golden examples.
        limits: the gate's limits.
        options: the batch profile and workspace of TensorRT's engines.
        drifts: the drift of the hidden state, from ``drift``, which is recorded with the figures.
        on_batch: called after each batch of the gate with its number of images.

    Raises:
        ParityError: an engine refused the graph's outputs, or gave NaN or infinity.
        BackendError: an engine failed.
    """
    proofs: list[Proof] = []
    for target in artifact.targets:
        with open_target(target, file, reference.spec, options) as (backend, simulated):
            stand_in = _stand_in(proofs, artifact) if simulated else None
            if stand_in is not None:
                proofs.append(_for(stand_in, target))
                continue
            found = measure(
                reference,
                backend,
                precision=artifact.precision,
                simulated=simulated,
                limits=limits,
                on_batch=on_batch,
            )
            parity = found.parity.model_copy(update={"hidden_drift": drifts})
            proofs.append(Proof(target, Measured(parity, found.flips), golden_outputs(backend, golden)))
    return proofs


@contextlib.contextmanager
def open_target(
    target: Target, file: Path, spec: ModelSpec, options: EngineOptions | None = None
) -> Iterator[tuple[Backend, bool]]:
    """Open a target's engine, or where this machine lacks it, its simulation on the CPU.

    The block gets the backend, and whether it is the simulation.
    """
    kind = ENGINES[target]
    backend: Backend
    try:
        kind.require()
        backend = TensorRtBackend(file, spec, options=options) if kind is TensorRtBackend else kind(file, spec)
        simulated = False
    except BackendUnavailableError:
        backend, simulated = OnnxRuntimeSimulated(file, spec), True
    with backend:
        yield backend, simulated


def drift(model: onnx.ModelProto, reference: Reference) -> tuple[float, ...]:
    """Measure how far the last LSTM's hidden state is from Keras's after each timestep, simulated on the CPU.

    Args:
        model: the artifact's graph; an output is added to it.
        reference: what Keras gives.
    """
    if reference.hidden is None:
        return ()
    with TensorSession(serialize(with_hidden_states(model)), simulated=True) as session:
        return measure_drift(reference, lambda tensors: session.run(tensors)[HIDDEN])


def _stand_in(proofs: list[Proof], artifact: Artifact) -> Proof | None:
    for proof in proofs:
        if proof.parity.simulated or (artifact.precision == "fp32" and proof.target == "cpu"):
            return proof
    return None


def _for(proof: Proof, target: Target) -> Proof:
    parity = proof.parity.model_copy(update={"simulated": True})
    return Proof(target, Measured(parity, proof.measured.flips), proof.golden)
