from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper
from support.models.bundles import SPEC, encode, make_graph, make_weights, sample_image

from hybrid_edge.calib import TensorStatistics
from hybrid_edge.train.data import LabelledImage

INNER = ("image_features", "sequence_features", "product")


@pytest.fixture(scope="session")
def graph() -> bytes:
    model = onnx.load_model_from_string(make_graph(SPEC, make_weights(SPEC)))
    for name in INNER:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


@pytest.fixture
def photos(tmp_path: Path) -> list[LabelledImage]:
    """Twenty different images of three classes: 12, 6 and 2."""
    found = []
    for number in range(20):
        label = "a" if number < 12 else "b" if number < 18 else "c"
        path = tmp_path / "photos" / label / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(sample_image(number, 20 + number, 40)))
        found.append(LabelledImage(path, label))
    return found


@pytest.fixture
def measured() -> Callable[..., TensorStatistics]:
    def make(*batches: npt.NDArray[Any]) -> TensorStatistics:
        statistics = TensorStatistics("tensor")
        for batch in batches:
            statistics.update(np.asarray(batch, np.float32))
        return statistics

    return make
