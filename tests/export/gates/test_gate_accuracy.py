"""The gate on a variant that mistakes images: flips, agreement, accuracy, and on how many images they are judged."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.models.gated import judged, labelled
from support.models.standin import write_crops

from hybrid_edge.export.gates import gate
from hybrid_edge.export.gates.comparison import Flip, class_indices, paired_accuracy, paired_interval
from hybrid_edge.export.gates.contact_sheet import MAX_FLIPS, write_flips
from hybrid_edge.export.gates.gate import run_gate
from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.export.gates.verdict import GateLimits, require_passed
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.canvas.sheet import PICTURE_SIDE
from hybrid_edge.runtime.errors import ParityError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.preprocess import read_image
from hybrid_edge.train.data import LabelledImage

Array = npt.NDArray[np.float32]


class Mistaken(OnnxRuntimeCpu):
    """Gives the images whose inputs are listed the second label in place of the first."""

    inputs: tuple[Array, ...] = ()

    def _infer(self, tensors: dict[str, Any]) -> tuple[Any, Any]:
        logits, probabilities = super()._infer(tensors)
        for row, image in enumerate(tensors["image"]):
            if any(np.array_equal(image, other) for other in self.inputs):
                for values in (logits, probabilities):
                    first, second = np.argsort(-values[row])[:2]
                    values[row, [first, second]] = values[row, [second, first]]
        return logits, probabilities

    def mistake(self, reference: Reference, rows: list[int]) -> None:
        tensors = np.concatenate([batch["image"] for batch in reference.batches()])
        self.inputs = tuple(tensors[row] for row in rows)


def test_flips_are_counted_named_and_ranked_and_cost_agreement_and_accuracy(digits: tuple[Any, Reference]) -> None:
    exported, reference = digits[0], labelled(digits[1])
    margins = np.diff(np.sort(reference.probabilities, axis=1)[:, -2:], axis=1)[:, 0]
    rows = np.argsort(margins)[[-3, -1]].tolist()
    with Mistaken(exported.graph, exported.spec) as backend:
        backend.mistake(reference, rows)
        limits = GateLimits.for_precision("int8", exported.spec, max_drop=0.1)
        measured = run_gate(reference, backend, precision="int8", simulated=True, limits=limits)
    parity = measured.parity
    assert [flip.image for flip in measured.flips] == [reference.images[row] for row in reversed(rows)]
    worst, answers = measured.flips[0], reference.probabilities[rows[1]]
    assert worst.keras_label == worst.image.label == exported.spec.class_labels[answers.argmax()]
    assert worst.variant_label == exported.spec.class_labels[np.argsort(-answers)[1]]
    assert worst.keras_probability == pytest.approx(answers.max(), abs=1e-5)
    assert (parity.flips, parity.simulated, parity.top1_agreement) == (2, True, 9 / 11)
    assert parity.top5_overlap == 1
    assert (parity.accuracy.keras, parity.accuracy.variant, parity.accuracy.drop) == (1, 9 / 11, 2 / 11)
    assert parity.accuracy.drop_low < 2 / 11 < parity.accuracy.drop_high
    count = parity.confident_images
    with pytest.raises(ParityError, match=rf"\(2 of {count} flipped\).*accuracy drop.*at most 0.1.*2 of 11 labels"):
        require_passed(parity, "int8-tensorrt")


def test_fp16_is_refused_for_a_flip_below_its_agreement_with_the_counts(digits: tuple[Any, Reference]) -> None:
    exported, reference = digits
    with Mistaken(exported.graph, exported.spec) as backend:
        backend.mistake(reference, [2])
        parity = judged(reference, backend, "fp16")
    for error, cause in ((1e-3, "Keras itself hardly decides"), (0.5, "beyond FP16's range of 65,504")):
        with pytest.raises(ParityError, match=rf"at least 0.995, found 0.909091 \(1 of 11 flipped\).*{cause}"):
            require_passed(parity.model_copy(update={"max_logit_error": error}), "fp16-cuda")


def test_without_labels_int8_is_judged_by_agreement_and_says_so(digits: tuple[Any, Reference]) -> None:
    exported, reference = digits
    with Mistaken(exported.graph, exported.spec) as backend:
        parity = judged(reference, backend, "int8")
        assert parity.accuracy is None
        assert "none of the 11 images has a label that the model knows" in parity.warnings[0]
        require_passed(parity, "int8-cpu")
        confident = int(np.argmax(reference.probabilities.max(axis=1)))
        backend.mistake(reference, [confident])
        with pytest.raises(ParityError, match=r"where the margin is above 0.1"):
            require_passed(judged(reference, backend, "int8"), "int8-cpu")
    known = labelled(reference)
    half = replace(reference, images=(*known.images[:5], *reference.images[5:]))
    with OnnxRuntimeCpu(exported.graph, exported.spec) as backend:
        parity = judged(half, backend, "int8")
    assert parity.accuracy is not None
    known_part, few = parity.warnings
    assert known_part == "accuracy is judged on the 5 of 11 images whose label the model knows"
    assert few.startswith("with 5 labelled images an accuracy loss below 40 points can't be seen")


def test_stale_statistics_are_named_before_the_quantizer(digits: tuple[Any, Reference]) -> None:
    exported, reference = digits
    with Mistaken(exported.graph, exported.spec) as backend:
        backend.mistake(reference, list(range(11)))
        parity = judged(reference, backend, "int8")
    with pytest.raises(ParityError, match=r"Likely cause: calibration ranges that don't fit"):
        require_passed(parity, "int8-cpu")
    with pytest.raises(ParityError, match=r"Likely cause: activations run far .*calibration ranges"):
        require_passed(parity, "int8-cpu", stale="activations run far beyond those in training")


def test_a_simulated_variant_runs_on_the_first_images_and_the_callback_counts_them(
    digits: tuple[Any, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported, reference = digits
    monkeypatch.setattr(gate, "SIMULATED_IMAGES", 9)
    limits, seen = GateLimits.for_precision("fp16", exported.spec), list[int]()
    with OnnxRuntimeCpu(exported.graph, exported.spec) as backend:
        run: Any = {"precision": "fp16", "limits": limits, "on_batch": seen.append}
        assert run_gate(reference, backend, simulated=True, **run).parity.images == 9
        assert sum(seen) == 9
        assert run_gate(reference, backend, simulated=False, **run).parity.images == 11


@pytest.mark.parametrize(("mistakes", "on"), [(0, 6), (1, 11), (6, 6)])
def test_accuracy_that_a_few_images_lost_perhaps_by_chance_is_judged_on_all(
    digits: tuple[Any, Reference], monkeypatch: pytest.MonkeyPatch, mistakes: int, on: int
) -> None:
    exported, reference = digits[0], labelled(digits[1])
    monkeypatch.setattr(gate, "SIMULATED_IMAGES", 6)
    with Mistaken(exported.graph, exported.spec) as backend:
        backend.mistake(reference, list(range(mistakes)))
        measured = run_gate(reference, backend, precision="int8", simulated=True, limits=GateLimits(max_drop=0.1))
    assert (measured.parity.images, measured.parity.passed) == (on, mistakes < 2)


def test_the_interval_is_bonett_and_prices() -> None:
    # f00 = 12, f01 = 4, f10 = 26, f11 = 6: the example of statpsych's ci.prop.ps, which implements the paper
    assert paired_interval(26, 4, 48) == pytest.approx((0.2548067, 0.6251933), abs=1e-7)


def test_no_disagreement_is_no_proof_that_there_is_none() -> None:
    low, high = paired_interval(0, 0, 300)
    assert low == -high
    assert 0.008 < high < 0.013  # the exact upper bound of 0 of 300 is 0.0122


def test_the_interval_stays_within_what_a_difference_can_be() -> None:
    assert paired_interval(3, 0, 3)[1] == 1
    assert paired_interval(0, 3, 3)[0] == -1


def test_the_interval_covers_the_true_difference_at_its_level_where_few_disagree() -> None:
    rng = np.random.default_rng(0)
    lost, gained = 0.02, 0.01
    drawn = rng.multinomial(300, [lost, gained, 1 - lost - gained], size=4000)
    intervals = np.array([paired_interval(int(a), int(b), 300) for a, b, _ in drawn])
    covered = (intervals[:, 0] <= lost - gained) & (lost - gained <= intervals[:, 1])
    assert 0.94 < covered.mean() < 0.985


def test_the_drop_is_exact_so_that_one_of_200_is_within_half_a_point() -> None:
    truth = np.zeros(200, np.int64)
    keras, variant = truth.copy(), truth.copy()
    keras[:53], variant[:54] = 1, 1
    accuracy = paired_accuracy(keras, variant, truth, max_drop=0.005)
    assert accuracy.drop == 0.005  # 0.735 - 0.73 is more
    assert (accuracy.keras, accuracy.variant, accuracy.max_drop) == (0.735, 0.73, 0.005)


def test_a_variant_may_be_right_where_keras_is_not() -> None:
    truth = np.array([0, 1, 2, 3])
    accuracy = paired_accuracy(np.array([0, 0, 0, 0]), np.array([0, 1, 2, 0]), truth)
    assert (accuracy.keras, accuracy.variant, accuracy.drop) == (0.25, 0.75, -0.5)
    assert accuracy.drop_low < -0.5 < accuracy.drop_high


def test_a_label_that_is_no_class_has_no_index() -> None:
    assert class_indices(["b", "", "a", "z"], ("a", "b")).tolist() == [1, -1, 0, -1]
    assert class_indices(["caf\xe9", "cafe\u0301"], ("tea", "cafe\u0301")).tolist() == [1, 1], "in either form"


@pytest.fixture(scope="module")
def flip(tmp_path_factory: pytest.TempPathFactory) -> Flip:
    path = next(write_crops(tmp_path_factory.mktemp("flips"), 1, seed=9).rglob("*.png"))
    return Flip(LabelledImage(path, "cat"), "cat", 0.61, "dog", 0.55)


def test_nothing_is_written_where_nothing_flipped_and_an_earlier_sheet_goes(tmp_path: Path, flip: Flip) -> None:
    path = tmp_path / "report" / "flips-int8-cpu.png"
    assert write_flips(path, [], "int8-cpu", 300) is None
    assert not path.parent.exists()
    assert write_flips(path, [flip], "int8-cpu", 300) == path
    assert write_flips(path, [], "int8-cpu", 300) is None
    assert list(path.parent.iterdir()) == []


def test_the_sheet_shows_the_image_itself_and_is_the_same_each_time(tmp_path: Path, flip: Flip) -> None:
    first, second = (write_flips(tmp_path / name, [flip], "int8-cpu", 300) for name in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes()
    sheet = read_image(first)
    thumbnail = cv2.resize(read_image(flip.image.path), (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_AREA)
    assert cv2.matchTemplate(sheet, thumbnail, cv2.TM_CCOEFF_NORMED).max() > 0.99


def test_at_most_48_are_shown(tmp_path: Path, flip: Flip) -> None:
    sheets = [write_flips(tmp_path / f"{count}.png", [flip] * count, "fp16-cuda", 1000) for count in (100, MAX_FLIPS)]
    many, most = (read_image(sheet).shape[0] for sheet in sheets)
    assert many == most > MAX_FLIPS / 6 * PICTURE_SIDE


@pytest.mark.filterwarnings("error")
def test_strange_labels_and_vanished_files_are_drawn(tmp_path: Path, flip: Flip) -> None:
    plain = write_flips(tmp_path / "plain.png", [flip], "int8-cpu", 300)
    gone = LabelledImage(tmp_path / "gone.png", "")
    strange = replace(flip, keras_label="$x_$^{", variant_label="猫" * 40, image=gone)
    path = write_flips(tmp_path / "strange.png", [strange], "int8-cpu", 300)
    assert not np.array_equal(read_image(path), read_image(plain))


def test_an_answer_is_green_where_it_is_right_and_red_where_it_is_wrong(tmp_path: Path, flip: Flip) -> None:
    both = []
    for label in ("cat", "bird"):
        path = write_flips(tmp_path / f"{label}.png", [replace(flip, keras_label=label)], "int8-cpu", 300)
        # below the picture: the letters alone
        _, green, red = np.moveaxis(read_image(path)[-90:].astype(int), -1, 0)
        both.append(((green - red > 60).sum(), (red - green > 60).sum()))
    (right_green, right_red), (wrong_green, wrong_red) = both
    assert right_green > 0
    assert wrong_green == 0
    assert wrong_red > right_red > 0
