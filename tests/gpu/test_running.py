"""How engines run on a real GPU, and what hybrid-bench says of them; run by ``make test-gpu``."""

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gpu.real_engines import fill, opened, pipelined, tensors

from hybrid_edge.runtime.backends.cuda import find_gpu
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend
from hybrid_edge.runtime.bench.bench_report import BenchReport
from hybrid_edge.runtime.bench.cases import BenchRequest
from hybrid_edge.runtime.bench.rounds import bench
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.gpu import Gpu
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.engines.progress import Reporter
from hybrid_edge.runtime.manifest import Variant
from hybrid_edge.runtime.timing import time_interleaved

pytestmark = pytest.mark.gpu

MIB = 2**20


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("capacity", [8, 11])
def test_two_batches_under_way_do_not_mix(bundle: Bundle, variant: Variant, graphs: bool, capacity: int) -> None:
    sizes = [capacity, 1, capacity, 3, 3, 1, capacity, 3, 1] * 4
    inputs = tensors(bundle, sum(sizes))
    ends = zip(sizes, accumulate(sizes), strict=True)
    batches = [{name: tensor[end - rows : end] for name, tensor in inputs.items()} for rows, end in ends]
    with opened(bundle, variant, graphs=graphs) as backend:
        assert backend.depth == 2
        expected = [backend.run(batch).logits for batch in batches]
        for _ in range(2):
            for one, two in zip(expected, pipelined(backend, batches, capacity), strict=True):
                np.testing.assert_array_equal(one, two.logits)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_graph_gives_what_the_plain_path_gives(
    bundle: Bundle, variant: Variant, batch: int, record_property: Callable[[str, object], None]
) -> None:
    """Whether the engine allows graphs, and what they spare, stands in pytest's ``--junitxml`` report."""
    said: list[str] = []
    inputs = tensors(bundle, batch)
    with (
        opened(bundle, variant, graphs=False) as plain,
        opened(bundle, variant, reporter=Reporter(said.append)) as launched,
    ):
        for _ in range(4):
            np.testing.assert_array_equal(plain.run(inputs).logits, launched.run(inputs).logits)
        refusals = [line for line in said if "no CUDA graphs" in line or "no more than 0 CUDA graphs" in line]
        assert bool(refusals) == (len(launched._execution._captured) == 0)
        times = time_interleaved({"plain": lambda: plain.run(inputs), "graph": lambda: launched.run(inputs)})
    record_property(f"{variant.name} batch {batch}, p50 ms", {name: item.p50 for name, item in times.items()})
    record_property(f"{variant.name} graphs", refusals or "yes")


def test_a_thousand_batches_take_no_more_memory_than_a_hundred(bundle: Bundle, variant: Variant) -> None:
    with opened(bundle, variant) as backend:
        inputs = tensors(bundle, 8)
        buffers = backend.buffers(8, 3)
        for item in buffers:
            fill(item, inputs)
        first = run_many(backend, buffers, [1 + number % 8 for number in range(104)])
        before, gpu = resident(), find_gpu()
        last = run_many(backend, buffers, [1 + number % 8 for number in range(1000)])
        np.testing.assert_array_equal(first, last)
        assert resident() - before <= 4 * MIB
        # a Jetson's GPU has the system's memory, which others use meanwhile
        assert gpu.free_memory - find_gpu().free_memory <= (64 if gpu.integrated else 4) * MIB


def run_many(backend: TensorRtBackend, buffers: list[Any], sizes: list[int]) -> Any:
    """Run batches of these sizes, two under way; returns the last one's logits."""
    tickets: deque[Any] = deque()
    for number, rows in enumerate(sizes):
        tickets.append(backend.submit(buffers[number % 3], rows))
        if len(tickets) == 2:
            backend.collect(tickets.popleft())
    return backend.collect(tickets.popleft()).logits


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def test_two_batches_under_way_give_the_last_one_s_answers_and_by_how_much_they_are_faster_is_recorded(
    bundle: Bundle, variant: Variant, machine: tuple[Library, Gpu], record_property: Callable[[str, object], None]
) -> None:
    """The times of a hundred batches whose copies overlap computing, and of as many one by one, are in the report."""
    with opened(bundle, variant) as backend:
        buffers = backend.buffers(8, 3)

        def overlapped() -> Any:
            return run_many(backend, buffers, [8] * 100)

        def alone() -> Any:
            return [backend.collect(backend.submit(buffers[number % 3], 8)) for number in range(100)][-1].logits

        for item in buffers:
            fill(item, tensors(bundle, 8))
        np.testing.assert_array_equal(overlapped(), alone())
        times = time_interleaved({"alone": alone, "overlapped": overlapped}, min_rounds=10, min_seconds=1)
    record_property(f"{variant.name}, 100 batches of 8, p50 ms", {name: item.p50 for name, item in times.items()})
    record_property("memory", "shared" if machine[1].integrated else "the GPU's own")


def test_mapped_memory_gives_what_copies_give(
    bundle: Bundle,
    variant: Variant,
    machine: tuple[Library, Gpu],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """A desktop card maps the CPU's memory as well, only slower; the report's times say which a Jetson is to take."""
    import dataclasses

    from hybrid_edge.runtime.backends.tensorrt import backend as module

    inputs = tensors(bundle, 11)
    batches = [{name: item[:rows] for name, item in inputs.items()} for rows in (1, 8, 11)]
    with ExitStack() as stack:
        backends = {}
        for name, integrated in (("copied", False), ("mapped", True)):
            gpu = dataclasses.replace(machine[1], integrated=integrated)
            monkeypatch.setattr(module, "find_tensorrt", lambda gpu=gpu: (machine[0], gpu))
            backends[name] = stack.enter_context(opened(bundle, variant))
        for batch in batches:
            copied, mapped = (backend.run(batch).logits for backend in backends.values())
            np.testing.assert_array_equal(copied, mapped)
        for batch in batches[:2]:
            calls = {
                name: lambda backend=backend, batch=batch: backend.run(batch) for name, backend in backends.items()
            }
            times = {name: item.p50 for name, item in time_interleaved(calls).items()}
            record_property(f"{variant.name} batch {len(next(iter(batch.values())))}, p50 ms", times)


@pytest.fixture(scope="module")
def report(bundle: Bundle) -> BenchReport:
    request = BenchRequest(bundle.root, batches=(1, 8), seconds=0.1, rounds=3, starts=1, precisions=("fp32", "fp16"))
    return bench(request)


def test_tensorrts_layers_are_told_apart_by_branch(
    report: BenchReport, record_property: Callable[[str, object], None]
) -> None:
    """Where TensorRT made one node of both branches, there is nothing to tell apart; which it was is in the report."""
    cases = [case for case in report.cases if case.target == "tensorrt"]
    assert cases
    for case in cases:
        record_property(case.name, case.shares or "not split")
        if case.shares:
            assert sum(case.shares.values()) == pytest.approx(1)
            assert case.shares["cnn"] > 0
            assert case.shares["recurrent"] > 0


def test_copies_are_measured_beside_the_inference(
    report: BenchReport, record_property: Callable[[str, object], None]
) -> None:
    for case in report.cases:
        if case.copy_in is not None:
            assert case.copy_in.p50 > 0
            record_property(f"{case.name}, copy in and inference, p50 ms", (case.copy_in.p50, case.inference.p50))


def test_the_gpu_is_recorded_with_its_memory(report: BenchReport) -> None:
    taken = [start.gpu_mib for name, start in report.starts.items() if name.endswith("tensorrt")]
    assert taken
    assert all(mib is not None and mib > 0 for mib in taken)
