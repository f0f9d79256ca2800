"""Every TensorRT and cuda-python name that the code uses: is it in the installed bindings, and in TensorRT 10.3?"""

import ast
import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.models.small_graphs import SPEC, lstm_graph

import hybrid_edge.runtime
from hybrid_edge.runtime.engines.build import build_engine
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.library import Library
from hybrid_edge.runtime.errors import UsageError

RUNTIME = Path(hybrid_edge.runtime.__file__).parent
CUDA_MODULE = "backends/cuda.py"

# which variables hold objects of which TensorRT class, in the modules that use them
HOLDERS: dict[str, dict[str, str]] = {
    "engines/build.py": {
        "builder": "Builder",
        "_builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "error": "ParserError",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "times": "ITimingCache",
        "tensor": "ITensor",
    },
    "engines/library.py": {
        "context": "IExecutionContext",
        "_engine": "ICudaEngine",
        "config": "IRuntimeConfig",
        "cache": "IRuntimeCache",
    },
    "engines/progress.py": {},
    "backends/tensorrt/engine.py": {
        "runtime": "Runtime",
        "engine": "ICudaEngine",
        "_engine": "ICudaEngine",
        "context": "IExecutionContext",
        "inspector": "EngineInspector",
    },
    "backends/tensorrt/execution.py": {"context": "IExecutionContext", "_plain": "IExecutionContext"},
}
# names of ours on such variables: a cached engine's bytes, a loaded engine's contexts
OWN = {("backends/tensorrt/engine.py", "engine", "data"), ("engines/build.py", "network", "network")}

# Names that TensorRT 10.3 (JetPack 6.1) has, by its Python API reference,
# docs.nvidia.com/deeplearning/tensorrt/archives/tensorrt-1030/api/python_api, and by the bindings' source of that
# time (github.com/NVIDIA/TensorRT, python/src). A name that the code comes to use is looked up there before it is
# written down here; one that is missing there goes into GUARDED.
IN_10_3 = {
    "Builder": "build_serialized_network create_builder_config create_network create_optimization_profile",
    "BuilderFlag": "TF32",
    "DataType": "FLOAT",
    "EngineInspector": "execution_context get_engine_information",
    "IBuilderConfig": "add_optimization_profile clear_flag create_timing_cache get_flag get_timing_cache "
    "profiling_verbosity progress_monitor set_flag set_memory_pool_limit set_timing_cache",
    "ExecutionContextAllocationStrategy": "USER_MANAGED",
    "ICudaEngine": "create_engine_inspector create_execution_context device_memory_size_v2 get_tensor_dtype "
    "get_tensor_name get_tensor_shape num_io_tensors",
    "IExecutionContext": "execute_async_v3 profiler set_device_memory set_input_shape set_tensor_address",
    "ILogger": "INFO VERBOSE log",
    "INetworkDefinition": "get_input get_output num_inputs num_outputs",
    "IOptimizationProfile": "set_shape",
    "IProfiler": "report_layer_time",
    "IProgressMonitor": "phase_finish phase_start step_complete",
    "ITensor": "name shape",
    "ITimingCache": "serialize",
    "LayerInformationFormat": "JSON",
    "MemoryPoolType": "WORKSPACE",
    "NetworkDefinitionCreationFlag": "",
    "OnnxParser": "get_error num_errors parse",
    "ParserError": "desc node_name node_operator",
    "ProfilingVerbosity": "DETAILED",
    "Runtime": "deserialize_cuda_engine",
}
# TensorRT-RTX alone has these (building for a GPU that is not there): used after Library.compute_capability, which
# looks the constant up by name and refuses where there is none
GUARDED = {"IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability"}
# asked for with getattr, in Library
ASKED_FOR = {
    "IExecutionContext.is_stream_capturable",
    "ICudaEngine.create_runtime_config",
    "BuilderFlag.REQUIRE_USER_ALLOCATION",
}
# what TensorRT-RTX has from 1.0 on (docs.nvidia.com/deeplearning/tensorrt-rtx/1.0, IRuntimeConfig and IRuntimeCache),
# used inside EagerContexts, which Library makes for it alone
OF_RTX = {
    "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "ICudaEngine.create_runtime_config",
    "IRuntimeCache.deserialize",
    "IRuntimeCache.serialize",
    "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_execution_context_allocation_strategy",
    "IRuntimeConfig.set_runtime_cache",
}


