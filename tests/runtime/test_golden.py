from pathlib import Path

import numpy as np
import pytest
from support.models.bundles import change_manifest, make_bundle, npz, store

from hybrid_edge.runtime.backends import open_backend
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import GoldenError
from hybrid_edge.runtime.golden import GoldenResult, check_golden
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
