import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.models.bundles import change_manifest, files_of
from support.models.standin import crops

from hybrid_edge.export import exporter
from hybrid_edge.export.bundle.bundle_writer import BundleWriter
from hybrid_edge.export.bundle.golden_examples import add_arrays, make_golden
from hybrid_edge.export.bundle.publish import publish
from hybrid_edge.export.export_request import ExportSettings, make_request
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.classifier import Classifier
from hybrid_edge.runtime.errors import BundleError, ParityError
from hybrid_edge.runtime.manifest import MANIFEST, Manifest
from hybrid_edge.runtime.preprocess import Preprocessor, decode_image, read_image
from hybrid_edge.train.data import LabelledImage


def with_foreign_variant(bundle: Path) -> Manifest:
    """Put a second variant into a bundle, as a later export of the same model would."""
    with BundleWriter(bundle) as writer:
        manifest = Bundle.open(bundle).manifest
        graph = (bundle / manifest.variants[0].file.path).read_bytes()
        file = writer.add("artifacts", "onnx", graph + b"\x1a\x01x")  # the same, by another version of its producer
        variant = manifest.variants[0].model_copy(update={"name": "fp16-cuda", "precision": "fp16", "file": file})
        manifest = manifest.model_copy(update={"variants": (*manifest.variants, variant)})
        writer.commit(manifest)
    return manifest


@pytest.fixture
def bundle(exported_digits: Any, tmp_path: Path) -> Path:
    """A copy of the digits stand-in's bundle."""
    return shutil.copytree(exported_digits.bundle, tmp_path / "bundle")


def test_a_bundle_has_eight_examples_of_four_classes_that_pass_their_own_check(bundle: Path) -> None:
    golden = Bundle.open(bundle).manifest.golden
    assert len(golden.images) == 8
    assert len({image.label for image in golden.images}) == 4
    with Classifier.load(bundle, backend="cpu") as classifier:
        assert classifier.golden.probability_error <= 1e-6


def test_fp32_is_one_file_for_every_target(bundle: Path) -> None:
    variants = [item for item in Bundle.open(bundle).manifest.variants if item.recurrent == "lstm"]
    assert {variant.target for variant in variants} == {"cpu", "cuda", "tensorrt"}
    assert len({variant.file.path for variant in variants}) == 1
    assert {variant.golden_tolerance for variant in variants} == {1e-4}  # ten times the digits' parity limit
    assert variants[0].operators["LSTM"] == 1
    assert variants[0].made_by.keys() == {"hybrid-edge", "tensorflow", "keras", "tf2onnx", "onnx"}


def test_golden_examples_are_lossless_and_their_tensors_are_preprocessings_own(exported_digits: Any) -> None:
    bundle = Bundle.open(exported_digits.bundle)
    tensors = Preprocessor(bundle.spec)(list(bundle.golden_images()))
    for name, expected in bundle.golden_tensors().items():
        np.testing.assert_array_equal(tensors[name], expected)


def test_a_large_photograph_is_brought_to_1024_pixels_a_small_one_stays(exported_digits: Any, tmp_path: Path) -> None:
    large, small = tmp_path / "large.jpg", tmp_path / "small.png"
    cv2.imwrite(str(large), cv2.resize(crops(1, 3)[0], (3000, 1500)))
    cv2.imwrite(str(small), crops(1, 4)[0])
    with BundleWriter(tmp_path / "bundle") as writer:
        golden = make_golden(writer, [LabelledImage(large, "a"), LabelledImage(small, "b")], exported_digits.spec)
        frames = [decode_image((writer.path / item.file.path).read_bytes()) for item in golden.record.images]
    assert frames[0].shape == (512, 1024, 3)
    np.testing.assert_array_equal(frames[1], read_image(small))


def test_the_same_arrays_give_the_same_file(tmp_path: Path) -> None:
    arrays = {"image": np.arange(6, dtype=np.float32)}
    with BundleWriter(tmp_path / "bundle") as writer:
        assert add_arrays(writer, arrays) == add_arrays(writer, dict(arrays))


