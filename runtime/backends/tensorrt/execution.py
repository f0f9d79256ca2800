"""Puts a batch on the GPU's stream, as a CUDA graph where the engine allows it, else kernel by kernel.

    a size of batch in a buffer      how it runs
    comes up for the first time      in the context that is there from the start, kernel by kernel
    comes up again                   once more in a new context, from which a graph is then captured
    comes up from then on            the graph is launched, by one call

A graph has addresses and batch size inside it, so there is one for each buffer and size. TensorRT's guide ("CUDA
Graphs", in its performance chapter): what a captured context was set to must not change afterwards, so each graph has a
context of its own, and all share the memory of their activations; one execution in advance settles what depends on the
shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...engines.gpu import MIB, available_memory
from ...engines.progress import Reporter
from ...errors import BackendError
from ...spec import ModelSpec
from ..cuda import CudaGraph, CudaStream, capture, free_memory
from .engine import LayerTimes, LoadedEngine

RunBatch = Callable[
    [Mapping[str, int], int], None
]  # puts a batch on the compute stream, given addresses and number of rows

MAX_GRAPHS = 24  # three buffers of eight sizes; a graph has a context, with its own memory on the CPU and on the GPU
GRAPH_HEADROOM = 256 * MIB  # stays free for others; what a graph takes can't be measured while they allocate


@dataclass(frozen=True, eq=False)
class _Captured:
    """A graph, and the context that it was captured from, which must live as long."""

    context: Any
    graph: CudaGraph


class Execution:
    """Runs an engine's batches, one after the other, on one stream, for which the caller waits.

    CUDA graphs are launched if ``graphs`` is True and the engine allows it; ``reporter`` is told once why there are
    none, or no more of them.
    """

    def __init__(
        self, engine: LoadedEngine, spec: ModelSpec, stream: CudaStream, *, graphs: bool, reporter: Reporter
    ) -> None:
        self._engine = engine
        self._inputs = spec.inputs
        self._stream = stream
        self._reporter = reporter
        self._capturing = graphs
        self._plain: Any = engine.context()
        self._seen: set[tuple[int, ...]] = set()
        self._captured: dict[tuple[int, ...], _Captured] = {}
        self._spent: list[Any] = []  # contexts without a graph: their work may be under way
        self._max_graphs = MAX_GRAPHS
        # TensorRT has a CUDA runtime of its own, and only cuda-python's can be cleared of its last error: the one that
        # a failure leaves in TensorRT's fails the next execution, and is gone with it
        self._tries = 1  # how often the next execution is tried

    def run(self, addresses: Mapping[str, int], batch: int) -> None:
        """Put one batch of ``batch`` rows, within the engine's profile, on the stream.

        ``addresses`` are every input's and output's on the GPU, multiples of 256; the memory there belongs to the
        engine until the stream has come past this batch.
        """
        key = (*addresses.values(), batch)
        captured = self._captured.get(key)
        if captured is not None:
            captured.graph.launch(self._stream)
        elif self._capturing and key in self._seen and len(self._captured) < self._max_graphs:
            self._run_and_capture(key, addresses, batch)
        else:
            self._seen.add(key)
            self._bind(self._plain, addresses, batch)
            self._enqueue(self._plain)

    @contextmanager
    def profiled(self) -> Iterator[tuple[RunBatch, LayerTimes, Callable[[], dict[str, str]]]]:
        """Yield a separate ``run`` for the time of the block, which waits for its batch and notes each layer's time.

        With it come the notes, and a call that returns after a run the ONNX nodes of each layer, by the layer's name.
        """
        context = self._engine.context()
        times = self._engine.note_layers(context)

        def run(addresses: Mapping[str, int], batch: int) -> None:
            self._bind(context, addresses, batch)
            self._enqueue(context)

        try:
            yield run, times, lambda: self._engine.describe_layers(context)
        finally:
            self._stream.synchronize()  # before the context is dropped

    def close(self) -> None:
        """Give graphs and contexts back once the stream is done; calling it again does nothing."""
        captured, self._captured = self._captured, {}
        self._plain = None
        self._spent.clear()
        for item in captured.values():
            item.graph.close()

    def _run_and_capture(self, key: tuple[int, ...], addresses: Mapping[str, int], batch: int) -> None:
        """Run the batch in a new context and then capture it; run it without a graph where there is no room for one."""
        try:
            self._check_room()
            context = self._engine.context()
            self._spent.append(context)
            self._bind(context, addresses, batch)
            self._enqueue(context)
        except BackendError as error:
            self._max_graphs, self._tries = len(self._captured), 2
            self._reporter.say(
                f"no more than {self._max_graphs} CUDA graphs, other batches are launched kernel by kernel: {error}"
            )
            self.run(addresses, batch)
            return
        try:
            graph = self._capture(context)
        except BackendError as error:
            self._capturing, self._tries = False, 2
            self._reporter.say(f"no CUDA graphs for this engine, each kernel is launched by itself: {error}")
        else:
            self._captured[key] = _Captured(self._spent.pop(), graph)

    def _check_room(self) -> None:
        # where GPU and CPU share memory, CUDA counts only what nothing uses; the system also counts its page cache
        free = available_memory(GRAPH_HEADROOM) if self._engine.integrated else free_memory()
        if free < GRAPH_HEADROOM:
            raise BackendError(
                f"expected {GRAPH_HEADROOM // MIB} MiB of the GPU's memory to be free, found {free // MIB} MiB"
            )

    def _capture(self, context: Any) -> CudaGraph:
        if not self._engine.can_capture(context, self._stream.handle):
            raise self._engine.failure("is_stream_capturable", "nothing to do: it runs without")
        return capture(self._stream, lambda: self._enqueue(context))

    def _bind(self, context: Any, addresses: Mapping[str, int], batch: int) -> None:
        for name, shape in self._inputs.items():
            if not context.set_input_shape(name, (batch, *shape)):
                remedy = f"a --profile that holds a batch of {batch} builds another engine"
                raise self._engine.failure(f"set_input_shape({name}, {(batch, *shape)})", remedy)
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._engine.failure(f"set_tensor_address({name})", "export the bundle again")

    def _enqueue(self, context: Any) -> None:
        tries, self._tries = self._tries, 1
        if not any(context.execute_async_v3(self._stream.handle) for _ in range(tries)):
            raise self._engine.failure("execute_async_v3", "a smaller --batch needs less memory")
        if tries > 1:
            self._engine.messages.clear()
