from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from hybrid_edge import runtime

FORBIDDEN = ("tensorflow", "keras", "tf2onnx", "onnx", "matplotlib", "sklearn")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_every_public_name_is_there_and_sorted() -> None:
    assert list(runtime.__all__) == sorted(runtime.__all__)
    for name in runtime.__all__:
        assert getattr(runtime, name) is not None
    assert set(runtime.__all__) <= set(dir(runtime))


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = runtime.Nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "module",
    [
        "backends",
        "bundle",
        "backends.cuda",
        "backends.forms",
        "backends.tensorrt",
        "classifier",
        "cpu",
        "engines.ahead",
        "engines.build",
        "engines.cache",
        "engines.engine_options",
        "engines.gpu",
        "engines.library",
        "engines.progress",
        "golden",
        "live.assembly",
        "live.flow.pipeline",
        "live.outputs.choice",
        "live.outputs.window",
        "live.run",
        "live.supervision.supervisor",
        "manifest",
        "outputs",
        "preprocess",
        "sinks",
        "sources",
        "sources.capture",
        "spec",
        "timing",
        "unpack",
    ],
)
def test_what_a_module_exports_it_defines(module: str) -> None:
    loaded = importlib.import_module(f"hybrid_edge.runtime.{module}")
    assert all(hasattr(loaded, name) for name in loaded.__all__)


def test_the_runtime_loads_nothing_of_training_or_export() -> None:
    code = f"""
import sys
from hybrid_edge.runtime import *
from hybrid_edge.runtime import command
print(sorted({{name.partition(".")[0] for name in sys.modules}} & set({FORBIDDEN!r})))
rooms = ("hybrid_edge.train", "hybrid_edge.export", "hybrid_edge.calib")
print([name for name in sys.modules if name.startswith(rooms)])
print([name for name in ("onnxruntime", "tensorrt", "tensorrt_rtx", "cuda") if name in sys.modules])
"""
    assert run(code).splitlines() == ["[]", "[]", "[]"]


def test_importing_the_package_loads_neither_opencv_nor_pydantic() -> None:
    code = (
        "import sys, hybrid_edge.runtime; print([m for m in ('cv2', 'numpy', 'pydantic', 'rich') if m in sys.modules])"
    )
    assert run(code) == "[]"


def test_the_whole_public_api_adds_a_quarter_of_a_second_to_its_libraries() -> None:
    code = """
import time
import cv2, numpy, pydantic  # 0.2 s on an idle machine, three times that on a busy one: not ours to judge
start = time.process_time()  # the machine may be busy with other things
from hybrid_edge.runtime import *
print(time.process_time() - start)
"""
    assert min(float(run(code)) for _ in range(3)) < 0.25
