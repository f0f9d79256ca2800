import io
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.models.bundles import (
    SPEC,
    change_manifest,
    make_bundle,
    make_graph,
    make_weights,
    npz,
    reference_outputs,
    store,
)

from hybrid_edge.runtime.bench import BenchReport, BenchRequest, bench
from hybrid_edge.runtime.bench.bench_report import Case, Stats
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.roofline import BranchCost, Cost, WeightReads

COST = Cost(
    head=BranchCost({"fp32": 1_000}, (WeightReads(4_000, 1),)),
    cnn=BranchCost({"fp32": 200_000}, (WeightReads(8_000, 1),)),
    recurrent=BranchCost({"fp32": 100_000}, (WeightReads(9_000, 5),)),
)
BRIEF = {"seconds": 0.02, "rounds": 5, "warm_up": 0.0, "threads": 1}


def named_graph() -> bytes:
    model = onnx.load(io.BytesIO(make_graph(SPEC, make_weights(SPEC))))
    prefixes = {"image": "cnn/", "sequence": "rnn/"}
    for node in model.graph.node:
        prefix = next((text for name, text in prefixes.items() if node.output[0].startswith(name)), "")
        node.name = f"{prefix}{node.output[0]}"
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def bench_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FP32 for the CPU with its cost recorded, and for TensorRT, of which no test machine is sure to have one."""
    folder = make_bundle(tmp_path_factory.mktemp("bench") / "bundle", variants=(("fp32", "cpu"), ("fp16", "tensorrt")))
    bundle = Bundle.open(folder)
    outputs = reference_outputs(SPEC, make_weights(SPEC), bundle.golden_tensors())
    changes = {
        "file": store(folder, "artifacts", "onnx", named_graph()),
        "golden": store(folder, "golden", "npz", npz(outputs)),
    }
    variants = tuple(item.model_copy(update={**changes, "cost": COST}) for item in bundle.manifest.variants)
    return change_manifest(folder, variants=variants).root


@pytest.fixture(scope="session")
def measured(bench_bundle: Path) -> BenchReport:
    """The CPU's variant at two batch sizes, really measured, one process started."""
    return bench(BenchRequest(bench_bundle, batches=(1, 3), starts=1, **BRIEF))


@pytest.fixture
def altered(measured: BenchReport) -> Callable[..., BenchReport]:
    def alter(rounds: dict[str, tuple[list[float], list[float]]] | None = None, **changes: object) -> BenchReport:
        cases = [
            _with(case, *(rounds or {})[case.name]) if case.name in (rounds or {}) else case for case in measured.cases
        ]
        return measured.model_copy(update={"cases": tuple(cases), **changes})

    return alter


def _with(case: Case, inference: list[float], whole: list[float]) -> Case:
    parts = {
        name: Stats(p50=values[0], p90=values[0], p99=values[0], mean=values[0], count=9, rounds=tuple(values))
        for name, values in (("inference", inference), ("whole", whole))
    }
    return case.model_copy(update=parts)
