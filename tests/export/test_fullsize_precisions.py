"""FP16 and INT8 of the reference hybrid at full size: sizes, what is quantized, and TensorRT-RTX's builder."""

from dataclasses import replace
from typing import Any

import pytest
from support.gpu.network_summary import inspect_graph
from support.models.fullsize import FullExport, Rebuilder
from support.models.standin import FULL, write_crops

from hybrid_edge.calib import choose_images
from hybrid_edge.export.artifacts import Artifact
from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.convert.inspection import operations
from hybrid_edge.export.quantize.artifact_graph import ArtifactGraphs, Int8Ranges
from hybrid_edge.export.quantize.calibration_graph import choose_ranges
from hybrid_edge.export.quantize.gpu_graph import ActivationPeaks
from hybrid_edge.export.quantize.prepared_model import ActivationMeasurer
from hybrid_edge.export.step_log import StepLog
from hybrid_edge.runtime.engines.build import build_engine
from hybrid_edge.runtime.engines.engine_options import EngineOptions
from hybrid_edge.runtime.engines.library import find_library
from hybrid_edge.train.data import LabelledImage

pytestmark = pytest.mark.fullsize

STEPS = 23  # timesteps; two LSTMs take one product for all of them and one for each but the first
PRODUCTS = 2 * STEPS
# bytes: the limits
LIMITS = {
    ("fp32", "lstm", "tensorrt"): 415e6,
    ("fp16", "lstm", "tensorrt"): 208e6,
    ("int8", "unrolled", "cpu"): 106e6,
    ("int8", "lstm", "tensorrt"): 190e6,
    ("int8", "unrolled", "tensorrt"): 106e6,
}
# one form of each precision
BUILT = [("fp32", "lstm", "tensorrt"), ("fp16", "lstm", "tensorrt"), ("int8", "unrolled", "tensorrt")]


@pytest.fixture(scope="module")
def graphs(exported_full: FullExport, tmp_path_factory: pytest.TempPathFactory) -> ArtifactGraphs:
    """Calibrated on so few images that nothing is said of accuracy: that is measured on trained models."""
    folder = tmp_path_factory.mktemp("precisions")
    model = exported_full.model
    images = [LabelledImage(item, "") for item in sorted(write_crops(folder / "photos", 2, seed=5).glob("*/*"))]
    measurer = ActivationMeasurer(FULL, choose_images(images[1:]), (images[0].path,), StepLog(quiet=True))
    builder = Rebuilder(exported_full.graph, model, FULL)
    surveyed = ArtifactGraphs(builder, FULL, measurer.survey(model, builder.build("unrolled"))[0])
    evened = surveyed.evened("unrolled")
    graph = evened.graph
    calibration, measured = measurer.quantized(evened, "0" * 64, folder)
    peaks = ActivationPeaks.of((measured.largest,))
    signed, unsigned = (choose_ranges(calibration, graph, "percentile", symmetric=item) for item in (True, False))
    return replace(surveyed, int8=Int8Ranges(signed, unsigned, peaks))


@pytest.fixture(scope="module", params=LIMITS, ids="-".join)
def artifact(request: pytest.FixtureRequest, graphs: ArtifactGraphs) -> tuple[tuple[str, ...], Any, bytes]:
    """One after the other: two of them at a time would hold a gigabyte."""
    precision, form, target = request.param
    model = graphs.write(Artifact(precision, form, (target,)))
    return request.param, model, serialize(model)


def test_sizes_quantized_operations_and_what_tensorrt_parses(artifact: tuple[tuple[str, ...], Any, bytes]) -> None:
    (precision, form, target), model, data = artifact
    assert len(data) <= LIMITS[precision, form, target]
    found = operations(model)
    integers = [name for name, kind in found.items() if kind == "INT8"]
    convolutions = 73 if target == "cpu" else 74  # an image's three channels stay in float on the CPU
    expected = 0 if precision != "int8" else convolutions + (PRODUCTS if form == "unrolled" else 0)
    assert len(integers) == expected
    if target != "tensorrt":
        return
    pytest.importorskip("tensorrt_rtx")
    network = inspect_graph(data, FULL, find_library("rtx"))
    assert [(item.name, item.dtype) for item in (*network.inputs, *network.outputs)] == [
        ("image", "FLOAT"),
        ("sequence", "FLOAT"),
        ("logits", "FLOAT"),
        ("probabilities", "FLOAT"),
    ]
    assert network.loops == (2 if form == "lstm" else 0)
    assert sum(item.quantized for item in network.products) == expected
    if (precision, form, target) in BUILT:
        built = build_engine(data, FULL, EngineOptions(), find_library("rtx"), architecture="sm89")
        assert len(built.engine) > 1e8
