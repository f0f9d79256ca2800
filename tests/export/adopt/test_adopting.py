import re
from pathlib import Path
from typing import Any

import pytest
from support.models.adopted import KINDS, LABELS, train, write_digits

from hybrid_edge.export.adopt.adopting import Adopted, adopt
from hybrid_edge.export.adopt.adoption import Statement
from hybrid_edge.export.adopt.model_files import inspect_file
from hybrid_edge.export.export_request import choose_images, folder_images
from hybrid_edge.export.step_log import StepLog
from hybrid_edge.runtime.errors import DataError, UsageError

TRUE = {"sequential": ("unit", "rgb"), "bgr": ("caffe", "bgr"), "rescaling, logits": ("raw", "rgb")}
TRUE |= {"gray": ("unit", "gray")}


class Said(StepLog):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, message: str, _: str = "", /, **__: str) -> None:
        self.lines.append(message)

    @property
    def warnings(self) -> str:
        return "\n".join(line for line in self.lines if line.startswith("warning"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "images", 1400, 1600)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in TRUE:
        train(kind).save(folder / f"{kind}.keras")
    return folder


def adopted(files: Path, kind: str, images: Path, log: Said, **stated: Any) -> Adopted:
    candidates = folder_images(images)
    adoption = Statement(**stated).of(inspect_file(files / f"{kind}.keras"), {image.label for image in candidates})
    return adopt(adoption, choose_images(candidates).images, log)


def labels_file(folder: Path, labels: tuple[str, ...]) -> Path:
    path = folder / "labels.txt"
    path.write_text("\n".join(labels) + "\n")
    return path


@pytest.mark.parametrize("kind", TRUE)
def test_the_preprocessing_that_a_model_was_trained_with_is_found_on_labelled_images(
    kind: str, files: Path, images: Path
) -> None:
    found = adopted(files, kind, images, log := Said())
    assert (found.spec.scaling, found.spec.channels) == TRUE[kind]
    assert found.spec.class_labels == LABELS
    assert not log.warnings
    taken = next(line for line in log.lines if "<- taken" in line)
    assert " ".join(TRUE[kind]) in re.sub(" +", " ", taken)


@pytest.mark.parametrize(
    ("kind", "stated"),
    [("sequential", {"scaling": "raw", "channels": "bgr"}), ("bgr", {"scaling": "unit"}), ("bgr", {"channels": "rgb"})],
)
def test_a_stated_preprocessing_that_is_far_worse_than_another_is_warned_of(
    kind: str, stated: dict[str, str], files: Path, images: Path
) -> None:
    found = adopted(files, kind, images, log := Said(), **stated)
    assert {name: getattr(found.spec, name) for name in stated} == stated
    scaling, channels = TRUE[kind]
    assert f"was the model trained with --scaling {scaling} --channels {channels}?" in log.warnings


def test_a_scaling_stated_on_top_of_the_models_own_is_warned_of(files: Path, images: Path) -> None:
    adopted(files, "rescaling, logits", images, log := Said(), scaling="xception")
    assert "the model scales pixels itself (its layer rescaling" in log.warnings


def test_without_labels_of_images_the_scaling_must_be_stated(files: Path, images: Path, tmp_path: Path) -> None:
    for number, image in enumerate(sorted(images.rglob("*.png"))[:10]):
        (tmp_path / f"{number}.png").write_bytes(image.read_bytes())
    labels = labels_file(tmp_path, LABELS)
    with pytest.raises(UsageError, match=r"state --scaling xception\|unit\|torch\|caffe\|raw"):
        adopted(files, "sequential", tmp_path, Said(), labels=labels)
    found = adopted(files, "bgr", tmp_path, log := Said(), labels=labels, scaling="caffe")
    assert found.spec.channels == "bgr"
    assert "preprocessing caffe bgr is untried" in log.warnings


def test_labels_in_another_order_than_the_scores_are_told(files: Path, images: Path, tmp_path: Path) -> None:
    other = (*LABELS[1:], LABELS[0])
    with pytest.raises(DataError, match=r"another order than the model's scores: .*images of 'digit \d' are called"):
        adopted(files, "sequential", images, Said(), labels=labels_file(tmp_path, other))


@pytest.mark.parametrize("count", [9, 11])
def test_another_number_of_labels_than_of_scores_is_told(count: int, files: Path, images: Path, tmp_path: Path) -> None:
    labels = (*LABELS, "digit 10")[:count]
    shown = [path for label in labels for path in (images / label).glob("*.png")]
    for path in shown:
        target = tmp_path / "images" / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        (target / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=f"expected 10 labels, as the model has so many scores, found {count}"):
        adopted(files, "sequential", tmp_path / "images", Said(), labels=labels_file(tmp_path, labels))


def test_images_of_other_classes_are_told(files: Path, images: Path, tmp_path: Path) -> None:
    numbers = [7, 2, 9, 4, 1, 0, 3, 8, 5, 6]
    for path in sorted(images.rglob("*.png")):
        label = LABELS[(numbers.index(int(path.parent.name[-1])) + int(path.stem)) % 10]  # each digit under every label
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / path.name).write_bytes(path.read_bytes())
    adopted(files, "sequential", tmp_path, log := Said())
    assert "no preprocessing makes more of these images than guessing would" in log.warnings


def test_the_bundles_name_changes_with_what_the_model_computes_and_not_with_its_file(
    files: Path, images: Path, tmp_path: Path
) -> None:
    first = adopted(files, "sequential", images, Said()).weights
    model = train("sequential")
    model.save(tmp_path / "sequential.keras")
    assert adopted(tmp_path, "sequential", images, Said()).weights == first
    model.layers[0].activation = KINDS["sequential"][0]().layers[-1].activation  # a softmax in place of a ReLU
    model.save(tmp_path / "sequential.keras")
    train.cache_clear()
    assert adopted(tmp_path, "sequential", images, Said(), scaling="unit").weights != first
