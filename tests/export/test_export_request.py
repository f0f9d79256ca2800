import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from hybrid_edge.calib import choose_images as choose_calibration
from hybrid_edge.export.export_request import (
    ExportSettings,
    choose_images,
    choose_precisions,
    folder_images,
    make_request,
    run_images,
)
from hybrid_edge.runtime.errors import DataError, RunError, UsageError
from hybrid_edge.runtime.storage import write_json
from hybrid_edge.train.data import LabelledImage, write_list
from hybrid_edge.train.run_folder import RunFolder


def listed(folder: Path) -> list[LabelledImage]:
    return [LabelledImage(path, path.parent.name) for path in sorted(folder.rglob("*.png"))]


def make_run(folder: Path, photos: Path) -> RunFolder:
    run = RunFolder.create(folder / "runs", "first", "hybrid")
    run.model.write_bytes(b"a model")
    write_list(run.images("validation"), listed(photos))
    write_json(run.metrics, {"top1": 0.5, "seconds": 3, "classes": [], "monitor": "loss"})
    return run


def test_images_are_taken_from_the_classes_in_turn(photos: Path) -> None:
    chosen = choose_images(listed(photos), 8).images
    assert len({image.label for image in chosen[:4]}) == 4
    assert sorted(image.label for image in chosen) == sorted(["class_00", "class_01", "class_02", "class_03"] * 2)


def test_the_choice_is_the_same_each_time(photos: Path) -> None:
    assert choose_images(listed(photos), 9) == choose_images(listed(photos), 9)


