import subprocess
import sys

import pytest

from hybrid_edge import runtime


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


def test_the_runtime_loads_nothing_of_training_or_export() -> None:
    code = """
import sys
from hybrid_edge.runtime import *
from hybrid_edge.runtime.commands import bench, compare, draw, infer
unwanted = {"tensorflow", "keras", "tf2onnx", "onnx", "matplotlib", "sklearn"}
print(sorted({name.partition(".")[0] for name in sys.modules} & unwanted))
rooms = ("hybrid_edge.train", "hybrid_edge.export", "hybrid_edge.calib")
print([name for name in sys.modules if name.startswith(rooms)])
print([name for name in ("onnxruntime", "tensorrt", "tensorrt_rtx", "cuda") if name in sys.modules])
"""
    assert run(code).splitlines() == ["[]", "[]", "[]"]


def test_importing_the_package_loads_neither_opencv_nor_pydantic() -> None:
    heavy = ("cv2", "numpy", "pydantic", "rich")
    assert run(f"import sys, hybrid_edge.runtime; print([m for m in {heavy} if m in sys.modules])") == "[]"
