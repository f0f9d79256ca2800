import json
from pathlib import Path

import numpy as np
import pytest
from support.models.adopted import KINDS, LABELS, digits, train, write_digits

from hybrid_edge.export.adopt.adoption import Statement
from hybrid_edge.export.export_request import ExportSettings, make_request
from hybrid_edge.export.exporter import export
from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.manifest import parse_manifest


@pytest.mark.parametrize(("kind", "suffix"), [("cnn and gru", ".h5"), ("bgr", ".keras")])
def test_somebody_elses_model_becomes_a_bundle_that_answers_like_it_in_every_precision(
    kind: str, suffix: str, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    write_digits(images / "train", 0, 300)
    write_digits(images / "val", 1400, 1480)
    model = train(kind)
    model.save(tmp_path / f"model{suffix}")
    request = make_request(
        tmp_path / f"model{suffix}",
        images=images,
        settings=ExportSettings(("fp32", "fp16", "int8"), max_drop=0.05),
        stated=Statement(),
    )
    assert {item.path.relative_to(images).parts[0] for item in request.calibration} == {"train"}
    result = export(request)
    result.require_passed()
    assert result.bundle == tmp_path / "model-bundle"
    report = json.loads((tmp_path / "model-bundle-report" / "report.json").read_text())
    tried = report["adoption"]["accuracy_by_preprocessing"]
    assert max(tried, key=tried.get) == {"cnn and gru": "unit rgb", "bgr": "caffe bgr"}[kind]
    manifest = parse_manifest((result.bundle / "manifest.json").read_bytes())
    assert manifest.format_version == 2
    assert {"fp32", "fp16", "int8"} == {item.precision for item in manifest.variants}
    assert {"cpu", "cuda", "tensorrt"} == {item.target for item in manifest.variants}
    (in_int8,) = (item for item in manifest.variants if (item.precision, item.target) == ("int8", "cpu"))
    assert in_int8.recurrent == ("unrolled" if kind == "cnn and gru" else "none")  # a CPU has nothing else in INT8
    accuracy = manifest.variants[0].parity.accuracy
    assert accuracy is not None
    assert accuracy.keras > 0.6
    frames, _ = digits()
    own = model.predict(KINDS[kind][1](frames[1400:1440]), verbose=0)
    with Classifier.load(result.bundle, precision="fp32", backend="cpu", threads=1) as classifier:
        found = classifier.predict(list(frames[1400:1440]))
    assert [item.label for item in found] == [LABELS[number] for number in own.argmax(axis=1)]
    np.testing.assert_allclose([item.probability for item in found], own.max(axis=1), atol=1e-4)
