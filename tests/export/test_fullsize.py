"""The reference hybrid at full size: a stand-in with 103 M parameters through the real command."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.models.damage import DAMAGES, DamagedInputs, damaged_backend
from support.models.fullsize import FullExport
from support.models.standin import FULL, crops, features, probabilities, write_crops

from hybrid_edge.export.convert.inspection import check_graph
from hybrid_edge.export.gates import gate as rows
from hybrid_edge.export.gates.gate import run_gate
from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.export.gates.verdict import GateLimits, require_passed
from hybrid_edge.runtime.errors import ParityError
from hybrid_edge.train.data import LabelledImage

pytestmark = pytest.mark.fullsize

MEMORY_LIMIT = 8e9  # bytes, of the whole command


def test_the_standin_decides_differs_between_images_and_uses_both_branches(standin: tuple[Path, Any]) -> None:
    images, sequences = features(standin[1], FULL, crops(32, seed=1234))  # not fitted on
    own = probabilities(standin[1], images, sequences)
    exchanged = probabilities(standin[1], images, np.roll(sequences, 1, axis=0))
    labels = own.argmax(axis=1)
    assert own.max(axis=1).mean() >= 0.5
    assert len(set(labels)) >= 12
    assert np.bincount(labels).max() <= len(labels) / 5
    assert (exchanged.argmax(axis=1) != labels).mean() >= 0.3


def test_a_full_size_export_stays_within_its_memory(
    exported_full: FullExport, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    record_property("seconds", round(exported_full.seconds, 1))
    record_property("peak_memory_mb", exported_full.memory // 10**6)
    with capsys.disabled():
        found = exported_full
        print(f"\nfull-size export: {found.seconds:.0f} s, {found.memory / 1e6:.0f} MB\n{found.output}")  # noqa: T201
    assert exported_full.memory <= MEMORY_LIMIT
    assert exported_full.bundle.manifest.variants[0].file.size <= 415e6


def test_the_full_size_graph_is_the_declared_one(exported_full: FullExport) -> None:
    model = onnx.ModelProto.FromString(exported_full.graph.read_bytes())
    check_graph(model, FULL)
    counts = Counter(node.op_type for node in model.graph.node)
    assert (counts["LSTM"], counts["Conv"]) == (2, 74)
    assert (counts["Loop"], counts["Scan"], counts["BatchNormalization"]) == (0, 0, 0)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "image": ["N", 299, 299, 3],
        "sequence": ["N", 23, 3887],
        "logits": ["N", 100],
        "probabilities": ["N", 100],
    }
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    assert model.ir_version == 8


def test_full_size_parity_holds_within_every_limit(exported_full: FullExport) -> None:
    parity = exported_full.bundle.manifest.variants[0].parity
    require_passed(parity, "fp32-cpu")
    assert parity.images == 8
    assert parity.max_logit_error <= 1e-4
    assert parity.max_probability_error <= 1e-4
    assert parity.batch_error <= 1e-5
    assert parity.sequence_error <= 1e-6
    assert parity.warnings == ()


@pytest.fixture(scope="module")
def backend(exported_full: FullExport) -> Iterator[DamagedInputs]:
    """The graph as it was exported, loaded once."""
    with DamagedInputs(exported_full.graph, FULL) as backend:
        yield backend


@pytest.fixture(scope="module")
def reference(exported_full: FullExport, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Keras on two images."""
    folder = write_crops(tmp_path_factory.mktemp("two"), 2, seed=99)
    return Reference.of(exported_full.model, FULL, [LabelledImage(path, "") for path in sorted(folder.rglob("*.png"))])


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_by_hand_is_seen_at_full_size(
    damage: str,
    exported_full: FullExport,
    backend: DamagedInputs,
    reference: Reference,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("BATCH", 2), ("OTHER_BATCHES", (1,))):  # what rows do to each other is not asked here
        monkeypatch.setattr(rows, name, value)
    limits = GateLimits.for_precision("fp32", FULL)
    if damage == "gate order":
        with damaged_backend(damage, exported_full.graph, FULL, tmp_path) as other:
            parity = run_gate(reference, other, precision="fp32", simulated=False, limits=limits).parity
        (tmp_path / "gates.onnx").unlink()
    else:
        monkeypatch.setattr(backend, "damage", damage)
        parity = run_gate(reference, backend, precision="fp32", simulated=False, limits=limits).parity
    assert parity.max_logit_error > 10 * limits.logits
    with pytest.raises(ParityError, match="Likely cause: another computation"):
        require_passed(parity, "fp32-cpu")
