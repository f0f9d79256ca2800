import io
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.models.bundles import SPEC, change_manifest, encode, make_bundle, npz, sample_image, store

from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import ArtifactHashError, BundleError
from hybrid_edge.runtime.manifest import MANIFEST
from hybrid_edge.runtime.preprocess import contract


def flip_a_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(data)


def with_golden(folder: Path, **fields: object) -> Bundle:
    return change_manifest(folder, golden=Bundle.open(folder).manifest.golden.model_copy(update=fields))


def test_a_folder_opens_with_its_spec_and_labels(folder: Path) -> None:
    bundle = Bundle.open(folder)
    assert bundle.spec == SPEC
    assert bundle.labels == SPEC.class_labels
    assert bundle.root == folder.resolve()


def test_a_manifests_own_path_and_a_run_folder_open_too(folder: Path) -> None:
    assert Bundle.open(folder / MANIFEST).root == Bundle.open(folder.parent).root == folder.resolve()


@pytest.mark.parametrize("place", [".", "bundle", "runs/latest/bundle"])
def test_without_a_path_usual_places_are_searched(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "run" / "bundle")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "latest").symlink_to("../run")  # the last of the usual places
    if place != "runs/latest/bundle":
        make_bundle(tmp_path / place)
    monkeypatch.chdir(tmp_path)
    bundle = Bundle.open()
    assert bundle.root == (tmp_path / place).resolve()
    bundle.verified(bundle.manifest.variants[0].file)


def test_no_bundle_is_an_error_that_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=r"runs/latest/bundle.*hybrid-export.*--bundle"):
        Bundle.open()
    with pytest.raises(BundleError, match="found a folder without one"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="found nothing"):
        Bundle.open(tmp_path / "missing")


def test_an_unreachable_path_is_an_error_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="n: can't be read: File name too long"):
        Bundle.open("n" * 300)
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="found nothing"):
        Bundle.open(tmp_path / "file" / "below")
    monkeypatch.chdir(tmp_path)

    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", denied)
    for path in (tmp_path, None):
        with pytest.raises(BundleError, match="can't be read: Permission denied"):
            Bundle.open(path)


def test_a_current_folder_gone_is_an_error_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(BundleError, match="can't be read: No such file or directory"):
        Bundle.open()


def test_a_file_is_hashed_once_for_each_opened_bundle(bundle: Bundle) -> None:
    record = bundle.manifest.variants[0].file
    path = bundle.verified(record)
    assert path.read_bytes() == bundle.read(record)
    flip_a_bit(path, 100)
    assert bundle.verified(record) == path
    with pytest.raises(ArtifactHashError):
        Bundle.open(bundle.root).verified(record)


def test_one_flipped_bit_in_any_file_is_refused(folder: Path) -> None:
    files = Bundle.open(folder).manifest.files
    for number, (name, record) in enumerate(files.items()):
        before = (folder / name).read_bytes()
        flip_a_bit(folder / name, 37 * number + 5)
        bundle = Bundle.open(folder)
        for use in (bundle.verified, bundle.read):
            with pytest.raises(ArtifactHashError, match=r"expected SHA-256 .*, found .*: damaged or replaced"):
                use(record)
        (folder / name).write_bytes(before)
    assert len(files) == 1 + 1 + 8 + 1


@pytest.mark.parametrize("change", [b"", b"and more"])
def test_a_file_of_another_size_is_refused_with_both_sizes(folder: Path, change: bytes) -> None:
    bundle = Bundle.open(folder)
    record = bundle.manifest.golden.tensors
    path = folder / record.path
    path.write_bytes(path.read_bytes() + change if change else b"")
    for use in (bundle.verified, bundle.read):
        with pytest.raises(ArtifactHashError, match=rf"expected {record.size} bytes, found"):
            use(record)


@pytest.mark.parametrize("name", ["artifacts", "golden", MANIFEST])
def test_a_link_is_refused_even_with_the_right_bytes(name: str, folder: Path, tmp_path: Path, bundle: Bundle) -> None:
    records = bundle.manifest.files.values()
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="found a link"):
        list(map(Bundle.open(folder).verified, records))


def test_a_link_to_itself_a_missing_file_and_a_folder_as_a_file_are_refused(folder: Path, bundle: Bundle) -> None:
    path = folder / bundle.manifest.golden.tensors.path
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(BundleError, match=r"missing or unreadable|found a link"):
        bundle.golden_tensors()
    path.unlink()
    with pytest.raises(BundleError, match=rf"{path.name}: missing or unreadable"):
        bundle.golden_tensors()
    path.mkdir()
    with pytest.raises(BundleError, match="found a link or a folder"):
        bundle.golden_tensors()


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({**contract(SPEC), "scaling": "x / 255"}, r"expected 'x / 127\.5 - 1', found 'x / 255'.*hybrid-edge 0\.1\.0"),
        ({}, "found None"),
        ({**contract(SPEC), "gamma": 2.2}, "gamma: expected None, found 2.2"),
    ],
)
def test_a_bundle_made_for_another_preprocessing_is_refused_with_both_sides(
    theirs: dict[str, object], message: str, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "other", changes={"preprocessing": theirs})
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "other")


def test_the_golden_examples_come_back_as_they_were_stored(bundle: Bundle) -> None:
    frames = list(bundle.golden_images())
    np.testing.assert_array_equal(frames[3], sample_image(3, 23, 28))
    assert [tensor.shape for tensor in bundle.golden_tensors().values()] == [(8, 12, 12, 3), (8, 6, 24)]
    outputs = bundle.golden_outputs(bundle.manifest.variants[0])
    assert outputs.logits.shape == (8, 5)
    np.testing.assert_allclose(outputs.probabilities.sum(axis=1), 1, atol=1e-6)


def test_golden_tensors_of_another_shape_dtype_or_name_or_pickled_are_refused(folder: Path, bundle: Bundle) -> None:
    good = bundle.golden_tensors()
    bad = [
        {**good, "image": good["image"][:, :, :, :2]},
        {**good, "image": good["image"].astype(np.float64)},
        {**good, "image": np.full_like(good["image"], np.nan)},
        {"image": good["image"]},
        {"image": np.array([{"a": 1}], dtype=object)},  # pickled
    ]
    for arrays in bad:
        with pytest.raises(BundleError, match="expected float32 arrays"):
            with_golden(folder, tensors=store(folder, "golden", "npz", npz(arrays))).golden_tensors()


def test_golden_tensors_that_unpack_to_far_more_are_refused_before_unpacking(folder: Path, bundle: Bundle) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=np.zeros((10_000, 12, 12, 3), np.float32))
    opened = with_golden(folder, tensors=store(folder, "golden", "npz", buffer.getvalue()))
    tracemalloc.start()
    with pytest.raises(BundleError, match=r"image with the header .*10000, 12, 12, 3"):
        opened.golden_tensors()
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_golden_files_that_are_no_png_or_npz_are_refused(folder: Path, bundle: Bundle) -> None:
    damaged = store(folder, "golden", "png", encode(sample_image(1))[:40])
    first = bundle.manifest.golden.images[0].model_copy(update={"file": damaged})
    opened = with_golden(folder, images=(first,), tensors=store(folder, "golden", "npz", b"PK\3\4 no zip"))
    with pytest.raises(BundleError, match="can't be decoded"):
        list(opened.golden_images())
    with pytest.raises(BundleError, match="expected float32 arrays"):
        opened.golden_tensors()
