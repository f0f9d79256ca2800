"""The Backend of TensorRT and TensorRT-RTX takes an engine from the cache or builds it, and overlaps two batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...engines.build import BuildEnvironment, PreparedEngine, prepare_engine
from ...engines.cache import EngineCache
from ...engines.engine_options import EngineOptions
from ...engines.progress import Reporter
from ...errors import BackendError, EngineMissingError
from ...frame import Outputs
from ...spec import ModelSpec
from ...storage import file_sha256
from ..base import Backend, Buffers, Ticket
from .batch_memory import BatchMemory, EngineStreams
from .engine import LoadedEngine, StaleEngineError, find_tensorrt
from .execution import Execution, RunBatch

Tensor = npt.NDArray[np.float32]

# batch sizes for which TensorRT-RTX compiles before frames flow; larger ones compile as they come up
MAX_WARMED_SIZES = 32


class TensorRtBackend(Backend):
    """Runs a graph as a TensorRT engine, from the cache or built now; splits batches over the profile's largest.

    ``threads`` is ignored, as nothing runs on the CPU. ``sha256`` is the ONNX file's, and computed if None.
    ``reporter`` is told while an engine is built; ``graphs`` allows CUDA graphs where the engine does.

    Raises:
        BackendUnavailableError: there is no TensorRT, no cuda-python, no driver or no GPU.
        EngineError: TensorRT could not build, load or hold the engine.
        EngineMissingError: there is no engine in the cache, and none may be built.
        Int8EngineError: TensorRT does not build this quantized graph here.
    """

    def __init__(
        self,
        model: Path,
        spec: ModelSpec,
        *,
        threads: int | None = None,
        sha256: str | None = None,
        options: EngineOptions | None = None,
        reporter: Reporter | None = None,
        graphs: bool = True,
    ) -> None:
        self._sha256 = sha256
        self._options = options or EngineOptions()
        self._reporter = reporter or Reporter()
        self._graphs = graphs
        self._stack = ExitStack()
        self._memories: list[BatchMemory] = []
        self._pending: deque[Ticket] = deque()
        super().__init__(model, spec, threads=threads)

    @classmethod
    def require(cls) -> None:
        """Refuse where there is no TensorRT or no GPU."""
        find_tensorrt()

    @property
    def device(self) -> str:
        """Engine, version and device for messages, such as ``TensorRT 10.3.0 on Orin``."""
        return f"{self._library.label} on {self._gpu.name}"

    @property
    def depth(self) -> int:
        """Two batches: one is copied, or waits in line on the GPU, while another is computed."""
        return 2

    def buffers(self, capacity: int, count: int) -> list[Buffers]:
        """Allocate page-locked input memory (a Jetson's GPU reads it in place) and try it out, so that no frame waits.

        Where kernels are compiled for each batch size (TensorRT-RTX), the first buffers try sizes up to ``capacity``.
        """
        self._check_open()
        made = []
        for _ in range(count):
            memory = self._allocate(capacity)
            self._memories.append(memory)
            made.append(Buffers(memory.inputs, len(self._memories) - 1))
            for _ in range(2 if self._graphs else 1):  # the second run is captured
                self._warm_up(memory, capacity)
        if made and self._engine.compiles:
            smallest, _, largest = self._options.profile
            for rows in range(min(smallest, capacity), min(largest, capacity, MAX_WARMED_SIZES) + 1):
                self._warm_up(self._memory_of(made[0]), rows)
        self._engine.keep_kernels(self._reporter)  # now, as a process that runs for a year may be killed in the end
        return made

    def submit(self, buffers: Buffers, rows: int) -> Ticket:
        """Start to compute the first ``rows`` rows and return at once; BackendError if the buffers are under way."""
        self._check_open()
        memory = self._memory_of(buffers)
        memory.start(rows, self._execution.run)
        ticket = Ticket(buffers, rows)
        self._pending.append(ticket)
        return ticket

    def collect(self, ticket: Ticket) -> Outputs:
        """Wait for a batch, which must be the first submitted of those that were not collected."""
        self._check_open()
        if not self._pending or self._pending[0] is not ticket:
            raise BackendError(
                f"{self.device}: expected the first of {len(self._pending)} batches under way, found another; collect "
                "batches in the order in which they were submitted, each once"
            )
        self._pending.popleft()
        return self._checked(*self._memory_of(ticket.buffers).finish(ticket.rows), ticket.rows)

    def profile(self, tensors: Mapping[str, Tensor], *, runs: int = 5) -> dict[str, float]:
        """Measure how long the engine's layers take, in a separate context and without CUDA graphs.

        Behind a layer's name stand the ONNX nodes that it was made of, where TensorRT says so.
        """
        self._check_open()
        with self._execution.profiled() as (run, times, describe):
            self._run_all(tensors, run)  # kernels are loaded on first use
            times.clear()
            for _ in range(runs):
                self._run_all(tensors, run)
            nodes = describe()
            return {f"{layer} {nodes.get(layer, '')}".rstrip(): ms / runs for layer, ms in times.items()}

    def copies(self, buffers: Buffers, rows: int) -> dict[str, Callable[[], None]]:
        """Return the calls that copy there and back; a Jetson has none, as its GPU reads and writes in place."""
        self._check_open()
        return self._memory_of(buffers).copies(rows)

    def _load(self, model: Path, threads: int | None) -> None:  # noqa: ARG002  # nothing runs on the CPU
        self._library, self._gpu = find_tensorrt()
        environment = BuildEnvironment(self._library, self._gpu, EngineCache(), self._reporter)
        sha256 = self._sha256 or file_sha256(model)
        prepared = prepare_engine(model, sha256, self.spec, self._options, environment)
        try:
            self._open(prepared)
        except StaleEngineError as error:
            if prepared.built:
                raise
            if not self._options.build:
                raise EngineMissingError(str(error)) from None
            self._reporter.say(f"{error}; building it again")
            stale = prepared.engine.record.sha256
            self._open(prepare_engine(model, sha256, self.spec, self._options, environment, stale=stale))

    def _open(self, prepared: PreparedEngine) -> None:
        with ExitStack() as stack:
            self._streams = EngineStreams()
            stack.callback(self._streams.close)
            engine = LoadedEngine(prepared, self.spec, self._library, self._gpu)
            stack.callback(engine.close)
            self._engine = engine
            self._execution = Execution(
                engine, self.spec, self._streams.compute, graphs=self._graphs, reporter=self._reporter
            )
            stack.callback(self._execution.close)
            self._stack = stack
            self._single = self._allocate(self._options.profile[2])
            self._stack = stack.pop_all()

    def _allocate(self, capacity: int) -> BatchMemory:
        memory = BatchMemory(self.spec, capacity, self._options.profile, self._streams, mapped=self._gpu.integrated)
        self._stack.callback(memory.close)
        return memory

    def _warm_up(self, memory: BatchMemory, rows: int) -> None:
        memory.start(rows, self._execution.run)
        memory.finish(rows)

    def _memory_of(self, buffers: Buffers) -> BatchMemory:
        if buffers.slot >= len(self._memories):
            raise BackendError(f"{self.device}: expected buffers that this backend gave, found another's")
        return self._memories[buffers.slot]

    def _infer(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self._run_all(tensors, self._execution.run)

    def _run_all(self, tensors: Mapping[str, Tensor], run: RunBatch) -> tuple[Tensor, Tensor]:
        batch = len(next(iter(tensors.values())))
        largest = self._single.capacity
        parts = []
        for first in range(0, batch, largest):
            rows = min(largest, batch - first)
            for name, target in self._single.inputs.items():
                target[:rows] = tensors[name][first : first + rows]
            self._single.start(rows, run)
            parts.append(self._single.finish(rows))
        logits, probabilities = (np.concatenate(items) for items in zip(*parts, strict=True))
        return logits, probabilities

    def _release(self) -> None:
        self._pending.clear()
        self._streams.settle()
        with self._stack:
            self._engine.keep_kernels(self._reporter)
