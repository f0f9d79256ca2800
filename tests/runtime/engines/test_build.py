import io
import re
import signal
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import helper
from rich.console import Console
from support.gpu.engine_fixtures import ADA, skip_on_a_gpu
from support.gpu.fake_tensorrt import FakeTensorRt
from support.gpu.network_summary import inspect_graph
from support.models.small_graphs import SPEC, lstm_graph

from hybrid_edge.runtime import console as terminal
from hybrid_edge.runtime.engines.build import BuiltEngine, EngineBuild, build_engine
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.engines.progress import show_progress
from hybrid_edge.runtime.errors import BackendUnavailableError, EngineError, Int8EngineError, UsageError

ONNX = lstm_graph()
OPTIONS = EngineOptions()


class Heard:
    def __init__(self) -> None:
        self.started: list[tuple[str, str | None, int]] = []
        self.steps: list[tuple[str, int]] = []
        self.finished: list[str] = []

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self.started.append((phase, parent, steps))

    def step(self, phase: str, number: int) -> None:
        self.steps.append((phase, number))

    def finish(self, phase: str) -> None:
        self.finished.append(phase)


def build(rtx: Library, onnx: bytes = ONNX, options: EngineOptions = OPTIONS, **settings: Any) -> BuiltEngine:
    return build_engine(onnx, settings.pop("spec", SPEC), options, rtx, **{"architecture": "sm89", **settings})


@pytest.mark.parametrize(
    ("architecture", "quantized"), [("sm80", False), ("sm86", False), ("sm89", False), ("sm89", True), ("sm120", False)]
)
def test_an_lstm_graph_builds_for_every_desktop_architecture(rtx: Library, architecture: str, quantized: bool) -> None:
    built = build(rtx, lstm_graph(quantized=quantized), architecture=architecture)
    assert len(built.engine) > 2**16
    assert built.engine[1:4] == b"trt"  # nothing stands before the engine itself
    assert built.seconds > 0
    assert built.timing_cache is None


def test_for_this_machines_gpu_tensorrt_rtx_asks_the_driver(rtx: Library) -> None:
    """So the engine fits this GPU alone; where there is none, that is what fails."""
    skip_on_a_gpu()
    with pytest.raises(EngineError, match=r"(?i)driver"):
        build(rtx, gpu=ADA, architecture=None)


def test_engines_differ_by_architecture_and_by_profile(rtx: Library) -> None:
    ada = build(rtx).engine
    assert ada != build(rtx, architecture="sm120").engine
    assert ada != build(rtx, options=EngineOptions((1, 4, 16))).engine


@pytest.mark.parametrize("quantized", [False, True])
def test_what_is_parsed_is_the_graph_with_its_types_loops_and_quantized_products(rtx: Library, quantized: bool) -> None:
    """The products' dequantized inputs come through layers that only move values."""
    network = inspect_graph(lstm_graph(quantized=quantized), SPEC, rtx)
    assert [(item.name, item.dtype, item.shape) for item in network.inputs] == [
        ("image", "FLOAT", (-1, 28, 28, 3)),
        ("sequence", "FLOAT", (-1, 28, 28)),
    ]
    assert {item.name: item.shape for item in network.outputs} == {"logits": (-1, 10), "probabilities": (-1, 10)}
    assert (network.loops, len(network.convolutions), len(network.matrix_products)) == (1, 1, 3)  # two in the loop
    assert [item.name for item in network.products if item.quantized] == ["convolved", "logits"] * quantized
    assert network.layers.get("DEQUANTIZE", 0) == 4 * quantized


def test_the_builders_progress_is_heard(rtx: Library) -> None:
    heard = Heard()
    build(rtx, listener=heard)
    phases = [phase for phase, _, _ in heard.started]
    assert phases[0] == heard.finished[-1]  # the outermost
    assert heard.started[0][1] is None
    assert {parent for _, parent, _ in heard.started[1:]} <= set(phases)
    assert sorted(heard.finished) == sorted(phases)
    outermost = [number for phase, number in heard.steps if phase == phases[0]]
    assert outermost == list(range(len(outermost)))
    assert 0 < len(outermost) <= heard.started[0][2]


