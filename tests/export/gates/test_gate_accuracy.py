"""The gate on a variant that mistakes images: flips, agreement, accuracy, and on how many images they are judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.models.gated import judged, labelled

from hybrid_edge.export.gates import gate
from hybrid_edge.export.gates.gate import run_gate
from hybrid_edge.export.gates.reference import Reference
from hybrid_edge.export.gates.verdict import GateLimits, require_passed
from hybrid_edge.runtime.backends.onnxruntime import OnnxRuntimeCpu
from hybrid_edge.runtime.errors import ParityError

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
    assert parity.accuracy is not None
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
    assert parity.warnings == ("accuracy is judged on the 5 of 11 images whose label the model knows",)


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
        assert seen == [8, 1]
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
