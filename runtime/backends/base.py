"""A Backend is one ONNX graph, loaded by one inference engine; the base class checks its inputs and outputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import BackendError, InputError
from ..frame import Outputs
from ..spec import ModelSpec

Tensor = npt.NDArray[np.float32]
Self = TypeVar("Self", bound="Backend")


@dataclass(frozen=True, eq=False)
class Buffers:
    """Input tensors of one batch, in the memory that the engine reads fastest; they are written in place and reused.

    ``tensors`` holds ``image`` (B, S, S, 3) and/or ``sequence`` (B, T, S*S/T), C-contiguous float32: those that the
    spec's branches use. A batch has at most B rows; ``slot`` numbers the backend's buffers from 0.
    """

    tensors: dict[str, Tensor]
    slot: int = 0


@dataclass(frozen=True, eq=False)
class Ticket:
    """A batch that was submitted; ``Backend.collect`` turns it into outputs, once."""

    buffers: Buffers
    rows: int
    outputs: Outputs | None = None


class Backend(ABC):
    """One ONNX graph, loaded; ``run`` takes the spec's inputs and gives logits and probabilities.

    Use it as a context manager, or ``close`` it. It is not thread-safe. An engine's subclass fills in ``_load``,
    ``_infer``, ``_release`` and ``device``; this class owns lifecycle and checks. The file ``model`` is already
    verified; ``threads`` is the number of CPU threads for one batch, and None leaves it to the engine.

    Raises:
        BackendUnavailableError: the engine, or what it needs, is not on this machine.
        BackendError: the engine refused the graph.
    """

    def __init__(self, model: Path, spec: ModelSpec, *, threads: int | None = None) -> None:
        self.spec = spec
        self._closed = True
        self._load(model, threads)
        self._closed = False

    @classmethod
    def require(cls) -> None:
        """Raise BackendUnavailableError, within milliseconds, where the engine can't run on this machine."""
        return  # by default ``_load`` finds that out

    @property
    @abstractmethod
    def device(self) -> str:
        """Engine, version and device for messages, such as ``ONNX Runtime 1.31.1 on CPU``."""

    @property
    def remark(self) -> str | None:
        """What is known against this version of the engine, on one line; None where nothing is."""
        return None

    @property
    def identity(self) -> Mapping[str, Any] | None:
        """What the outputs depend on beside the variant and the inputs: engine, version, device, settings (JSON).

        None where not all of that is known: then nothing that was found of a backend before holds for this one.
        """
        return None

    @abstractmethod
    def _load(self, model: Path, threads: int | None) -> None:
        """Load the graph; raise BackendError with the engine's own message where it refuses."""

    @abstractmethod
    def _infer(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute logits and probabilities, (N, C) float32 each, of checked, C-contiguous inputs."""

    @abstractmethod
    def _release(self) -> None:
        """Give back what ``_load`` took; ``close`` calls this once."""

    def run(self, tensors: Mapping[str, Tensor]) -> Outputs:
        """Run one batch of any size N >= 1 and return its logits and probabilities, (N, C) float32, finite.

        ``tensors`` are ``image`` (N, S, S, 3) and/or ``sequence`` (N, T, S*S/T), float32, finite: those that the spec's
        branches use.

        Raises:
            InputError: a tensor is missing, extra, of another dtype or shape, or not finite.
            BackendError: the engine failed, gave something not finite, or was closed.
        """
        self._check_open()
        batch = self._check_inputs(tensors)
        results = self._infer({name: np.ascontiguousarray(tensors[name]) for name in self.spec.inputs})
        return self._checked(*results, batch)

    @property
    def depth(self) -> int:
        """How many batches may be submitted before the first is collected: 1, or 2 where an engine overlaps two."""
        return 1

    def buffers(self, capacity: int, count: int) -> list[Buffers]:
        """Allocate input memory for ``count`` batches of up to ``capacity`` rows; call this once, before frames flow.

        Engines give pinned or mapped memory where that spares a copy. It lives as long as the backend. BackendError
        says that there is not enough memory.
        """
        return [Buffers(self._allocate_inputs(capacity), slot) for slot in range(count)]

    def submit(self, buffers: Buffers, rows: int) -> Ticket:
        """Start to compute the first ``rows`` rows; leave the buffers alone until ``collect``.

        The inputs are taken as they are: preprocessing wrote them, and names, shapes and values are not checked again.
        BackendError says that the engine failed, or was closed.
        """
        self._check_open()
        tensors = {name: tensor[:rows] for name, tensor in buffers.tensors.items()}
        return Ticket(buffers, rows, self._checked(*self._infer(tensors), rows))

    def collect(self, ticket: Ticket) -> Outputs:
        """Wait for a batch and return its logits and probabilities, (rows, C) float32, finite.

        Tickets are collected in the order in which they were submitted. The arrays are the caller's own, not views into
        the engine's memory. BackendError says that the engine failed, or gave something not finite.
        """
        if ticket.outputs is None:
            raise BackendError(f"{self.device}: expected a batch that this backend was given, found another's")
        return ticket.outputs

    def profile(self, tensors: Mapping[str, Tensor], *, runs: int = 5) -> dict[str, float]:  # noqa: ARG002
        """Return each node's milliseconds in one run, averaged over ``runs``; empty where the engine does not tell.

        The batch, as for ``run``, is timed in a separate session or context that takes notes. BackendError says that
        the engine failed, or was closed.
        """
        self._check_open()
        return {}

    def copies(self, buffers: Buffers, rows: int) -> dict[str, Callable[[], None]]:  # noqa: ARG002
        """Return the calls that move a batch to the engine's memory and its results back, so that they can be timed.

        ``copy in`` and ``copy out`` each do that alone and wait for it. A copy is missing where the engine reads or
        writes in place.
        """
        self._check_open()
        return {}

    def _allocate_inputs(self, capacity: int) -> dict[str, Tensor]:
        return {name: np.zeros((capacity, *shape), np.float32) for name, shape in self.spec.inputs.items()}

    def _check_open(self) -> None:
        if self._closed:
            raise BackendError(f"{self.device} was closed; open it again")

    def _checked(self, logits: Tensor, probabilities: Tensor, batch: int) -> Outputs:
        self._check_output("logits", logits, batch)
        self._check_output("probabilities", probabilities, batch)
        return Outputs(logits, probabilities)

    def close(self) -> None:
        """Give the engine's memory back; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BackendError:
            if error is None:  # the error that came first is the one to report
                raise

    def _check_inputs(self, tensors: Mapping[str, Tensor]) -> int:
        expected = self.spec.inputs
        if tensors.keys() != expected.keys():
            raise InputError(f"expected the inputs {sorted(expected)}, found {sorted(tensors)}")
        for name, shape in expected.items():
            _check_input(name, shape, tensors[name])
        batches = {name: len(tensors[name]) for name in expected}
        if len(set(batches.values())) > 1:
            raise InputError(f"expected inputs of one batch size, found {batches}")
        return next(iter(batches.values()))

    def _check_output(self, name: str, output: Tensor, batch: int) -> None:
        shape = (batch, self.spec.num_classes)
        if output.shape != shape or output.dtype != np.float32:
            raise BackendError(
                f"{self.device}: expected {name} of shape {shape}, float32, found {output.shape}, {output.dtype}; "
                "the graph is not the one its spec describes: export it again"
            )
        # the sum of squares is finite only if all values are, in a tenth of the time; if it overflows, look at each
        if math.isfinite(np.vdot(output, output)):
            return
        rows = np.flatnonzero(~np.isfinite(output).all(axis=1)).tolist()
        if rows:
            raise BackendError(
                f"{self.device}: expected finite {name}, found NaN or infinity in rows {rows} of {batch}; "
                "FP16 may have overflowed: try --precision fp32"
            )


def _check_input(name: str, shape: tuple[int, ...], tensor: Tensor) -> None:
    symbolic = f"(N, {', '.join(map(str, shape))})"
    if not isinstance(tensor, np.ndarray):
        raise InputError(f"{name}: expected a NumPy array of shape {symbolic}, found {type(tensor).__name__}")
    if tensor.dtype != np.float32:
        raise InputError(f"{name}: expected float32 of shape {symbolic}, found {tensor.dtype} of shape {tensor.shape}")
    if tensor.shape[1:] != shape or tensor.ndim == 0 or len(tensor) == 0:
        raise InputError(f"{name}: expected shape {symbolic} with N >= 1, found {tensor.shape}")
    if not np.isfinite(tensor).all():
        rows = np.flatnonzero(~np.isfinite(tensor.reshape(len(tensor), -1)).all(axis=1)).tolist()
        raise InputError(f"{name}: expected finite values, found NaN or infinity in rows {rows} of {len(tensor)}")
