"""Two forms of one precision share their CNN: it runs once, and both come to the answers that they have alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models.bundles import SPEC, make_graph, make_weights
from support.models.lowered import Source, tensors_of

from hybrid_edge.export.convert.fp32_graph import serialize
from hybrid_edge.export.gates.simulation import SharedFeatures, SimulatedInParts, simulate
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeSimulated, TensorSession
from hybrid_edge.runtime.errors import BackendError


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each batch that went through a CNN alone."""
    rows: list[int] = []
    run = TensorSession.run

    def watched(session: TensorSession, tensors: Any) -> Any:
        if session.inputs == ("image",):
            rows.append(len(tensors["image"]))
        return run(session, tensors)

    monkeypatch.setattr(TensorSession, "run", watched)
    return rows


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8-tensorrt"])
def test_both_forms_answer_as_they_do_alone_and_their_cnn_runs_once(
    variant: str, small_source: Source, tmp_path: Path, ran: list[int]
) -> None:
    spec, shared, tensors = small_source.spec, SharedFeatures(), tensors_of(small_source.spec, 8)
    for form in ("lstm", "unrolled"):
        file = tmp_path / form
        file.write_bytes(serialize(small_source.lower(variant, form)))
        with OnnxRuntimeSimulated(file, spec) as alone, simulate(file, spec, shared) as backend:
            assert isinstance(backend, SimulatedInParts)
            assert backend.device == alone.device
            for rows in (slice(None), slice(3), slice(1, 2)):
                part = {name: values[rows] for name, values in tensors.items()}
                found, expected = backend.run(part), alone.run(part)
                assert np.array_equal(found.logits, expected.logits)
                assert np.array_equal(found.probabilities, expected.probabilities)
    assert ran == [8, 3, 1]


def test_many_images_go_through_the_cnn_eight_at_a_time(small_source: Source, tmp_path: Path, ran: list[int]) -> None:
    file, spec, tensors = tmp_path / "model", small_source.spec, tensors_of(small_source.spec, 20)
    file.write_bytes(serialize(small_source.forms["lstm"]))
    with OnnxRuntimeSimulated(file, spec) as alone, simulate(file, spec, SharedFeatures()) as backend:
        np.testing.assert_allclose(backend.run(tensors).logits, alone.run(tensors).logits, atol=1e-5)
    assert ran == [8, 8, 4]


def test_another_graph_never_gets_the_features_of_this_one(small_source: Source, tmp_path: Path) -> None:
    spec, shared, tensors = small_source.spec, SharedFeatures(), tensors_of(small_source.spec, 2)
    answers = []
    for variant in ("fp32", "fp16"):
        file = tmp_path / variant
        file.write_bytes(serialize(small_source.lower(variant, "lstm")))
        with OnnxRuntimeSimulated(file, spec) as alone, simulate(file, spec, shared) as backend:
            answers.append(backend.run(tensors).logits)
            assert np.array_equal(answers[-1], alone.run(tensors).logits)
    assert not np.array_equal(*answers)
    assert len(shared.found) == 2


def test_a_single_branch_is_simulated_whole(rnn_file: tuple[Path, Any]) -> None:
    file, spec = rnn_file
    with simulate(file, spec, SharedFeatures()) as backend:
        assert type(backend) is OnnxRuntimeSimulated
    with pytest.raises(BackendError, match="closed"):
        backend.run(tensors_of(spec, 1))


@pytest.fixture
def rnn_file(tmp_path: Path) -> tuple[Path, Any]:
    spec = SPEC.replace(branches="rnn")
    file = tmp_path / "rnn"
    file.write_bytes(make_graph(spec, make_weights(spec)))
    return file, spec
