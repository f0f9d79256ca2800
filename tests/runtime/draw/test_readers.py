import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.data.drawings import Drawing
from support.models import bundles
from support.models.bundles import make_bundle

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.digits import drawn_frame
from hybrid_edge.runtime.draw.paper import save_drawing
from hybrid_edge.runtime.draw.readers import newest_bundles, open_readers, read_drawing
from hybrid_edge.runtime.draw.session import DrawRequest
from hybrid_edge.runtime.errors import BundleError, UsageError


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def make_run(folder: Path, name: str, branches: str, age: int, backbone: str = "digits") -> Path:
    size = 12 if backbone == "digits" else 72
    spec = bundles.SPEC.replace(branches=branches, backbone=backbone, image_size=size)
    bundle = make_bundle(folder / "runs" / name / "bundle", spec)
    os.utime(bundle / "manifest.json", (1_000_000 - age, 1_000_000 - age))
    return bundle


def test_the_newest_digits_run_of_each_kind_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, "old", "cnn", age=9)
    make_run(tmp_path, "both", "hybrid", age=5)
    make_run(tmp_path, "a new one", "cnn", age=1)
    make_run(tmp_path, "photographs", "rnn", age=0, backbone="xception")
    (tmp_path / "runs" / "unfinished").mkdir()
    assert [path.parent.name for path in newest_bundles()] == ["a new one", "both"]


def test_a_bundle_in_this_folder_comes_before_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path, "one", "cnn", age=0)
    make_bundle(tmp_path / "bundle")
    assert newest_bundles() == [Path("bundle")]
    monkeypatch.chdir(tmp_path / "bundle")
    assert newest_bundles() == [Path()]


def test_without_any_the_error_says_where_was_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "odd" / "bundle").mkdir(parents=True)
    (tmp_path / "runs" / "odd" / "bundle" / "manifest.json").write_text("[]")
    with pytest.raises(BundleError, match=r"looked for manifest.json.*runs/\*/bundle.*hybrid-draw BUNDLE"):
        newest_bundles()


@pytest.mark.parametrize(
    ("kinds", "names"), [(("cnn", "hybrid"), ["cnn", "hybrid"]), (("cnn", "cnn"), ["run0", "run1"])]
)
def test_models_are_named_by_what_tells_them_apart(
    kinds: tuple[str, str], names: list[str], tmp_path: Path, opened: ExitStack
) -> None:
    paths = [make_run(tmp_path, f"run{number}", kind, age=0) for number, kind in enumerate(kinds)]
    models = open_readers(DrawRequest(threads=1, check=False), paths, opened)
    assert [model.name for model in models] == names
    assert {model.variant for model in models} == {"fp32-cpu"}


def test_more_bundles_than_the_window_can_show_are_refused_with_how_many_it_can(folder: Path) -> None:
    assert len(DrawRequest((folder,) * 8).bundles) == 8
    with pytest.raises(UsageError, match="at most 8 bundles, found 9"):
        DrawRequest((folder,) * 9)


def test_the_same_folder_twice_is_told_apart_by_number(folder: Path, opened: ExitStack) -> None:
    models = open_readers(DrawRequest(threads=1, check=False), [folder, folder], opened)
    assert [model.name[:2] for model in models] == ["1:", "2:"]


def test_the_answer_is_the_most_probable_label_also_under_one_half(
    reader: Path, drawings: list[Drawing], opened: ExitStack
) -> None:
    frame = drawn_frame(drawings[0].ink(170))
    faint = (frame * 0.05).astype(np.uint8)  # nearly nothing to see: no class gets half of the probability
    prediction = read_drawing(open_readers(DrawRequest(threads=1), [reader], opened), faint)[0].prediction
    assert prediction.probability < 0.5
    assert prediction.label == "0"


def test_a_saved_drawing_is_read_by_the_classifier_as_in_the_window(
    reader: Path, drawings: list[Drawing], tmp_path: Path, opened: ExitStack
) -> None:
    ink = drawings[29].ink(170, (0, 1))
    said = save_drawing(ink, tmp_path / "new folder")
    whole, seen = sorted((tmp_path / "new folder").iterdir(), key=lambda path: len(path.name))
    assert said == f"saved {whole.name}"
    assert np.array_equal(cv2.imread(str(whole), cv2.IMREAD_UNCHANGED), ink)
    shown = read_drawing(open_readers(DrawRequest(threads=1), [reader], opened), drawn_frame(ink))[0].prediction
    with Classifier.load(reader, threads=1) as classifier:
        again = classifier.predict([seen])[0]
    assert np.array_equal(again.probabilities, shown.probabilities)
    assert again.label == "7"


def test_two_drawings_of_a_second_are_both_kept_and_a_full_stop_is_said(tmp_path: Path) -> None:
    ink = np.zeros((400, 400), np.uint8)
    ink[100:300, 200] = 255
    save_drawing(ink, tmp_path)
    save_drawing(ink, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / "file").write_text("")
    assert save_drawing(ink, tmp_path / "file").startswith("not saved")