def used(module: str) -> Iterator[str]:
    """Names of TensorRT in one of our modules: ``BuilderFlag``, ``BuilderFlag.TF32``, ``ITensor.shape``."""
    for node in ast.walk(ast.parse((RUNTIME / module).read_text())):
        if isinstance(node, ast.Attribute):
            yield from _attribute(module, node)
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if _dotted(base).startswith("trt."):
                    methods = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
                    yield from (f"{_dotted(base)[4:]}.{name}" for name in methods if name != "__init__")


def _attribute(module: str, node: ast.Attribute) -> Iterator[str]:
    dotted = _dotted(node)
    if dotted.startswith("trt."):
        yield dotted.removeprefix("trt.").removesuffix(".__init__")
        return
    holder = _dotted(node.value).rpartition(".")[2]
    if holder in HOLDERS[module] and (module, holder, node.attr) not in OWN:
        yield f"{HOLDERS[module][holder]}.{node.attr}"


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def all_used() -> set[str]:
    return {name for module in HOLDERS for name in used(module)}


NAMERS = ("doctor/conditions.py", "doctor/trials.py")  # what is imported by these names is so in a child process


def test_no_other_module_uses_tensorrt_or_cuda_python() -> None:
    for path in RUNTIME.rglob("*.py"):
        module = path.relative_to(RUNTIME).as_posix()
        nodes = list(ast.walk(ast.parse(path.read_text())))
        constants = {node.value for node in nodes if isinstance(node, ast.Constant)}
        assert module in HOLDERS or not any(isinstance(node, ast.Name) and node.id == "trt" for node in nodes), module
        assert module in NAMERS or module == "engines/library.py" or "tensorrt_rtx" not in constants, module
        assert module in NAMERS or module == CUDA_MODULE or not {"cuda.bindings.runtime", "cuda.cudart"} & constants, (
            module
        )


def find(module: Any, name: str) -> None:
    for part in name.split("."):
        assert hasattr(module, part), name
        module = getattr(module, part)


def test_every_name_is_in_the_installed_bindings(rtx: Library) -> None:
    names = all_used()
    assert len(names) > 50
    assert {"BuilderFlag.TF32", "OnnxParser.parse", "IProgressMonitor.step_complete", "ParserError.desc"} <= names
    for name in sorted(names):
        find(rtx.module, name)


def test_every_name_is_in_tensorrt_10_3_or_guarded() -> None:
    known = set(IN_10_3) | {f"{owner}.{name}" for owner, names in IN_10_3.items() for name in names.split()}
    assert all_used() - GUARDED - OF_RTX <= known
    assert all_used() >= GUARDED | OF_RTX


def test_what_tensorrt_rtx_alone_has_is_used_for_it_alone(rtx: Library) -> None:
    assert {module for module in HOLDERS for name in used(module) if name in OF_RTX} == {"engines/library.py"}
    has_all = types.SimpleNamespace(create_runtime_config=lambda: None)
    assert Library(rtx.module, "tensorrt", "11.0").eager_contexts(has_all, None) is None  # which has one since 10.13
    assert rtx.eager_contexts(object(), None) is None
    assert rtx.eager_contexts(has_all, None) is not None


class Older(types.ModuleType):
    """The bindings as TensorRT 10.3 has them: without what only TensorRT-RTX brings."""

    def __init__(self, module: Any) -> None:
        super().__init__("tensorrt")
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name == "ComputeCapability":
            raise AttributeError(name)
        return getattr(self._module, name)


def test_a_tensorrt_without_guarded_names_refuses_what_needs_them_and_no_more(rtx: Library) -> None:
    library = Library(Older(rtx.module), "rtx", "10.3.0")
    with pytest.raises(UsageError, match=r"builds for \(this machine's GPU alone\)"):
        build_engine(lstm_graph(), SPEC, EngineOptions(), library, architecture="sm89")


