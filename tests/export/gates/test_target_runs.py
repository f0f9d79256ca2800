from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.models.lowered import Source

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.gates import target_runs
from hybrid_edge.export.gates.target_runs import against_wider, time_ratio
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeSimulated
from hybrid_edge.runtime.manifest import Precision
from hybrid_edge.runtime.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("_short")

Files = dict[Precision, Path]


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_runs, "MIN_SECONDS", 0.1)
    monkeypatch.setattr(target_runs, "WARM_UP_SECONDS", 0.02)


@pytest.fixture(scope="module")
def files(digits_source: Source, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """On the CPU: LSTM operators in FP32, and TensorRT's INT8, which is many times slower there."""
    folder = tmp_path_factory.mktemp("speed")
    graphs = {"fp32": digits_source.forms["lstm"], "int8": digits_source.lower("int8-tensorrt", "unrolled")}
    for name, graph in graphs.items():
        (folder / name).write_bytes(serialize(graph))
    return {"fp32": folder / "fp32", "int8": folder / "int8"}


def test_a_narrower_precision_that_is_slower_is_named_with_both_times(files: Files, digits_source: Source) -> None:
    found = against_wider(files, "cpu", digits_source.spec)
    assert found.keys() == {"int8"}
    assert "int8 takes " in found["int8"].warning
    assert "on ONNX Runtime" in found["int8"].warning
    assert found["int8"].warning.endswith(f"int8 is {found['int8'].ratio:.2f} times slower here")
    assert found["int8"].ratio > 1.5
    faster: Files = {"fp32": files["int8"], "int8": files["fp32"]}
    beside = against_wider(faster, "cpu", digits_source.spec)["int8"]
    assert beside.ratio < 1
    assert beside.warning is None


def test_the_ratio_of_two_artifacts_is_that_of_the_second_to_the_first(files: Files, digits_source: Source) -> None:
    slower = time_ratio(files["fp32"], files["int8"], "cpu", digits_source.spec)
    faster = time_ratio(files["int8"], files["fp32"], "cpu", digits_source.spec)
    assert faster < 1 < slower


@contextmanager
def simulated_target(_target: str, file: Path, spec: ModelSpec, _options: object = None) -> Iterator[Any]:
    """Also where the tests run on a machine with the target."""
    with OnnxRuntimeSimulated(file, spec) as backend:
        yield backend, True


def test_what_is_only_simulated_here_or_stands_alone_is_not_timed(
    files: Files, digits_source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_arguments: object, **_settings: object) -> None:
        raise AssertionError("timed")

    monkeypatch.setattr(target_runs, "time_interleaved", never)
    assert against_wider({"fp32": files["fp32"]}, "cpu", digits_source.spec) == {}
    assert against_wider({}, "cpu", digits_source.spec) == {}
    monkeypatch.setattr(target_runs, "open_target", simulated_target)
    assert against_wider(files, "tensorrt", digits_source.spec) == {}
    assert time_ratio(files["fp32"], files["int8"], "tensorrt", digits_source.spec) is None
