"""A GPU in the CPU's memory: CUDA as the TensorRT backend calls it, for tests where there is none.

Work on a stream waits there, as on a GPU that is busy, until a ``schedule`` lets it be done:

    lazy      only what the caller's synchronization demands, at the last moment: a result that is read too early, or an
              input that was not waited for, shows
    eager     as early as the events allow: memory that is overwritten too early shows
    a number  some of it at each call, by a generator with this seed

The GPU's addresses are not the CPU's: an array that is given where the GPU's address belongs, or the other way round,
is a failed assertion. ``fake_tensorrt`` runs on it.
"""

# ruff: noqa: ARG002, N815  # the names and signatures are those of CUDA

from __future__ import annotations

import ctypes
import enum
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

ALIGNMENT = 256
DEVICE = 1 << 56  # the GPU's addresses of its own memory are the CPU's plus this
MAPPED = 1 << 57  # and of the CPU's mapped memory, this
Schedule = int | str


class Error(enum.IntEnum):
    """What CUDA's calls answer first."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


@dataclass
class Op:
    """One thing to do on a stream, perhaps after another stream has come to a point."""

    work: Callable[[], None] | None = None
    after: tuple[Stream, int] | None = None


@dataclass(eq=False)
class Stream:
    """Work in order; ``issued`` and ``done`` count it."""

    queue: deque[Op] = field(default_factory=deque)
    issued: int = 0
    done: int = 0
    captured: list[Op] | None = None
    spoilt: bool = False

    def add(self, op: Op) -> None:
        if self.captured is not None:
            self.captured.append(op)
        else:
            self.queue.append(op)
            self.issued += 1

    def ready(self) -> bool:
        after = self.queue[0].after if self.queue else None
        return bool(self.queue) and (after is None or after[0].done >= after[1])

    def step(self) -> None:
        op = self.queue.popleft()
        if op.work is not None:
            op.work()
        self.done += 1

    def reach(self, point: int) -> None:
        """Do what it takes to come to a point, on other streams as well."""
        while self.done < point:
            after = self.queue[0].after
            if after is not None:
                after[0].reach(after[1])
            self.step()


@dataclass(eq=False)
class Event:
    at: tuple[Stream, int] | None = None


class FakeCuda:
    """The names of ``cuda.bindings.runtime`` that the code uses."""

    cudaError_t = Error
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaEventBlockingSync = 1
    cudaHostAllocDefault = 0
    cudaHostAllocMapped = 2
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, memory: int = 2**30, schedule: Schedule = "lazy") -> None:
        self.free = memory
        self.schedule = schedule
        self.blocks: dict[int, tuple[Any, int]] = {}  # on the GPU, by its address: what holds it, and the size
        self.host: dict[int, tuple[Any, int, int]] = {}  # locked, by the CPU's address; and how it was asked for
        self.streams: dict[int, Stream] = {}
        self.events: dict[int, Event] = {}
        self.graphs: dict[int, list[Op]] = {}
        self.launches = 0
        self.copies: list[tuple[str, int]] = []
        self.fails: dict[str, Error] = {}  # which call answers with what
        self.last_error = Error.cudaSuccess
        self.devices = 1
        self.properties = SimpleNamespace(
            name=b"Orin\0\0", major=8, minor=7, integrated=1, canMapHostMemory=1, multiProcessorCount=16
        )
        self._kept: list[Any] = []
        self._random = random.Random(schedule)
        self._handles = iter(range(1000, 1_000_000))

    def answer(self, call: str, make: Callable[[], Any] | None = None) -> tuple[Any, ...]:
        """The error that a test wants from this call, else success and what it makes; and time goes by."""
        self._advance()
        if call in self.fails:
            return self._failed(self.fails[call], *([None] if make else []))
        return (Error.cudaSuccess, make()) if make else (Error.cudaSuccess,)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return self.answer("cudaGetDeviceCount", lambda: self.devices)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self.answer("cudaGetDeviceProperties", lambda: self.properties)

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, self.free, 2 * self.free

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if size > self.free or self._spoils():
            return self._failed(Error.cudaErrorMemoryAllocation, None)
        return self.answer("cudaMalloc", lambda: self._allocate(size))

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        self._drain()
        self.free += self.blocks.pop(address)[1]
        return self.answer("cudaFree")

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        if self._spoils():
            return self._failed(Error.cudaErrorStreamCaptureUnsupported, None)
        return self.answer("cudaHostAlloc", lambda: self._lock(size, flags))

    def cudaHostGetDevicePointer(self, address: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        if self.host[address][2] != self.cudaHostAllocMapped:
            return self._failed(Error.cudaErrorInvalidValue, None)
        return self.answer("cudaHostGetDevicePointer", lambda: address + MAPPED)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:  # which does not wait for what still uses it
        holder, size, _ = self.host.pop(address)
        ctypes.memset(address, 0xFF, size)  # who reads it after this gets NaN
        self._kept.append(holder)  # and no segmentation fault
        return self.answer("cudaFreeHost")

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> tuple[Any, ...]:
        self._put(stream, lambda: ctypes.memset(self.resolve(address, size), value, size))
        return self.answer("cudaMemsetAsync")

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[Any, ...]:
        there, here = (target, source) if kind == 1 else (source, target)
        assert there >= DEVICE > here, "a copy whose addresses are not those of its direction"
        assert self._locked(here, size), "an asynchronous copy needs page-locked memory"
        self.copies.append(("up" if kind == 1 else "down", stream))

        def copy() -> None:
            inside = self.resolve(there, size)
            ctypes.memmove(*((inside, here) if kind == 1 else (here, inside)), size)

        self._put(stream, copy)
        return self.answer("cudaMemcpyAsync")

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        return self.answer("cudaStreamCreateWithFlags", lambda: self._add(self.streams, Stream()))

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        if self._spoils():
            return self._failed(Error.cudaErrorStreamCaptureUnsupported)
        self.streams[stream].reach(self.streams[stream].issued)
        return self.answer("cudaStreamSynchronize")

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        del self.streams[stream]
        return self.answer("cudaStreamDestroy")

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Any, ...]:
        at = self.events[event].at
        if at is not None:
            self.streams[stream].add(Op(after=at))
        return self.answer("cudaStreamWaitEvent")

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaEventDisableTiming | self.cudaEventBlockingSync
        return self.answer("cudaEventCreateWithFlags", lambda: self._add(self.events, Event()))

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        self.events[event].at = (self.streams[stream], self.streams[stream].issued)
        return self.answer("cudaEventRecord")

    def cudaEventSynchronize(self, event: int) -> tuple[Any, ...]:
        at = self.events[event].at
        if at is not None:
            at[0].reach(at[1])
        return self.answer("cudaEventSynchronize")

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        del self.events[event]
        return self.answer("cudaEventDestroy")

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        answer = self.answer("cudaStreamBeginCapture")
        if answer[0] == Error.cudaSuccess:
            self.streams[stream].captured = []
        return answer

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        item = self.streams[stream]
        ops, spoilt = item.captured, item.spoilt
        item.captured, item.spoilt = None, False
        if spoilt or ops is None:
            return self._failed(Error.cudaErrorStreamCaptureInvalidated, None)
        return self.answer("cudaStreamEndCapture", lambda: self._add(self.graphs, ops))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        return self.answer("cudaGraphInstantiate", lambda: self._add(self.graphs, self.graphs[graph]))

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:
        self.launches += 1
        for op in self.graphs[graph]:
            self.streams[stream].add(op)
        return self.answer("cudaGraphLaunch")

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        del self.graphs[graph]
        return self.answer("cudaGraphDestroy")

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGetLastError(self) -> tuple[Any]:
        error, self.last_error = self.last_error, Error.cudaSuccess
        return (error,)

    def cudaGetErrorString(self, error: Error) -> tuple[Any, bytes]:
        return Error.cudaSuccess, b"out of memory" if error == 2 else b"something else"

    def resolve(self, address: int, size: int) -> int:
        """The CPU's address of something at one of the GPU's, which must be inside a live block."""
        offset = MAPPED if address >= MAPPED else DEVICE
        blocks = self.host if offset == MAPPED else self.blocks
        for start, block in blocks.items():
            first = start + MAPPED if offset == MAPPED else start
            if first <= address and address + size <= first + block[1]:
                return address - offset
        raise AssertionError(f"{size} bytes at {address:x} are in no memory of the GPU's")

    @property
    def live(self) -> dict[str, int]:
        kinds = ("blocks", "host", "streams", "events", "graphs")
        return {name: len(getattr(self, name)) for name in kinds if getattr(self, name)}

    def _allocate(self, size: int) -> int:
        holder, address = _aligned(size)
        self.free -= size
        self.blocks[address + DEVICE] = (holder, size)
        return address + DEVICE

    def _lock(self, size: int, flags: int) -> int:
        holder, address = _aligned(size)
        self.host[address] = (holder, size, flags)
        return address

    def _put(self, stream: int, work: Callable[[], object]) -> None:
        self.streams[stream].add(Op(work))  # type: ignore[arg-type]

    def _add(self, table: dict[int, Any], item: Any) -> int:
        handle = next(self._handles)
        table[handle] = item
        return handle

    def _locked(self, address: int, size: int) -> bool:
        return any(start <= address and address + size <= start + block[1] for start, block in self.host.items())

    def _spoils(self) -> bool:
        """Whether a capture is under way, which memory and synchronization spoil."""
        for stream in self.streams.values():
            if stream.captured is not None:
                stream.spoilt = True
                return True
        return False

    def _failed(self, error: Error, *values: Any) -> tuple[Any, ...]:
        self.last_error = error
        return error, *values

    def _drain(self) -> None:
        for stream in self.streams.values():
            stream.reach(stream.issued)

    def _advance(self) -> None:
        if self.schedule == "lazy":
            return
        while ready := [stream for stream in self.streams.values() if stream.ready()]:
            if self.schedule == "eager":
                ready[0].step()
            elif self._random.random() < 0.5:
                self._random.choice(ready).step()
            else:
                return


def _aligned(size: int) -> tuple[Any, int]:
    """Memory full of NaN, at a multiple of 256."""
    holder = ctypes.create_string_buffer(b"\xff" * (size + ALIGNMENT), size + ALIGNMENT)
    start = ctypes.addressof(holder)
    return holder, start + -start % ALIGNMENT