# Names that cuda-python 12.0 has: CUDA 12.0's runtime API, docs.nvidia.com/cuda/archive/12.0.0/cuda-runtime-api, which
# cuda-python follows name by name. cudaGraphInstantiate has taken (graph, flags) since then.
IN_CUDA_12 = (
    "cudaError_t cudaEventBlockingSync cudaEventCreateWithFlags cudaEventDestroy cudaEventDisableTiming "
    "cudaEventRecord cudaEventSynchronize cudaFree cudaFreeHost cudaGetDeviceCount cudaGetDeviceProperties "
    "cudaGetErrorString cudaGetLastError cudaGraphDestroy cudaGraphExecDestroy cudaGraphInstantiate cudaGraphLaunch "
    "cudaHostAlloc cudaHostAllocDefault cudaHostAllocMapped cudaHostGetDevicePointer cudaMalloc cudaMemGetInfo "
    "cudaMemcpyAsync cudaMemcpyKind cudaMemsetAsync cudaStreamBeginCapture cudaStreamCaptureMode "
    "cudaStreamCreateWithFlags cudaStreamDestroy cudaStreamEndCapture cudaStreamNonBlocking cudaStreamSynchronize "
    "cudaStreamWaitEvent"
)


def cuda_tree() -> ast.AST:
    return ast.parse((RUNTIME / CUDA_MODULE).read_text())


def called() -> set[str]:
    """CUDA's functions by the names that ``call`` is given, which looks at their error codes."""
    tree = cuda_tree()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _dotted(node.func) == "call"]
    releases = [
        node for node in ast.walk(tree) if isinstance(node, ast.Assign) and _dotted(node.targets[0]) == "release"
    ]
    named = [*(node.args[0] for node in calls), *(node.value for node in releases)]
    assert sum(not isinstance(node, ast.Constant) for node in named) == 1  # the releases themselves
    return {str(node.value) for node in named if isinstance(node, ast.Constant)}


def cuda_names() -> set[str]:
    dotted = (_dotted(node) for node in ast.walk(cuda_tree()))
    return called() | {name[3:] for name in dotted if name.startswith("rt.")}


def test_every_cuda_name_is_in_the_installed_bindings() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    names = cuda_names()
    assert len(names) > 30
    assert {"cudaMalloc", "cudaMemcpyAsync", "cudaMemcpyKind.cudaMemcpyHostToDevice", "cudaStreamSynchronize"} <= names
    for name in sorted(names):
        find(runtime, name)
    cuda = importlib.import_module("hybrid_edge.runtime.backends.cuda")
    assert all(hasattr(runtime.cudaError_t, name) for name in cuda.UNAVAILABLE_ERRORS)


def test_every_cuda_name_is_in_cuda_python_12() -> None:
    assert {name.partition(".")[0] for name in cuda_names()} <= set(IN_CUDA_12.split())


def test_every_cuda_call_is_checked() -> None:
    calls = [node for node in ast.walk(cuda_tree()) if isinstance(node, ast.Call)]
    unchecked = {_dotted(node.func) for node in calls if _dotted(node.func).startswith("rt.")}
    assert unchecked == {"rt.cudaGetErrorString", "rt.cudaGetLastError"}  # what is called after an error
    assert len(called()) >= 24


def test_what_is_asked_of_a_gpus_properties_is_there() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    nodes = (node for node in ast.walk(cuda_tree()) if isinstance(node, ast.Attribute))
    fields = {node.attr for node in nodes if _dotted(node.value) == "properties"}
    assert fields >= {"name", "major", "minor", "integrated", "multiProcessorCount"}
    assert all(hasattr(runtime.cudaDeviceProp, name) for name in fields)


def test_what_only_some_versions_have_is_asked_for_and_missed_by_nobody(rtx: Library) -> None:
    """Asked for with getattr, so the walk above doesn't see it."""
    source = (RUNTIME / "engines/library.py").read_text()
    for name in ASKED_FOR:
        owner, _, attribute = name.partition(".")
        assert hasattr(getattr(rtx.module, owner), attribute)
        assert f', "{attribute}", None)' in source
    assert rtx.can_capture(object(), 1)  # an execution context of TensorRT 10.3
    assert not rtx.can_capture(types.SimpleNamespace(is_stream_capturable=lambda stream: stream != 1), 1)
