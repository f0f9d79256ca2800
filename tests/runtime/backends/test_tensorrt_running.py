"""The TensorRT backend's way of running, on a GPU that does what it is told as late or as early as it may."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support.gpu.engine_fixtures import inputs
from support.gpu.fake_gpu import Error
from support.gpu.fake_tensorrt import _Context, _Engine
from support.gpu.real_engines import fill, pipelined
from support.models.small_graphs import SPEC

from hybrid_edge.runtime.backends.cuda import CudaEvent, CudaStream
from hybrid_edge.runtime.backends.tensorrt import TensorRtBackend, execution
from hybrid_edge.runtime.backends.tensorrt.engine import LayerTimes, make_profiler
from hybrid_edge.runtime.bench.rounds import branch_shares
from hybrid_edge.runtime.engines import gpu
from hybrid_edge.runtime.engines.library import find_library
from hybrid_edge.runtime.errors import BackendError, EngineError

Make = Callable[..., Any]

SCHEDULES = ("lazy", "eager", 1, 2, 3)


def check_pipelined(machine: Any, backend: TensorRtBackend, batches: list[dict[str, Any]], capacity: int) -> None:
    for outputs, batch in zip(pipelined(backend, batches, capacity), batches, strict=True):
        machine.check(outputs, batch)


@pytest.mark.parametrize("batch", [1, 8, 11])
@pytest.mark.parametrize("profile", [(1, 1, 8), (4, 4, 5)])
@pytest.mark.parametrize("integrated", [False, True])
def test_every_batch_comes_out_as_the_graph_computes_it(
    make_machine: Make, batch: int, profile: tuple[int, int, int], integrated: bool
) -> None:
    machine = make_machine(integrated=integrated)
    with machine.open(profile) as backend:
        for seed in range(4):  # what the one before left in the buffers must not show, as a graph or without
            machine.check(backend.run(inputs(batch, seed)), inputs(batch, seed))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize(("capacity", "profile"), [(2, (1, 2, 3)), (5, (1, 2, 3)), (6, (4, 4, 5))])
def test_batches_that_overlap_come_out_as_each_alone(
    make_machine: Make, schedule: Any, integrated: bool, capacity: int, profile: tuple[int, int, int]
) -> None:
    machine = make_machine(schedule, integrated=integrated)
    batches = [inputs(rows, seed) for seed, rows in enumerate([capacity, 1, capacity, capacity, 2, 1, capacity, 2])]
    with machine.open(profile) as backend:
        check_pipelined(machine, backend, batches, capacity)
    assert machine.cuda.launches > 0


@pytest.mark.parametrize(("kind", "method"), [(CudaEvent, "synchronize"), (CudaStream, "wait"), (CudaStream, "record")])
def test_without_one_of_the_waits_the_results_are_wrong(
    machine: Any, monkeypatch: pytest.MonkeyPatch, kind: type, method: str
) -> None:
    """That the GPU these tests run on notices what they are there for."""
    monkeypatch.setattr(kind, method, lambda *_: None)
    batches = [inputs(2, seed) for seed in range(4)]
    with machine.open() as backend, pytest.raises((BackendError, AssertionError)):
        check_pipelined(machine, backend, batches, 2)


def test_copies_and_computing_are_on_streams_of_their_own(machine: Any) -> None:
    with machine.open() as backend:
        machine.cuda.copies.clear()
        tickets = [backend.submit(buffers, 1) for buffers in backend.buffers(1, 2)]
        streams = backend._streams
        assert len({streams.upload.item, streams.compute.item, streams.download.item}) == 3
        assert set(machine.cuda.copies) == {("up", streams.upload.item), ("down", streams.download.item)}
        for ticket in tickets:
            backend.collect(ticket)


def test_a_jetson_copies_nothing(make_machine: Make) -> None:
    machine = make_machine(integrated=True)
    with machine.open() as backend:
        backend.run(inputs(8))
        for buffers in backend.buffers(8, 2):
            backend.collect(backend.submit(buffers, 8))
        assert backend.copies(backend.buffers(1, 1)[0], 1) == {}  # so there is nothing to time
        assert machine.cuda.copies == []
        assert machine.cuda.live["blocks"] == 1  # the engine's activations


def test_a_size_that_comes_up_again_is_launched_as_a_graph(machine: Any) -> None:
    with machine.open() as backend:
        for expected in [(1, 0), (2, 0), (2, 1), (2, 2)]:
            backend.run(inputs(3))
            assert (machine.trt.executions, machine.cuda.launches) == expected
        backend.run(inputs(2))
        assert (machine.trt.executions, machine.cuda.launches) == (3, 2)


def test_buffers_are_tried_out_before_frames_flow(machine: Any) -> None:
    with machine.open() as backend:
        buffers = backend.buffers(4, 2)
        executions = machine.trt.executions
        for item in buffers:
            backend.collect(backend.submit(item, 4))
        assert machine.trt.executions == executions
        assert machine.cuda.launches == 2


@pytest.mark.parametrize("refuses", ["capture", "cudaStreamBeginCapture", "cudaGraphInstantiate", "not capturable"])
def test_an_engine_that_can_not_be_captured_runs_plainly_and_says_so_once(
    machine: Any, refuses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.trt.refuses = refuses
    if refuses.startswith("cuda"):
        machine.cuda.fails[refuses] = Error.cudaErrorStreamCaptureUnsupported
    if refuses == "not capturable":  # TensorRT-RTX says so beforehand
        monkeypatch.setattr(_Context, "is_stream_capturable", lambda *_: False, raising=False)
    with machine.open() as backend:
        for seed in range(4):
            machine.check(backend.run(inputs(2, seed)), inputs(2, seed))
        assert machine.cuda.launches == 0
        assert machine.cuda.last_error == Error.cudaSuccess  # TensorRT would take it for its own
        assert machine.cuda.live.get("graphs") is None
    assert [line for line in machine.said if "no CUDA graphs for this engine" in line] == machine.said[1:]
    assert len(machine.said) == 2
    assert machine.cuda.live == {}


def test_after_a_capture_that_failed_inside_tensorrt_no_batch_is_lost(machine: Any) -> None:
    """Its own CUDA runtime remembers the error, which fails the next execution, once; another error is one."""
    machine.trt.refuses = "capture"
    with machine.open() as backend:
        for seed in range(2):  # the second is captured, in vain
            backend.run(inputs(2, seed))
        assert machine.trt.last_error
        machine.trt.refuses = ""
        machine.check(backend.run(inputs(2, 2)), inputs(2, 2))
        machine.trt.last_error = True
        with pytest.raises(EngineError, match=r"execute_async_v3 failed: Error Code 1: Cuda Runtime \(of the capture"):
            backend.run(inputs(2, 3))
        machine.trt.refuses = "execution"
        with pytest.raises(EngineError, match=r"execute_async_v3 failed: Error Code 1: Cuda Runtime \(an illegal"):
            backend.run(inputs(2, 3))


@pytest.mark.parametrize("graphs", [True, False])
def test_tensorrt_rtx_gives_the_same_from_the_first_batch_on(make_machine: Make, graphs: bool) -> None:
    """It would exchange its kernels while it runs, and a graph would keep the ones for any size."""
    machine = make_machine(kind="rtx")
    with machine.open(graphs=graphs) as backend:
        first, *rest = [backend.run(inputs(3)) for _ in range(6)]
    machine.check(first, inputs(3))
    for later in rest:
        np.testing.assert_array_equal(later.logits, first.logits)
    assert (machine.cuda.launches > 0) == graphs


@pytest.mark.parametrize(
    ("profile", "capacity", "sizes"),
    [((1, 1, 8), 3, [3, 1, 2]), ((2, 2, 8), 3, [3, 2]), ((4, 4, 8), 3, [4]), ((1, 1, 3), 5, [3, 2, 1])],
)
def test_tensorrt_rtx_compiles_for_every_size_of_batch_before_frames_flow(
    make_machine: Make, profile: tuple[int, int, int], capacity: int, sizes: list[int]
) -> None:
    machine = make_machine(kind="rtx")
    with machine.open(profile) as backend:
        buffers = backend.buffers(capacity, 2)
        assert machine.trt.compiled == sizes
        for item in buffers:
            for rows in range(1, capacity + 1):
                backend.collect(backend.submit(item, rows))
        assert machine.trt.compiled == sizes


def test_kernels_that_are_to_be_exchanged_are_not_captured(make_machine: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = make_machine(kind="rtx")
    monkeypatch.delattr(_Engine, "create_runtime_config")  # a TensorRT-RTX that takes no word on it
    with machine.open() as backend:
        for _ in range(4):
            backend.run(inputs(2))
    assert machine.cuda.launches == 0


def test_graphs_leave_the_gpu_memory_for_others(machine: Any) -> None:
    """A context has memory on the GPU for itself: on a small board 24 of them may be too many."""
    machine.trt.context_memory = 2**20
    with machine.open() as backend:
        machine.cuda.free = 258 * 2**20
        machine.said.clear()
        for rows in (1, 2, 3, 4, 5):
            for _ in range(3):
                backend.run(inputs(rows))
        assert len(backend._execution._captured) == 3  # 258, 257 and 256 MiB were free
    assert machine.said == [
        "no more than 3 CUDA graphs, other batches are launched kernel by kernel: expected 256 MiB of the GPU's memory "
        "to be free, found 255 MiB"
    ]


def test_of_a_memory_that_is_shared_what_files_can_give_is_free(
    make_machine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Jetson that has read a bundle has little that nothing uses, and CUDA names that alone."""
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(gpu, "MEMINFO", meminfo)
    graphs = []
    for available in (512, 128):
        meminfo.write_text(f"MemFree: 1024 kB\nMemAvailable: {available * 1024} kB\n")
        machine = make_machine(integrated=True)
        with machine.open() as backend:
            machine.cuda.free = 2**20
            for _ in range(3):
                backend.run(inputs(1))
            graphs.append(len(backend._execution._captured))
    assert graphs == [1, 0]


