from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models.bundles import change_manifest, make_bundle, npz, store

from hybrid_edge.runtime.backends import open_backend
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.engines.cache import EngineCache
from hybrid_edge.runtime.errors import GoldenError
from hybrid_edge.runtime.golden import GoldenResult, check_golden, prove_golden
from hybrid_edge.runtime.preprocess import Preprocessor


def check(bundle: Bundle, preprocessor: Preprocessor | None = None) -> GoldenResult:
    selection = open_backend(bundle)
    with selection.backend as backend:
        return check_golden(bundle, selection.variant, backend, preprocessor or Preprocessor(bundle.spec))


class Swapped(Preprocessor):
    """Preprocessing that forgot to turn BGR into RGB."""

    def fill(self, frame, tensors, row):  # type: ignore[no-untyped-def]
        super().fill(frame[:, :, ::-1], tensors, row)


def with_probabilities(bundle: Bundle, change: float) -> Bundle:
    variant = bundle.manifest.variants[0]
    outputs = bundle.golden_outputs(variant)
    outputs.probabilities[5, 2] += np.float32(change)
    arrays = {"logits": outputs.logits, "probabilities": outputs.probabilities}
    record = store(bundle.root, "golden", "npz", npz(arrays))
    return change_manifest(bundle.root, variants=(variant.model_copy(update={"golden": record}),))


def test_a_device_that_agrees_passes_and_says_how_nearly(bundle: Bundle) -> None:
    result = check(bundle)
    assert result.examples == 8
    assert result.tensor_error <= 1e-6
    assert result.probability_error <= result.tolerance == 1e-5
    assert result.milliseconds > 0


@pytest.mark.parametrize("examples", [1, 9, 17])
def test_any_number_of_examples_is_checked(tmp_path: Path, examples: int) -> None:
    assert check(Bundle.open(make_bundle(tmp_path / "b", examples=examples))).examples == examples


@pytest.mark.parametrize("branches", ["cnn", "rnn"])
def test_a_branch_alone_is_checked_too(bundle: Bundle, tmp_path: Path, branches: str) -> None:
    spec = bundle.spec.replace(branches=branches)
    assert check(Bundle.open(make_bundle(tmp_path / "b", spec))).examples == 8


def test_other_preprocessing_is_blamed_on_preprocessing(bundle: Bundle) -> None:
    for other in (Swapped(bundle.spec), Preprocessor(bundle.spec.replace(interpolation="nearest-exact"))):
        with pytest.raises(GoldenError, match=r"preprocessing .* a difference of at most 1e-06, found .*OpenCV"):
            check(bundle, other)


def test_a_probability_beyond_the_tolerance_is_refused_with_both_numbers(bundle: Bundle) -> None:
    message = r"within 1e-05 on 8 golden examples, found a difference of 2.*1 examples over"
    with pytest.raises(GoldenError, match=message):
        check(with_probabilities(bundle, 2e-5))


def test_a_probability_within_the_tolerance_passes(bundle: Bundle) -> None:
    assert check(with_probabilities(bundle, 5e-6)).probability_error == pytest.approx(5e-6, abs=1e-6)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def prove(bundle: Bundle, **settings: Any) -> GoldenResult:
    selection = open_backend(bundle, "cpu")
    with selection.backend as backend:
        return prove_golden(bundle, selection.variant, backend, Preprocessor(bundle.spec), **settings)


def damage_examples(bundle: Bundle) -> None:
    """Whoever reads an example from now on is told that it is damaged."""
    for item in bundle.manifest.golden.images:
        (bundle.root / item.file.path).write_bytes(b"")


def test_examples_that_passed_here_do_not_run_again(bundle: Bundle, own_cache: Path) -> None:
    first = prove(bundle)
    damage_examples(bundle)
    assert not first.earlier
    assert prove(bundle) == replace(first, earlier=True)


def test_examples_run_where_the_preprocessing_is_installed_without_its_source(
    bundle: Bundle, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.preprocess.__file__", "/nowhere/preprocess.py")
    assert not prove(bundle).earlier
    assert not prove(bundle).earlier


def test_examples_run_anew_where_that_is_asked_for(bundle: Bundle, own_cache: Path) -> None:
    prove(bundle)
    assert not prove(bundle, anew=True).earlier


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hybrid_edge.runtime.backends.onnxruntime.cpu_identity", lambda: "another CPU"),
        ("hybrid_edge.runtime.backends.onnxruntime.onnxruntime_build", lambda: "9.9, of another commit"),
        ("hybrid_edge.runtime.golden.__version__", "9.9"),
        ("hybrid_edge.runtime.preprocess.__file__", __file__),
        ("cv2.getBuildInformation", lambda: "with other flags"),
        ("hybrid_edge.runtime.golden.TENSOR_TOLERANCE", 2e-6),
        ("hybrid_edge.runtime.backends.onnxruntime.usable_cpus", lambda: [0] * 3),
    ],
)
def test_examples_run_again_where_what_answers_depend_on_has_changed(
    bundle: Bundle, own_cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    monkeypatch.setattr("hybrid_edge.runtime.backends.onnxruntime.SINGLE_THREAD_GRAPH_SIZE", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    prove(bundle)
    monkeypatch.setattr(name, value)
    assert not prove(bundle).earlier
    assert prove(bundle).earlier


def test_examples_run_again_for_another_bundle_with_the_same_graph(bundle: Bundle, own_cache: Path) -> None:
    prove(bundle)
    other = with_probabilities(bundle, 5e-6)
    assert other.manifest.variants[0].file == bundle.manifest.variants[0].file
    assert not prove(other).earlier


def test_examples_run_again_on_a_kept_graph_that_was_made_anew(
    bundle: Bundle, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(bundle)
    monkeypatch.setattr("hybrid_edge.runtime.backends.onnxruntime.LEAST_KEPT_SIZE", 0)
    assert not prove(bundle).earlier
    assert prove(bundle).earlier


def test_examples_run_each_time_on_a_backend_that_does_not_say_what_it_depends_on(
    bundle: Bundle, own_cache: Path
) -> None:
    class Other(OnnxRuntimeCpu):
        pass

    variant = bundle.manifest.variants[0]
    with Other(bundle.verified(variant.file), bundle.spec) as backend:
        results = [prove_golden(bundle, variant, backend, Preprocessor(bundle.spec)) for _ in range(2)]
    assert [result.earlier for result in results] == [False, False]


def test_examples_that_fail_once_run_at_the_next_start_too(
    bundle: Bundle, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(bundle)
    with monkeypatch.context() as patch:
        patch.setattr("hybrid_edge.runtime.golden._require", refuse)
        with pytest.raises(GoldenError):
            prove(bundle, anew=True)
    assert not prove(bundle).earlier


def refuse(*_: object) -> None:
    raise GoldenError("a device that fails now and then")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"no JSON", b'{"of": {}, "result": {}}'])
def test_a_note_of_something_else_proves_nothing(bundle: Bundle, own_cache: Path, content: bytes) -> None:
    prove(bundle)
    EngineCache().keep_note(next(own_cache.glob("*.golden")).name, content)
    assert not prove(bundle).earlier


def test_a_note_that_was_altered_proves_nothing(bundle: Bundle, own_cache: Path) -> None:
    prove(bundle)
    note = next(own_cache.glob("*.golden"))
    note.write_bytes(note.read_bytes().replace(b'"examples": 8', b'"examples": 9'))
    assert not prove(bundle).earlier


def test_a_note_that_can_not_be_kept_costs_no_run(bundle: Bundle, own_cache: Path) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("a file in its place")
    assert [prove(bundle).earlier for _ in range(2)] == [False, False]