def test_ctrl_c_stops_the_builder_at_its_next_step(rtx: Library) -> None:
    class Interrupts(Heard):
        def step(self, phase: str, number: int) -> None:
            super().step(phase, number)
            if len(self.steps) == 2:
                signal.raise_signal(signal.SIGINT)
                pause.wait(1)  # until the main thread has seen it

    pause = threading.Event()
    whole, heard = Heard(), Interrupts()
    build(rtx, listener=whole)
    with pytest.raises(KeyboardInterrupt):
        build(rtx, listener=heard)
    assert len(heard.steps) < len(whole.steps)
    assert heard.finished  # the builder had left its phases when we were told
    steps = len(heard.steps)
    pause.wait(0.3)
    assert len(heard.steps) == steps


def test_a_file_that_is_no_graph_is_refused_in_tensorrts_own_words(rtx: Library) -> None:
    with pytest.raises(EngineError, match=r"TensorRT-RTX [\d.]+ refused the graph.*Failed to parse the ONNX model"):
        build(rtx, ONNX[:1000])


def test_an_operator_that_tensorrt_lacks_is_named(rtx: Library) -> None:
    extra = [helper.make_node("Nonsense", ["logits"], ["nothing"], name="the_culprit")]
    with pytest.raises(EngineError, match=r"Nonsense.*the_culprit"):
        inspect_graph(lstm_graph(extra=extra), SPEC, rtx)


def test_a_build_that_fails_says_so_in_tensorrts_own_words(rtx: Library) -> None:
    with pytest.raises(EngineError, match=r"could not build the engine for sm75: .*FP32 GEMM is not supported"):
        build(rtx, architecture="sm75")


def test_int8_that_does_not_build_offers_fp16_and_ends_with_3(rtx: Library) -> None:
    with pytest.raises(Int8EngineError, match=r"in INT8 for sm75: .*take FP16 here: --precision fp16") as caught:
        build(rtx, lstm_graph(quantized=True), architecture="sm75")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("changes", [{"branches": "cnn"}, {"image_size": 56}, {"timesteps": 14}])
def test_a_graph_with_other_inputs_than_its_spec_is_refused(rtx: Library, changes: dict[str, Any]) -> None:
    spec = SPEC.replace(**changes)
    shapes = re.escape(str({name: (-1, *shape) for name, shape in spec.inputs.items()}))
    with pytest.raises(EngineError, match=rf"expected a graph with the inputs {shapes}.*found .*\(-1, 28, 28, 3\)"):
        build(rtx, spec=spec)


def test_a_profile_that_tensorrt_does_not_take_is_refused_in_its_own_words(rtx: Library) -> None:
    job = EngineBuild(rtx, ONNX, SPEC)
    profile = job._builder.create_optimization_profile()
    negative = SimpleNamespace(set_shape=lambda name, _, *rest: profile.set_shape(name, (-1, 28, 28, 3), *rest))
    job._builder = SimpleNamespace(create_optimization_profile=lambda: negative)
    with pytest.raises(EngineError, match=r"refused the batch profile .*Shape provided for min is inconsistent"):
        job._add_profile(None, OPTIONS)


