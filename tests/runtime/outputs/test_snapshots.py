from pathlib import Path

import numpy as np
import pytest
from support.live.results import LABELS, make_prediction, make_result

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.outputs.snapshots import Condition, Snapshots, parse_condition

CAT = (0.9, 0.1, 0, 0, 0)
DOG = (0.1, 0.9, 0, 0, 0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat>0.8", Condition("cat", ">", 0.8)),
        (" cat >= 1 ", Condition("cat", ">=", 1.0)),
        ("dog<0.25", Condition("dog", "<", 0.25)),
        ("dog<=0", Condition("dog", "<=", 0.0)),
        ("Größe>.5", Condition("Größe", ">", 0.5)),
        ("a > b>0.5", Condition("a > b", ">", 0.5)),
        ("x>=>=5e-1", Condition("x>=", ">=", 0.5)),
    ],
)
def test_a_condition_is_a_label_a_comparison_and_a_probability(text: str, expected: Condition) -> None:
    assert parse_condition(text, (*LABELS, "a > b", "x>=")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat", "expected LABEL>0.8 .* found no comparison"),
        ("", "found no comparison"),
        (">0.8", "found no comparison"),
        ("cat=0.8", "found no comparison"),
        ("cat>", "from 0 to 1 after >, found nothing"),
        ("cat>high", "from 0 to 1 after >, found high"),
        ("cat>80%", "found 80%"),
        ("cat>80", "found 80"),
        ("cat>-0.1", r"found -0\.1"),
        ("cat>nan", "found nan"),
        ("cat>inf", "found inf"),
        ("cat>1", "expected a condition that can hold"),
        ("cat<0", "expected a condition that can hold"),
        ("cta>0.8", "one of the model's 5 labels, found 'cta'; near it: cat"),
        ("zzzzzz>0.8", "found 'zzzzzz'; some of them: cat, dog"),
        ("Cat>0.8", "near it: cat"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_what_was_found(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_condition(text, LABELS)


@pytest.mark.parametrize(("comparison", "holds"), [(">", False), (">=", True), ("<", False), ("<=", True)])
def test_limits_count_as_written_and_the_label_need_not_be_the_first(comparison: str, holds: bool) -> None:
    assert Condition("dog", comparison, 0.25).holds(make_prediction((0.75, 0.25, 0, 0, 0))) is holds


def test_frames_on_which_it_holds_are_kept_as_they_were_captured(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (320, 240))
    snapshots = Snapshots(tmp_path / "new" / "kept", parse_condition("cat>0.8", LABELS))
    snapshots.write(make_result(index=1, probabilities=DOG))
    snapshots.write(make_result(index=2, error="the decoder gave up"))
    snapshots.write(make_result("rtsp://camera/stream", 12, image=np.asarray(image), probabilities=CAT, captured=10.5))
    snapshots.close()
    assert names(tmp_path / "new" / "kept") == ["20270115T080010.750Z_camera-stream_000012_cat_0.900.jpg"]
    kept = cv2.imread(str(next((tmp_path / "new" / "kept").iterdir())))
    assert np.abs(kept.astype(int) - image).mean() < 3  # nothing is drawn into it


def test_a_condition_that_holds_all_day_gives_one_snapshot_in_thirty_frames_of_each_source(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, parse_condition("cat>0.8", LABELS))
    for index in range(1, 100, 2):  # every second frame was dropped
        for source in ("cam0", "cam1"):
            snapshots.write(make_result(source, index, probabilities=CAT, captured=0))
    kept = [f"{source}_{index:06d}_cat_0.900.jpg" for source in ("cam0", "cam1") for index in (1, 31, 61, 91)]
    assert names(tmp_path) == kept
    snapshots.write(make_result("cam0", 0, probabilities=CAT))  # numbers start anew
    assert len(names(tmp_path)) == 9


def test_every_image_on_which_it_holds_is_kept_also_under_one_name(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, parse_condition("cat>0.8", LABELS))
    for source in ("a/1.png", "b/1.png", "b/2.png"):
        snapshots.write(make_result(source, probabilities=CAT, video=False, captured=0))
    assert names(tmp_path) == ["1_cat_0.900-2.jpg", "1_cat_0.900.jpg", "2_cat_0.900.jpg"]


def test_names_hold_no_character_that_a_file_must_not_have(tmp_path: Path) -> None:
    label = "cats/dogs: *?\n" + "猫" * 300
    snapshots = Snapshots(tmp_path, Condition(label, ">", 0.5))
    result = make_result("http://10.0.0.7:8080/?action=stream&x=..", 3, captured=0)
    prediction = make_prediction(CAT)
    object.__setattr__(prediction, "labels", (label, *LABELS[1:]))
    object.__setattr__(result, "prediction", prediction)
    snapshots.write(result)
    (name,) = names(tmp_path)
    assert name.startswith("10.0.0.7-8080-action-stream-x_000003_cats-dogs-猫猫猫")
    assert len(name.encode()) < 200


def test_a_picture_too_long_for_a_jpeg_is_kept_all_the_same(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, Condition("cat", ">", 0.5))
    snapshots.write(make_result("panorama.tif", size=(70_000, 4), video=False))
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".png"
    kept = cv2.imread(str(path))
    assert kept.shape == (4, 70_000, 3)


def test_a_folder_that_can_not_be_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="expected a folder"):
            Snapshots(place, Condition("cat", ">", 0.5))