@pytest.mark.parametrize("refuses", ["context", "execution", "cudaMemGetInfo"])
def test_a_graph_without_a_context_costs_no_batch(machine: Any, refuses: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine.open() as backend:
        for seed in range(3):
            machine.check(backend.run(inputs(1, seed)), inputs(1, seed))
        plain, machine.said[:] = backend._execution._plain, []
        if refuses.startswith("cuda"):
            monkeypatch.setattr(machine.cuda, refuses, lambda: (Error.cudaErrorIllegalAddress, None, None))
        elif refuses == "context":
            machine.trt.refuses = refuses
        else:  # only what is not the context that there was
            run = _Context.execute_async_v3
            monkeypatch.setattr(_Context, "execute_async_v3", lambda item, stream: item is plain and run(item, stream))
        for seed in range(3):
            machine.check(backend.run(inputs(2, seed)), inputs(2, seed))
            machine.check(backend.run(inputs(1, seed)), inputs(1, seed))
        assert len(backend._execution._captured) == 1
        assert machine.cuda.launches == 4
    assert len(machine.said) == 1
    assert machine.said[0].startswith("no more than 1 CUDA graphs, other batches are launched kernel by kernel: ")
    assert machine.cuda.live == {}


FUSED = "__myl_FcMul_myl3_7"
MADE_OF = "[ONNX Layer: rnn/lstm_1/step_07/gates]\x1f[ONNX Layer: rnn/lstm_1/step_07/hidden]"
TOLD = json.dumps({"Layers": [{"Name": FUSED, "Metadata": MADE_OF}, {"Name": "cnn/conv_1/Conv2D"}]})


@pytest.mark.parametrize(
    ("inspector", "shares"),
    [
        (TOLD, {"cnn": 0.25, "recurrent": 0.75, "head": 0}),
        (f'{{"Layers": ["{FUSED}"]}}', {"cnn": 0.25, "recurrent": 0, "head": 0.75}),  # names alone
        ('{"Layers": [{"Name": ', {"cnn": 0.25, "recurrent": 0, "head": 0.75}),
        ("", {"cnn": 0.25, "recurrent": 0, "head": 0.75}),
    ],
)
def test_a_layer_is_told_with_the_nodes_it_was_made_of(machine: Any, inspector: str, shares: dict[str, float]) -> None:
    """TensorRT names the kernels that it compiles itself after what they do; its inspector knows what they are from."""
    machine.trt.layers, machine.trt.inspector = {FUSED: 3.0, "cnn/conv_1/Conv2D": 1.0}, inspector
    with machine.open() as backend:
        times = backend.profile(inputs(2), runs=3)
    assert sum(times.values()) == pytest.approx(4)
    assert branch_shares(times, SPEC) == pytest.approx(shares)


def test_layers_are_timed_in_a_context_of_their_own(machine: Any) -> None:
    machine.trt.layers = {"cnn/a": 1.0, "rnn/b": 2.5}
    with machine.open() as backend:
        expected = backend.run(inputs(2)).logits
        contexts = machine.trt.contexts
        assert backend.profile(inputs(2), runs=4) == {"cnn/a": 1.0, "rnn/b": 2.5}
        assert backend.profile(inputs(11), runs=2)["cnn/a"] == 2.0  # over the profile's 8: two parts
        assert machine.trt.contexts == contexts + 2
        np.testing.assert_array_equal(backend.run(inputs(2)).logits, expected)
    assert machine.cuda.live == {}


def test_the_real_tensorrts_profiler_takes_our_class() -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    times: LayerTimes = defaultdict(float)
    profiler = make_profiler(find_library("rtx"), times)
    profiler.report_layer_time("cnn/conv", 0.5)
    profiler.report_layer_time("cnn/conv", 0.25)
    assert dict(times) == {"cnn/conv": 0.75}
    assert isinstance(profiler, find_library("rtx").module.IProfiler)


def test_the_copies_alone_move_what_a_batch_moves(machine: Any) -> None:
    with machine.open() as backend:
        copies = backend.copies(backend.buffers(3, 1)[0], 2)
        for name, way, count in (("copy in", "up", len(SPEC.inputs)), ("copy out", "down", 2)):
            machine.cuda.copies.clear()
            copies[name]()
            assert [found for found, _ in machine.cuda.copies] == [way] * count


def test_there_are_never_more_graphs_than_can_be_kept(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "MAX_GRAPHS", 2)
    with machine.open() as backend:
        for _ in range(3):
            for rows in (1, 2, 3, 4):
                backend.run(inputs(rows))
        assert len(backend._execution._captured) == 2
        assert machine.trt.contexts == 3


@pytest.mark.parametrize("schedule", ["lazy", 5])
def test_a_thousand_batches_leave_nothing_behind(make_machine: Make, schedule: Any) -> None:
    machine = make_machine(schedule)
    with machine.open() as backend:
        free = backend.buffers(2, 3)
        for item in free:
            for rows in (1, 1, 2, 2):
                backend.collect(backend.submit(item, rows))
        before, contexts = machine.cuda.live, machine.trt.contexts
        tickets = [backend.submit(free[0], 2)]
        for number in range(1000):
            tickets.append(backend.submit(free[(number + 1) % 3], 1 + number % 2))
            backend.collect(tickets.pop(0))
        assert (machine.cuda.live, machine.trt.contexts) == (before, contexts)
        backend.collect(tickets.pop())
        assert not any(stream.queue for stream in machine.cuda.streams.values())


def test_a_call_that_tensorrt_refuses_is_named_with_its_own_words_and_no_earlier_ones(machine: Any) -> None:
    refusals = {
        "shape": r"set_input_shape\(image, \(1, 28, 28, 3\)\) failed: outside of the profile; a --profile that holds",
        "address": r"set_tensor_address\(\w+\) failed: null address",
        "execution": r"execute_async_v3 failed: Error Code 1: Cuda Runtime.*a smaller --batch",
    }
    with machine.open() as backend:
        for refuses, message in refusals.items():
            machine.trt.refuses = refuses
            with pytest.raises(EngineError, match=rf"^TensorRT 10\.3\.0 on NVIDIA GeForce RTX 4070: {message}"):
                backend.run(inputs(1))
        machine.trt.refuses = ""
        backend.run(inputs(1))


@pytest.mark.parametrize("integrated", [False, True])
def test_rows_that_fill_up_are_finite(make_machine: Make, integrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = make_machine(integrated=integrated)
    seen: list[Any] = []
    real = onnxruntime.InferenceSession.run

    def run(session: Any, names: Any, feeds: dict[str, Any], *rest: Any) -> Any:
        seen.append(feeds)
        return real(session, names, feeds, *rest)

    with machine.open((4, 4, 5)) as backend:
        monkeypatch.setattr(onnxruntime.InferenceSession, "run", run)
        backend.run(inputs(1))
    assert [len(feeds["image"]) for feeds in seen] == [4]
    assert all(np.isfinite(tensor).all() for feeds in seen for tensor in feeds.values())
    assert machine.cuda.live == {}


@pytest.mark.parametrize(
    "call", ["cudaMemcpyAsync", "cudaEventRecord", "cudaStreamWaitEvent", "cudaEventSynchronize", "cudaGraphLaunch"]
)
def test_every_cuda_call_is_checked_and_named_with_its_code(machine: Any, call: str) -> None:
    with machine.open() as backend:
        buffers = backend.buffers(2, 1)[0]
        machine.cuda.fails[call] = Error.cudaErrorIllegalAddress
        with pytest.raises(BackendError, match=rf"CUDA's {call} failed \(cudaErrorIllegalAddress, code 700: something"):
            backend.collect(backend.submit(buffers, 2))
        machine.cuda.fails.clear()
        assert call == "cudaEventSynchronize" or not any(item.queue for item in machine.cuda.streams.values())
        fill(buffers, inputs(2))
        machine.check(backend.collect(backend.submit(buffers, 2)), inputs(2))


def test_an_error_of_the_caller_is_not_hidden_by_one_of_the_clean_up(machine: Any) -> None:
    def fail() -> None:
        machine.cuda.fails["cudaFreeHost"] = Error.cudaErrorIllegalAddress
        raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"), machine.open():
        fail()
    backend = machine.open()
    with pytest.raises(BackendError, match="cudaFreeHost"):
        backend.close()


def test_outputs_are_the_callers_own(machine: Any) -> None:
    with machine.open() as backend:
        buffers = backend.buffers(2, 1)[0]
        fill(buffers, inputs(2))
        first = backend.collect(backend.submit(buffers, 2))
        kept = first.logits.copy()
        fill(buffers, inputs(2, seed=9))
        second = backend.collect(backend.submit(buffers, 2))
    np.testing.assert_array_equal(first.logits, kept)
    assert not np.array_equal(second.logits, kept)


def test_buffers_and_tickets_out_of_order_are_refused(machine: Any) -> None:
    with machine.open() as backend:
        one, two = backend.buffers(2, 2)
        assert (one.slot, two.slot, len(one.tensors["image"])) == (0, 1, 2)
        first, second = backend.submit(one, 1), backend.submit(two, 2)
        with pytest.raises(BackendError, match="found one that is under way; collect it first"):
            backend.submit(one, 1)
        with pytest.raises(BackendError, match="expected the first of 2 batches under way, found another"):
            backend.collect(second)
        backend.collect(first)
        backend.collect(second)
        with pytest.raises(BackendError, match="expected the first of 0 batches"):
            backend.collect(second)
        with pytest.raises(BackendError, match="1 to 2 rows, found 3 rows"):
            backend.submit(one, 3)
        backend.collect(backend.submit(one, 1))


def test_nan_from_the_gpu_is_refused(machine: Any) -> None:
    with machine.open() as backend:
        buffers = backend.buffers(2, 1)[0]
        buffers.tensors["image"][1] = np.nan
        with pytest.raises(BackendError, match=r"expected finite logits, found NaN or infinity in rows \[1\] of 2"):
            backend.collect(backend.submit(buffers, 2))
        buffers.tensors["image"][1] = 0
        backend.collect(backend.submit(buffers, 2))