def test_a_builder_that_does_not_start_is_not_available() -> None:
    def builder(_: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library = Library(SimpleNamespace(ILogger=FakeTensorRt.ILogger, Builder=builder), "tensorrt", "11.4.1")
    with pytest.raises(BackendUnavailableError, match=r"TensorRT 11\.4\.1 does not start here: pybind11::init"):
        build(library)


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """The builds and their configurations, each as it was when building began."""
    found: list[tuple[Any, Any]] = []
    real = EngineBuild.build
    monkeypatch.setattr(EngineBuild, "build", lambda job, config: found.append((job, config)) or real(job, config))
    return found


@pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")
def test_an_engine_of_this_machine_allocates_nothing_while_it_runs(rtx: Library, configured: list[Any]) -> None:
    """Else TensorRT-RTX allows no CUDA graphs; one for programs of other people may let TensorRT-RTX allocate."""
    flag = rtx.module.BuilderFlag.REQUIRE_USER_ALLOCATION
    build(rtx, gpu=ADA)  # has a loop, of a known number of steps
    build(rtx)
    build(Library(rtx.module, "tensorrt", "10.3.0"), gpu=ADA)
    assert [config.get_flag(flag) for _, config in configured] == [True, False, False]


def test_a_network_that_does_not_allow_it_is_built_without(rtx: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the builder refuses it for sizes that depend on data; it parses no such layer of ONNX's today."""
    flags = refuse(rtx, monkeypatch, "BuilderFlag::kREQUIRE_USER_ALLOCATION is not compatible with networks that")
    built = build(rtx, gpu=ADA)
    assert flags == [True, False]
    assert len(built.engine) > 2**16


@pytest.mark.parametrize("reason", ["Build canceled by user", "Out of memory error while finding fastest tactic"])
def test_a_build_failing_otherwise_is_not_retried(rtx: Library, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    flags = refuse(rtx, monkeypatch, reason)
    with pytest.raises(EngineError, match=f"could not build the engine for sm89: .*{reason}"):
        build(rtx, gpu=ADA)
    assert flags == [True]


def refuse(rtx: Library, monkeypatch: pytest.MonkeyPatch, reason: str) -> list[bool]:
    """Have the builder refuse engines that must not allocate; gives whether each that was asked for must not."""
    flags: list[bool] = []
    real = EngineBuild.build

    def refusing(job: Any, config: Any) -> bytes:
        builder = job._builder

        def serialized(network: Any, config: Any) -> Any:
            flags.append(config.get_flag(rtx.module.BuilderFlag.REQUIRE_USER_ALLOCATION))
            if not flags[-1]:
                return builder.build_serialized_network(network, config)
            job.messages.add("ERROR", reason)
            return None

        job._builder = SimpleNamespace(build_serialized_network=serialized)
        return real(job, config)

    monkeypatch.setattr(EngineBuild, "build", refusing)
    return flags


@pytest.mark.parametrize("architecture", ["sm87", "sm99", "Ada"])
def test_an_architecture_that_the_library_can_not_build_for_is_wrong_usage(rtx: Library, architecture: str) -> None:
    with pytest.raises(UsageError, match=rf"sm89.*found '{architecture}'"):
        build(rtx, architecture=architecture)


@pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")
def test_a_timing_cache_comes_back_and_one_that_does_not_fit_is_left_aside(rtx: Library) -> None:
    """TensorRT's own way, walked with TensorRT-RTX, whose timing caches hold nothing."""
    library = Library(rtx.module, "tensorrt", "10.3.0")
    for timing_cache in (build(library).timing_cache, b"of another machine"):
        assert timing_cache
        assert build(library, timing_cache=timing_cache).timing_cache


@pytest.mark.filterwarnings("ignore:.*TensorRT-RTX:DeprecationWarning")
@pytest.mark.parametrize("none_of", [(b"damaged",), (b"damaged", b"")])
def test_a_timing_cache_that_tensorrt_does_not_make_costs_no_build(rtx: Library, none_of: tuple[bytes, ...]) -> None:
    """Its header does not promise one; None where one is expected is a TypeError of the bindings."""
    job = EngineBuild(Library(rtx.module, "tensorrt", "10.3.0"), ONNX, SPEC)
    config = job.configure(OPTIONS, None, None)
    attached: list[Any] = []

    def attach(cache: Any, ignore_mismatch: bool) -> bool:
        attached.append(cache)
        return bool(config.set_timing_cache(cache, ignore_mismatch))

    sparing = SimpleNamespace(
        create_timing_cache=lambda data: None if data in none_of else config.create_timing_cache(data),
        set_timing_cache=attach,
        get_timing_cache=lambda: attached[-1] if attached else None,
    )
    job.attach_timing_cache(sparing, b"damaged")
    assert len(attached) == 2 - len(none_of)
    assert (job.timing_cache(sparing) is None) == (not attached)


def test_the_workspace_reaches_the_builder_and_fp32_is_fp32(rtx: Library, configured: list[Any]) -> None:
    build(rtx, options=EngineOptions(workspace=100 * 2**20))
    job, config = configured[0]
    assert config.get_memory_pool_limit(rtx.module.MemoryPoolType.WORKSPACE) == 100 * 2**20
    assert not config.get_flag(rtx.module.BuilderFlag.TF32)
    assert job.network.get_flag(rtx.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_phases_are_shown_as_bars_and_go_when_they_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(terminal, "status", console)
    with show_progress() as bar:
        bar.start("Building engine", None, 6)
        bar.start("Timing kernels", "Building engine", 40)
        bar.step("Timing kernels", 9)
        bar.step("unheard of", 1)
        progress = bar._progress  # type: ignore[attr-defined]
        progress.refresh()
        assert [(task.description, task.completed, task.total) for task in progress.tasks] == [
            ("Building engine", 0, 6),
            ("  Timing kernels", 10, 40),
        ]
        bar.finish("Timing kernels")
        bar.finish("unheard of")
        assert [task.description for task in progress.tasks] == ["Building engine"]
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "Timing kernels" in shown
    assert "10/40" in shown
