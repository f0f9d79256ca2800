"""BatchMemory is a batch's memory on the CPU's side and on the GPU's, and takes the batch there and back.

On a GPU with its own memory three streams share the work, so that one batch's copies overlap another's computing:

    upload      inputs of batch 2 ──┐                     inputs of batch 3
    compute     batch 1             └► batch 2 ──┐
    download                outputs of batch 1   └► outputs of batch 2

Each arrow is an event. On a GPU that shares the CPU's memory (Jetson) nothing is copied: the engine reads
and writes the CPU's pages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from ...errors import BackendError
from ...frame import OUTPUT_NAMES
from ...spec import ModelSpec
from ..cuda import CudaEvent, CudaStream, DeviceMemory, HostMemory
from .engine import tensor_shapes
from .execution import RunBatch

Tensor = npt.NDArray[np.float32]


class EngineStreams:
    """The three streams, for uploads, computing and downloads; ``close`` gives them back."""

    def __init__(self) -> None:
        with ExitStack() as stack:
            self.upload = stack.enter_context(CudaStream())
            self.compute = stack.enter_context(CudaStream())
            self.download = stack.enter_context(CudaStream())
            self._stack = stack.pop_all()

    def settle(self) -> None:
        """Wait until all work that was begun is over, and ignore how it ends."""
        for stream in (self.upload, self.compute, self.download):
            with contextlib.suppress(BackendError):  # whoever waits for the work hears of it
                stream.synchronize()

    def close(self) -> None:
        """Give the streams back."""
        self._stack.close()


class BatchMemory:
    """The memory of one batch of up to ``capacity`` rows, used again and again.

    Fewer rows than the smallest batch of the engine's ``profile`` (smallest, usual, largest) are filled up by what was
    there before, more than the largest are split. With ``mapped`` the GPU reads and writes the CPU's memory in place; a
    batch that may be split is copied all the same, as its later parts would begin at addresses that TensorRT does not
    take.
    """

    def __init__(
        self, spec: ModelSpec, capacity: int, profile: tuple[int, int, int], streams: EngineStreams, *, mapped: bool
    ) -> None:
        smallest, _, largest = profile
        self.capacity = capacity
        self._smallest = smallest
        self._streams = streams
        self._mapped = mapped and capacity <= largest
        self._busy = False
        with ExitStack() as stack:
            self._done = stack.enter_context(CudaEvent())
            host = {
                name: stack.enter_context(HostMemory((max(capacity, smallest), *shape), mapped=self._mapped))
                for name, shape in tensor_shapes(spec).items()
            }
            self._arrays = {name: memory.array[:capacity] for name, memory in host.items()}
            self._addresses = {name: memory.address for name, memory in host.items()} if self._mapped else {}
            self._parts: list[_GpuPart] = []
            for first in range(0, 0 if self._mapped else capacity, largest):
                arrays = {name: array[first : first + largest] for name, array in self._arrays.items()}
                self._parts.append(stack.enter_context(_GpuPart(arrays, smallest, streams)))
            self._stack = stack.pop_all()

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The input tensors that preprocessing writes, (capacity, ...) float32 each."""
        return {name: array for name, array in self._arrays.items() if name not in OUTPUT_NAMES}

    def start(self, rows: int, run: RunBatch) -> None:
        """Put the first rows on their way; leave ``inputs`` alone until ``finish``.

        BackendError says that the batch before was not finished, there are too many rows, or the GPU refused.
        """
        if self._busy or not 1 <= rows <= self.capacity:
            found = "one that is under way" if self._busy else f"{rows} rows"
            raise BackendError(f"expected a free buffer and 1 to {self.capacity} rows, found {found}; collect it first")
        try:
            if self._mapped:
                run(self._addresses, max(rows, self._smallest))
                self._streams.compute.record(self._done)
            else:
                for part, count in self._split(rows):
                    part.run(count, run)
                self._streams.download.record(self._done)
        except BaseException:
            self._streams.settle()  # work that was begun still reads and writes this memory
            raise
        self._busy = True

    def finish(self, rows: int) -> tuple[Tensor, Tensor]:
        """Wait for the batch and return copies of its logits and probabilities, (rows, C) float32."""
        self._busy = False
        self._done.synchronize()
        logits, probabilities = (self._arrays[name][:rows].copy() for name in OUTPUT_NAMES)
        return logits, probabilities

    def copies(self, rows: int) -> dict[str, Callable[[], None]]:
        """Return the calls that copy the first rows there, or back, and wait; none where nothing is copied."""
        if self._mapped:
            return {}

        def copy_in() -> None:
            for part, count in self._split(rows):
                part.upload(count)
            self._streams.upload.synchronize()

        def copy_out() -> None:
            for part, count in self._split(rows):
                part.download(count)
            self._streams.download.synchronize()

        return {"copy in": copy_in, "copy out": copy_out}

    def close(self) -> None:
        """Give the memory back once the streams are done; calling it again does nothing."""
        self._stack.close()

    def _split(self, rows: int) -> Iterator[tuple[_GpuPart, int]]:
        for part in self._parts:
            if rows > 0:
                yield part, min(rows, part.capacity)
            rows -= part.capacity


class _GpuPart:
    """The GPU's side of at most the profile's largest batch; ``arrays``, (capacity, ...) each, are the CPU's."""

    def __init__(self, arrays: Mapping[str, Tensor], smallest: int, streams: EngineStreams) -> None:
        self.capacity = len(next(iter(arrays.values())))
        self._arrays = arrays
        self._smallest = smallest
        self._streams = streams
        rows = max(self.capacity, smallest)
        with ExitStack() as stack:
            self._uploaded = stack.enter_context(CudaEvent())
            self._computed = stack.enter_context(CudaEvent())
            memory = {name: stack.enter_context(DeviceMemory(rows * array[0].nbytes)) for name, array in arrays.items()}
            for item in memory.values():
                streams.upload.zero(item)  # rows that fill up a batch are to be finite
            self._addresses = {name: item.address for name, item in memory.items()}
            self._stack = stack.pop_all()

    def run(self, rows: int, run: RunBatch) -> None:
        """Copy the inputs there, compute, copy the outputs back: each on its own stream, after the step before."""
        streams = self._streams
        self.upload(rows)
        streams.upload.record(self._uploaded)
        streams.compute.wait(self._uploaded)
        run(self._addresses, max(rows, self._smallest))
        streams.compute.record(self._computed)
        streams.download.wait(self._computed)
        self.download(rows)

    def upload(self, rows: int) -> None:
        for name, array in self._arrays.items():
            if name not in OUTPUT_NAMES:
                self._streams.upload.upload(array[:rows], self._addresses[name])

    def download(self, rows: int) -> None:
        for name in OUTPUT_NAMES:
            self._streams.download.download(self._addresses[name], self._arrays[name][:rows])

    def __enter__(self) -> _GpuPart:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
