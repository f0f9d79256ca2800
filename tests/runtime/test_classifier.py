import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.models.bundles import SPEC, make_weights, reference_outputs, sample_image

from hybrid_edge.runtime import Classifier, Frame, Prediction
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.errors import BackendError, GoldenError, ImageError, InputError, UsageError
from hybrid_edge.runtime.preprocess import Preprocessor


@pytest.fixture
def classifier(folder: Path) -> Iterator[Classifier]:
    with Classifier.load(folder) as opened:
        yield opened


def prediction(*probabilities: float) -> Prediction:
    values = np.array(probabilities, np.float32)
    return Prediction(tuple("abcde"[: len(values)]), values, np.log(values + 1e-9), 1.0, 2.0)


def test_predictions_are_what_the_model_computes(classifier: Classifier) -> None:
    frames = [sample_image(seed, 30, 40) for seed in range(5)]
    expected = reference_outputs(SPEC, make_weights(SPEC), Preprocessor(SPEC)(frames))
    for row, found in enumerate(classifier.predict(frames)):
        np.testing.assert_allclose(found.probabilities, expected["probabilities"][row], atol=1e-5)
        np.testing.assert_allclose(found.logits, expected["logits"][row], rtol=1e-4, atol=1e-4)
        assert found.label == SPEC.class_labels[expected["logits"][row].argmax()]
        assert found.labels == SPEC.class_labels


def test_paths_strings_and_arrays_of_any_size_go_together(classifier: Classifier, photos: Path) -> None:
    path = photos / "img3.png"
    predictions = classifier.predict([path, str(path), sample_image(3, 29, 37), sample_image(1, 1, 5000)])
    assert len(predictions) == 4
    np.testing.assert_array_equal(predictions[0].logits, predictions[1].logits)
    np.testing.assert_allclose(predictions[0].logits, predictions[2].logits, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 25])
def test_any_number_of_images_gives_as_many_predictions(classifier: Classifier, count: int) -> None:
    assert len(classifier.predict(sample_image(seed) for seed in range(count))) == count


def test_the_batch_size_does_not_change_the_answers(folder: Path) -> None:
    frames = [sample_image(seed, 20 + seed, 50) for seed in range(11)]
    logits = []
    for size in (1, 3, 8, 64):
        with Classifier.load(folder, batch_size=size) as classifier:
            logits.append(np.stack([found.logits for found in classifier.predict(frames)]))
    for other in logits[1:]:
        assert np.abs(other - logits[0]).max() <= 1e-5 * np.abs(logits[0]).max()


def test_earlier_predictions_survive_later_batches(classifier: Classifier) -> None:
    (first,) = classifier.predict([sample_image(1)])
    before = first.probabilities.copy()
    classifier.predict([sample_image(seed) for seed in range(20)])
    np.testing.assert_array_equal(first.probabilities, before)


def test_an_array_of_a_batch_is_an_iterable_of_images(classifier: Classifier) -> None:
    assert len(classifier.predict(np.stack([sample_image(1), sample_image(2)]))) == 2


def test_an_unreadable_path_is_an_image_error(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"missing\.png"):
        classifier.predict([sample_image(1), tmp_path / "missing.png"])


@pytest.mark.parametrize("images", ["photo.png", Path("photo.png"), sample_image(1)])
def test_one_image_in_place_of_several_is_refused_with_the_remedy(classifier: Classifier, images: object) -> None:
    with pytest.raises(InputError, match="put it in a list"):
        classifier.predict(images)  # type: ignore[arg-type]


@pytest.mark.parametrize("image", [None, 3, b"bytes", np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_image_is_refused(classifier: Classifier, image: object) -> None:
    with pytest.raises(InputError, match="expected a"):
        classifier.predict([image])  # type: ignore[list-item]


def test_unreadable_frames_pass_through_a_stream_in_their_places(classifier: Classifier) -> None:
    frames = [
        Frame("x", number, None, "bad") if number % 3 == 0 else Frame("x", number, sample_image(number))
        for number in range(40)
    ]
    found = list(classifier.stream(frames))
    assert [frame.index for frame, _ in found] == list(range(40))
    assert [result is None for _, result in found] == [number % 3 == 0 for number in range(40)]
    alone = classifier.predict([frames[31].image])  # type: ignore[list-item]
    np.testing.assert_allclose(found[31][1].logits, alone[0].logits, rtol=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("error", [None, "bad"])
def test_a_stream_answers_before_its_source_ends(classifier: Classifier, error: str | None) -> None:
    def endless() -> Iterator[Frame]:
        while True:
            yield Frame("x", 0, sample_image(1) if error is None else None, error)

    frames = classifier.stream(endless())
    assert [frame.error for frame, _ in (next(frames) for _ in range(100))] == [error] * 100


def test_memory_does_not_grow_with_the_number_of_frames(classifier: Classifier) -> None:
    image = sample_image(1, 200, 200)
    frames = (Frame("x", index, image.copy()) for index in range(400))
    stream = classifier.stream(frames)
    next(stream)
    tracemalloc.start()
    for _ in stream:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * image.nbytes


def test_times_are_a_frames_own_and_its_share_of_the_batch(classifier: Classifier) -> None:
    predictions = classifier.predict([sample_image(seed) for seed in range(8)])
    assert all(found.preprocess_ms > 0 for found in predictions)
    assert len({found.inference_ms for found in predictions}) == 1


def test_top_k_is_descending_and_at_most_all_labels() -> None:
    found = prediction(0.1, 0.5, 0.15, 0.25)
    assert [label for label, _ in found.top(2)] == ["b", "d"]
    assert [label for label, _ in found.top(9)] == ["b", "d", "c", "a"]
    assert found.top(0) == []
    assert (found.label, found.probability) == ("b", 0.5)
    equal = prediction(0.25, 0.25, 0.25, 0.25)
    assert equal.top(1)[0][0] == equal.label == "a"


def test_the_golden_examples_are_run_at_start_unless_left_out(folder: Path) -> None:
    with Classifier.load(folder) as checked, Classifier.load(folder, check=False) as unchecked:
        assert checked.golden.examples == 8
        assert unchecked.golden is None


def test_a_device_that_computes_something_else_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def release(self: OnnxRuntimeCpu) -> None:
        closed.append(self)

    monkeypatch.setattr("hybrid_edge.runtime.golden.TENSOR_TOLERANCE", -1.0)
    monkeypatch.setattr(OnnxRuntimeCpu, "_release", release)
    with pytest.raises(GoldenError):
        Classifier.load(folder)
    assert len(closed) == 1
    Classifier.load(folder, check=False)


def test_a_closed_classifier_says_so(folder: Path) -> None:
    classifier = Classifier.load(folder)
    classifier.close()
    classifier.close()
    with pytest.raises(BackendError, match="was closed"):
        classifier.predict([sample_image(1)])
    assert classifier.predict([]) == []


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, UsageError, "batch size of at least 1, found 0"),
        (10**12, BackendError, "expected memory for 1000000000000 frames at once, found too little"),
    ],
)
def test_a_batch_size_that_can_not_be_is_refused(folder: Path, size: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Classifier.load(folder, batch_size=size)