def test_an_unreadable_image_is_passed_over_and_named(photos: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    candidates = [LabelledImage(broken, "class_00"), LabelledImage(tmp_path / "gone.png", "class_01"), *listed(photos)]
    chosen = choose_images(candidates, 16)
    assert len(chosen.images) == 16
    assert {reason.split(":")[0] for reason in chosen.skipped} == {str(broken), str(tmp_path / "gone.png")}


def test_of_many_images_only_the_golden_ones_are_read_up_front(photos: Path, tmp_path: Path) -> None:
    absent = [LabelledImage(tmp_path / f"{number}.png", "class_00") for number in range(5000)]
    chosen = choose_images([*listed(photos), *absent])
    assert len(chosen.images) == 5016
    assert chosen.skipped == ()
    assert all(image.path.exists() for image in chosen.images[:8])
    assert len({image.label for image in chosen.images[:8]}) == 4


def test_fewer_than_eight_readable_images_are_refused_with_the_way_out(tmp_path: Path, photos: Path) -> None:
    candidates = [*listed(photos)[:7], LabelledImage(tmp_path / "gone.png", "class_00")]
    with pytest.raises(DataError, match=r"at least 8 readable images.*found 7 of 8.*gone\.png.*--images DIR"):
        choose_images(candidates)


def test_a_folder_may_hold_images_as_they_lie(photos: Path, tmp_path: Path) -> None:
    for image in listed(photos):
        shutil.copy(image.path, tmp_path)
    assert [image.label for image in folder_images(tmp_path)] == [""] * 16


def test_a_folder_may_hold_classes_or_a_data_set_of_which_validation_counts(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "train")
    assert {image.path.parents[1] for image in folder_images(tmp_path)} == {tmp_path / "train"}
    shutil.copytree(photos, tmp_path / "val")
    assert {image.path.parents[1] for image in folder_images(tmp_path)} == {tmp_path / "val"}
    assert folder_images(photos) == listed(photos)


def test_an_image_beside_class_folders_is_left_out_as_in_training(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(photos, tmp_path / "copy")
    images = listed(copy)
    shutil.copy(images[0].path, copy)
    (copy / "notes.txt").touch()
    assert folder_images(copy) == images
    assert "left out: 1 .txt, 1 images beside the class folders" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--images"):
        folder_images(tmp_path / "none")


def test_a_run_that_validated_on_very_few_images_lends_its_training_images(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, photos)
    write_list(run.images("validation"), listed(photos)[:3])
    assert run_images(run) == listed(photos)[:3]
    write_list(run.images("train"), listed(photos)[3:])
    found = run_images(run)
    assert found[:3] == listed(photos)[:3]
    assert sorted(found, key=lambda image: image.path) == listed(photos)
    write_list(run.images("train"), listed(photos) * 100)
    assert len(run_images(run)) == 32


@pytest.mark.parametrize(("validate", "checked", "calibrated"), [(2, 8, 8), (8, 8, 8), (4, 8, 8), (10, 10, 6)])
def test_a_small_set_is_calibrated_on_what_does_not_check_it(
    photos: Path, tmp_path: Path, validate: int, checked: int, calibrated: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, photos)
    images = listed(photos)[::2] + listed(photos)[1::2]
    write_list(run.images("validation"), images[:validate])
    for kind in ("train", "calibration"):
        write_list(run.images(kind), images[validate:])
    request = make_request(run.path, settings=ExportSettings(("int8",)))
    chosen = choose_calibration(request.calibration, validation=[image.path for image in request.images.images])
    assert (len(request.images.images), len(chosen.paths)) == (checked, calibrated)
    lent = f"validated on {validate} images, so {8 - validate} that it was trained on check the export too"
    assert (lent in " ".join(capsys.readouterr().err.split())) == (validate < 8)


def test_the_newest_run_is_exported_by_default(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, photos)
    request = make_request(runs=tmp_path / "runs")
    assert (request.model, request.out, request.run) == (run.model.resolve(), run.bundle.resolve(), "first")
    assert request.metrics == {"top1": 0.5, "seconds": 3.0}
    assert len(request.images.images) == 16


def test_a_run_may_be_checked_on_other_images_and_written_elsewhere(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, photos)
    run.images("validation").unlink()
    request = make_request(run.path, images=photos, out=tmp_path / "elsewhere", gate_images=8)
    assert request.out == tmp_path / "elsewhere"
    assert len(request.images.images) == 8


def our_file(path: Path) -> Path:
    """A file that is told to be of hybrid-train by its name alone."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hybrid_edge.json", "{}")
    return path


def test_a_model_file_goes_to_a_bundle_beside_it(photos: Path, tmp_path: Path) -> None:
    file = our_file(tmp_path / "model.keras")
    assert make_request(file, images=photos).out == tmp_path / "bundle"


def test_wrong_arguments_are_answered_before_tensorflow_starts(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    with pytest.raises(UsageError, match="found nothing at"):
        make_request(file, images=photos)
    our_file(file)
    with pytest.raises(UsageError, match="--images DIR"):
        make_request(file)
    for count in (7, 0):
        with pytest.raises(UsageError, match=f"--gate-images: expected at least 8, found {count}"):
            make_request(file, images=photos, gate_images=count)
    with pytest.raises(RunError, match="found none"):
        make_request(runs=tmp_path / "runs")


def test_a_run_that_never_finished_is_refused(photos: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, photos)
    run.model.unlink()
    with pytest.raises(RunError, match=r"trained model\.keras.*--resume"):
        make_request(run.path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recurrent": "gru"}, "--recurrent: expected lstm, unrolled, auto, found 'gru'"),
        ({"method": "mse"}, "--method: expected minmax, entropy, percentile, found 'mse'"),
        ({"max_drop": -0.1}, "--max-drop: expected points of accuracy from 0 to 100, found -10"),
        ({"max_drop": 1.5}, "found 150"),
        ({"max_drop": float("nan")}, "found nan"),
    ],
)
def test_a_value_that_is_none_of_those_expected_is_wrong_usage(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ExportSettings(**values)


def test_the_defaults_are_the_documented_ones() -> None:
    found = ExportSettings()
    assert (found.precisions, found.recurrent, found.max_drop) == (("fp32",), "auto", 0.005)
    assert not found.give_back


def test_fp32_and_weights_of_8_bits_need_no_calibration() -> None:
    assert not ExportSettings(precisions=("fp32", "w8")).needs_calibration
    for precisions in (("fp16",), ("int8",), ("fp32", "int8"), ("w8", "fp16")):
        assert ExportSettings(precisions=precisions).needs_calibration


def test_precisions_come_widest_first_and_fp32_where_none_was_asked_for() -> None:
    assert choose_precisions([]) == ("fp32",)
    assert choose_precisions(["fp16"]) == ("fp16",)
    assert choose_precisions(["int8", "fp16", "w8", "fp32"]) == ("fp32", "w8", "fp16", "int8")