def test_another_precision_of_the_same_model_stays_with_the_examples_it_was_run_on(
    exported_digits: Any, bundle: Path, tmp_path: Path
) -> None:
    before = with_foreign_variant(bundle)
    others = tmp_path / "others"
    others.mkdir()
    for number, frame in enumerate(crops(8, 321)):
        cv2.imwrite(str(others / f"{number}.png"), frame)
    result = exporter.export(make_request(exported_digits.file, images=others, out=bundle))
    assert [variant.name for variant in result.manifest.variants] == [*result.written, "fp16-cuda"]
    assert result.manifest.golden == before.golden
    assert files_of(bundle) == {MANIFEST, *result.manifest.files}
    with Classifier.load(bundle, backend="cpu", precision="fp32") as classifier:
        assert classifier.golden is not None


def damage_file(bundle: Path, manifest: Manifest) -> None:
    (bundle / manifest.variants[-1].file.path).write_bytes(b"an FP16 grapH")


def change_weights(bundle: Path, manifest: Manifest) -> None:
    change_manifest(bundle, weights_sha256="0" * 64)


def change_labels(bundle: Path, manifest: Manifest) -> None:
    change_manifest(bundle, spec=manifest.spec.replace(class_labels=tuple("jihgfedcba")))


@pytest.mark.parametrize("change", [damage_file, change_weights, change_labels])
def test_a_variant_of_another_model_or_whose_file_is_damaged_does_not_stay(
    exported_digits: Any, bundle: Path, photos: Path, change: Callable[[Path, Manifest], None]
) -> None:
    change(bundle, with_foreign_variant(bundle))
    result = exporter.export(make_request(exported_digits.file, images=photos, out=bundle))
    assert [variant.name for variant in result.manifest.variants] == list(result.written)
    assert files_of(bundle) == {MANIFEST, *result.manifest.files}


def test_an_export_that_fails_parity_leaves_the_old_bundle_untouched(
    exported_digits: Any, bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (bundle / name).read_bytes() for name in files_of(bundle)}
    monkeypatch.setattr("hybrid_edge.export.convert.recurrent.KERAS_TO_ONNX", {"LSTM": (0, 1, 2, 3)})
    settings = ExportSettings(recurrent="lstm")
    result = exporter.export(make_request(exported_digits.file, images=photos, out=bundle, settings=settings))
    assert result.written == ()
    with pytest.raises(ParityError, match="3 of 3 variants refused"):
        result.require_passed()
    assert all("gate order" in entry.refused for entry in result.entries)
    assert {name: (bundle / name).read_bytes() for name in files_of(bundle)} == before


def tar_of(bundle: Path) -> Path:
    published = publish(bundle, tar=True)
    assert published.tar is not None
    return published.tar


def test_the_same_bundle_packs_to_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    first = tar_of(bundle).read_bytes()
    elsewhere = shutil.copytree(bundle, tmp_path / "elsewhere" / "bundle")
    (elsewhere / "notes.txt").write_text("not part of the bundle")
    assert tar_of(elsewhere).read_bytes() == first
    assert tar_of(bundle) == tmp_path / "bundle.tar"


def test_a_packed_bundle_has_sorted_members_without_owner_or_time_and_runs(bundle: Path, photos: Path) -> None:
    packed = tar_of(bundle)
    with tarfile.open(packed) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(files_of(bundle))
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}
    with Classifier.load(packed, backend="cpu") as classifier:
        assert len(list(classifier.predict([next(photos.rglob("*.png"))]))) == 1


def test_a_damaged_bundle_is_not_packed(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    artifact = bundle / manifest["variants"][0]["file"]["path"]
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="SHA-256"):
        publish(bundle, tar=True)
    assert not bundle.with_name("bundle.tar").exists()
