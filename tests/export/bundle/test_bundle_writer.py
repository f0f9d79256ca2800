import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.models.bundles import SPEC, files_of, make_bundle, make_variant, npz

from hybrid_edge.export.bundle.bundle_writer import BundleWriter, bundle_lock
from hybrid_edge.runtime.bundle import Bundle
from hybrid_edge.runtime.errors import BundleError
from hybrid_edge.runtime.manifest import MANIFEST, GoldenImage, GoldenRecord, Manifest, Provenance
from hybrid_edge.runtime.preprocess import contract

SCRIPT = Path(__file__).with_name("bundle_process.py")


def write(path: Path, version: int, size: int = 5000) -> Manifest:
    """One export of a small made-up bundle; every file of it says which version it is."""
    with BundleWriter(path) as writer:
        graph = writer.add("artifacts", "onnx", bytes([version]) * size)
        outputs = writer.add("golden", "npz", npz({}) + bytes([version]))
        image = writer.add("golden", "png", b"png" + bytes([version]))
        manifest = Manifest(
            spec=SPEC,
            preprocessing=contract(SPEC),
            weights_sha256=f"{version:064x}",
            variants=(make_variant("fp32", "cpu", graph, outputs),),
            golden=GoldenRecord(images=(GoldenImage(file=image, label="cat"),), tensors=outputs),
            provenance=Provenance(created="now", hybrid_edge="0"),
        )
        writer.commit(manifest)
    return manifest


def stop_halfway(path: Path) -> None:
    """An export that fails behind its first file."""
    with BundleWriter(path) as writer:
        writer.add("artifacts", "onnx", b"new")
        raise RuntimeError("stopped")


def check_whole(path: Path) -> int:
    """The version of a bundle whose every file is there and belongs to it."""
    bundle = Bundle.open(path)
    version = int(bundle.manifest.weights_sha256, 16)
    for record in bundle.manifest.files.values():
        assert bundle.read(record)[-1] == version
    return version


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The first version."""
    write(tmp_path / "bundle", 1)
    return tmp_path / "bundle"


@pytest.mark.parametrize("versions", [(1,), (1, 2)])
def test_a_bundle_holds_what_its_newest_manifest_names_and_no_more(versions: tuple[int, ...], tmp_path: Path) -> None:
    manifest = [write(tmp_path / "bundle", version) for version in versions][-1]
    assert check_whole(tmp_path / "bundle") == versions[-1]
    assert files_of(tmp_path / "bundle") == {MANIFEST, *manifest.files}
    assert {path.name for path in tmp_path.iterdir()} == {"bundle", ".bundle.lock"}


def test_leaving_without_a_commit_leaves_the_bundle_as_it_was(bundle: Path) -> None:
    before = files_of(bundle)
    with pytest.raises(RuntimeError, match="stopped"):
        stop_halfway(bundle)
    assert check_whole(bundle) == 1
    assert files_of(bundle) == before


def test_a_first_export_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        stop_halfway(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_what_a_killed_export_left_is_swept_at_the_next_start_and_a_users_own_files_stay(bundle: Path) -> None:
    owned = {"notes.txt", "artifacts/model.onnx"}
    for name in owned:
        (bundle / name).write_text("mine")
    before = files_of(bundle)
    for left in (f"artifacts/{'a' * 64}.onnx", f"golden/.{'b' * 64}.png-x1.tmp", ".manifest.json-x2.tmp"):
        (bundle / left).write_bytes(b"torn, or never referred to")
    with BundleWriter(bundle):
        assert files_of(bundle) == before
    manifest = write(bundle, 2)
    assert files_of(bundle) == {MANIFEST, *manifest.files, *owned}


def test_nothing_is_swept_where_the_manifest_cannot_be_read(bundle: Path) -> None:
    (bundle / MANIFEST).write_text("{")
    before = files_of(bundle)
    with BundleWriter(bundle) as writer:
        assert writer.current() is None
    assert files_of(bundle) == before


def test_a_folder_of_something_else_does_not_become_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"beach")
    with pytest.raises(BundleError, match=r"found holiday\.jpg; name another folder with --out"):
        write(tmp_path, 1)
    assert files_of(tmp_path) == {"holiday.jpg"}


def test_a_file_in_the_place_of_the_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b"")
    with pytest.raises(BundleError, match="expected a folder, found a file"):
        write(tmp_path / "bundle", 1)


def test_a_damaged_artifact_is_written_again(tmp_path: Path) -> None:
    manifest = write(tmp_path / "bundle", 1)
    artifact = tmp_path / "bundle" / manifest.variants[0].file.path
    artifact.write_bytes(bytes(len(artifact.read_bytes())))
    write(tmp_path / "bundle", 1)
    assert check_whole(tmp_path / "bundle") == 1


def test_a_manifest_whose_files_are_not_there_is_not_committed(tmp_path: Path) -> None:
    manifest = write(tmp_path / "bundle", 1)
    with BundleWriter(tmp_path / "other") as writer, pytest.raises(BundleError, match="missing"):
        writer.commit(manifest)
    assert not (tmp_path / "other").exists()


def test_a_bundle_that_the_runtime_made_is_read_as_the_current_one(tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    with BundleWriter(tmp_path / "bundle") as writer:
        assert len(list(writer.current().golden_images())) == 8


def test_a_second_export_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    waited = threading.Event()
    order = []

    def second() -> None:
        with bundle_lock(tmp_path / "bundle", waited.set):
            order.append("second")

    with bundle_lock(tmp_path / "bundle"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_killed_at_every_step_of_an_export_the_bundle_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    result = run("kill-everywhere", tmp_path)
    assert result.returncode == 0, result.stderr
    outcomes = json.loads(result.stdout)
    versions = [item["version"] for item in outcomes]
    assert len(outcomes) > 20  # writes, syncs, renames, removals
    assert versions == sorted(versions), "once the new bundle is there, a later kill never brings the old one back"
    assert {1, 2} == set(versions)
    assert any(item["leftovers"] for item in outcomes)
    assert all(item["left_after_next_start"] == 0 for item in outcomes)


@pytest.mark.parametrize(
    ("mode", "access", "said"),
    [("full-disk", 0o755, ("free some room", "unchanged")), ("read-only", 0o555, ("make the folder writable",))],
)
def test_a_disk_that_takes_no_more_is_a_clear_error_and_the_old_bundle_stays(
    mode: str, access: int, said: tuple[str, ...], bundle: Path
) -> None:
    before = files_of(bundle)
    bundle.parent.chmod(access)
    result = run(mode, bundle.parent)
    bundle.parent.chmod(0o755)
    assert result.stdout.startswith("BundleError"), result.stderr
    assert all(words in result.stdout for words in said), result.stdout
    assert check_whole(bundle) == 1
    assert files_of(bundle) == before
