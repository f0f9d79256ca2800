"""hybrid-bench's questions to a real GPU: layers by branch, copies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hybrid_edge.runtime.bench.bench_report import BenchReport
from hybrid_edge.runtime.bench.cases import BenchRequest
from hybrid_edge.runtime.bench.rounds import bench
from hybrid_edge.runtime.bundle import Bundle

pytestmark = pytest.mark.gpu


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
