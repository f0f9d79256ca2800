"""Public data sets to class folders: bytes, names, reruns, kills in the middle, and every fault of the source."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data as photographs

from hybrid_edge.runtime.errors import DataError, UsageError
from hybrid_edge.runtime.preprocess import read_image
from hybrid_edge.train import class_folders, prepare, published
from hybrid_edge.train.class_folders import ClassFolders
from hybrid_edge.train.data import scan
from hybrid_edge.train.prepare import prepare_digits, prepare_mnist, prepare_tiny_imagenet

CLASSES = {  # wnid -> words.txt, photograph
    "n01443537": ("goldfish, Carassius auratus", photographs.astronaut),
    "n02012849": ("crane", photographs.chelsea),
    "n03126707": ("crane", photographs.coffee),
    "n03599486": ("jinrikisha, ricksha, rickshaw", photographs.rocket),
    "n09999999": ("jack-o'-lantern / Été: pumpkin.", photographs.astronaut),
}
NAMES = ["goldfish", "crane_n02012849", "crane_n03126707", "jinrikisha", "jack-o'-lantern_Été_pumpkin"]
TRAIN, VAL = 6, 2
COMMAND = [sys.executable, "-c", "from hybrid_edge.train.prepare_command import main; main()"]


def jpeg(photo: np.ndarray, place: int) -> bytes:
    tile = photo[place * 8 : place * 8 + 64, place * 16 : place * 16 + 64]
    return cv2.imencode(".jpg", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A miniature of the published layout, made of scikit-image's photographs."""
    root = tmp_path / "tiny-imagenet-5"
    (root / "val/images").mkdir(parents=True)
    (root / "test/images").mkdir(parents=True)
    (root / "wnids.txt").write_text("\n".join(CLASSES) + "\n")
    words = [f"{wnid}\t{words}" for wnid, (words, _) in CLASSES.items()]
    (root / "words.txt").write_text("\n".join(["n00001740\tentity", *words]) + "\n")
    annotations = []
    for number, (wnid, (_, photograph)) in enumerate(CLASSES.items()):
        photo = photograph()
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t63\t63\n")
        for i in range(TRAIN):
            (images / f"{wnid}_{i}.JPEG").write_bytes(jpeg(photo, i))
        for i in range(VAL):
            name = f"val_{number * VAL + i}.JPEG"
            (root / "val/images" / name).write_bytes(jpeg(photo, TRAIN + i))
            annotations.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    (root / "val/val_annotations.txt").write_text("".join(annotations[::-1]))
    (root / "test/images/test_0.JPEG").write_bytes(jpeg(photo, 0))
    return root


def archive(source: Path, kind: str) -> Path:
    path = source.parent / f"tiny{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for member in sorted(source.rglob("*")):
                file.write(member, member.relative_to(source.parent))
    else:
        with tarfile.open(path, "w:gz" if kind == ".tar.gz" else "w") as file:
            file.add(source, source.name)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def expected(source: Path, wnids: list[str] | None = None) -> dict[str, bytes]:
    """What the class folders must hold, found independently of the code under test."""
    files = {}
    names = dict(zip(CLASSES, NAMES, strict=True))
    for wnid in wnids or list(CLASSES):
        for path in (source / "train" / wnid / "images").iterdir():
            files[f"train/{names[wnid]}/{path.name}"] = path.read_bytes()
    for line in (source / "val/val_annotations.txt").read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        if wnid in (wnids or CLASSES):
            files[f"val/{names[wnid]}/{name}"] = (source / "val/images" / name).read_bytes()
    return files


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every file: what a rerun that keeps files leaves alone."""
    stats = {p.relative_to(folder).as_posix(): p.stat() for p in folder.rglob("*") if p.is_file()}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | environment,
    )


@pytest.mark.parametrize("kind", ["folder", ".tar", ".tar.gz", ".zip"])
def test_every_image_arrives_byte_for_byte_and_the_source_is_untouched(source: Path, tmp_path: Path, kind: str) -> None:
    src = source if kind == "folder" else archive(source, kind)
    before, files = state(source), expected(source)
    made = prepare_tiny_imagenet(src, tmp_path / "out")
    assert contents(tmp_path / "out") == files
    assert state(source) == before
    assert made.written == len(files) == 40
    assert made.counts["train"] == dict.fromkeys(NAMES, TRAIN)
    assert made.counts["val"] == dict.fromkeys(NAMES, VAL)


def test_the_result_is_a_data_set_that_can_be_trained_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_EDGE_CACHE", str(tmp_path / "cache"))
    prepare_tiny_imagenet(source, tmp_path / "out")
    found = scan(tmp_path / "out")
    assert found.labels == tuple(sorted(NAMES))
    assert (len(found.train), len(found.validation), found.skipped, found.warnings) == (30, 10, (), ())


def test_an_archive_packed_without_a_top_folder_is_read(source: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as file:
        file.add(source, ".")
    prepare_tiny_imagenet(tmp_path / "t.tar", tmp_path / "out")
    assert contents(tmp_path / "out") == expected(source)


def test_running_again_rewrites_nothing(source: Path, tmp_path: Path) -> None:
    prepare_tiny_imagenet(source, tmp_path / "out")
    before = state(tmp_path / "out")
    made = prepare_tiny_imagenet(source, tmp_path / "out")
    assert (made.written, made.kept) == (0, 40)
    assert state(tmp_path / "out") == before


def test_running_again_replaces_a_torn_or_altered_file_and_adds_a_missing_one(source: Path, tmp_path: Path) -> None:
    prepare_tiny_imagenet(source, tmp_path / "out")
    first, second, third, *_ = sorted((tmp_path / "out/train/goldfish").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(bytes(len(second.read_bytes())))
    third.unlink()
    assert prepare_tiny_imagenet(source, tmp_path / "out").written == 3
    assert contents(tmp_path / "out") == expected(source)


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("after", [1, 17, 40])
def test_a_kill_in_the_middle_leaves_no_torn_file_and_the_next_run_completes_it(
    source: Path, tmp_path: Path, after: int, link: bool
) -> None:
    files, out, before = expected(source), tmp_path / "out", state(source)
    script = (
        "import os, signal, pathlib; from hybrid_edge.train.prepare import prepare_tiny_imagenet\n"
        "real, calls = pathlib.Path.replace, []\n"
        "def replace(self, target):\n"
        "    calls.append(target)\n"
        f"    if len(calls) == {after}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, target)\n"
        "pathlib.Path.replace = replace\n"
        f"prepare_tiny_imagenet(pathlib.Path({str(source)!r}), pathlib.Path({str(out)!r}), link={link})\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    left = contents(out)
    parts = {name for name in left if name.endswith(class_folders.PART_SUFFIX)}
    assert len(parts) == 1
    assert len(left) == after
    assert all(files[name] == data for name, data in left.items() if name not in parts)
    made = prepare_tiny_imagenet(source, out)
    assert (made.kept, made.written) == (after - 1, 40 - after + 1)
    assert contents(out) == files
    assert (state(source), expected(source)) == (before, files)


def test_the_first_classes_can_be_chosen_and_more_added_later(source: Path, tmp_path: Path) -> None:
    prepare_tiny_imagenet(source, tmp_path / "out", classes=2)
    assert contents(tmp_path / "out") == expected(
        source, list(CLASSES)[:2]
    )  # crane keeps its wnid although it is alone
    made = prepare_tiny_imagenet(source, tmp_path / "out", classes=4)
    assert (made.kept, made.written) == (16, 16)
    assert contents(tmp_path / "out") == expected(source, list(CLASSES)[:4])


def test_a_smaller_choice_into_the_same_folder_is_refused(source: Path, tmp_path: Path) -> None:
    prepare_tiny_imagenet(source, tmp_path / "out", classes=3)
    with pytest.raises(DataError, match="found train/crane_n03126707"):
        prepare_tiny_imagenet(source, tmp_path / "out", classes=2)


def test_classes_can_be_listed_in_a_file(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("n03599486\n\nn01443537\r\n")
    prepare_tiny_imagenet(archive(source, ".tar.gz"), tmp_path / "out", wnids=tmp_path / "mine.txt")
    assert contents(tmp_path / "out") == expected(source, ["n03599486", "n01443537"])


@pytest.mark.parametrize("text", ["n00000001\n", "", "../escape\n", None])
def test_a_list_of_unknown_wnids_is_refused(source: Path, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(DataError, match=r"mine\.txt.*(n00000001|found none|escape|No such file)"):
        prepare_tiny_imagenet(source, tmp_path / "out", wnids=tmp_path / "mine.txt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("classes", [0, -1, 6])
def test_a_number_of_classes_out_of_range_is_wrong_usage(source: Path, tmp_path: Path, classes: int) -> None:
    with pytest.raises(UsageError, match="between 1 and the 5"):
        prepare_tiny_imagenet(source, tmp_path / "out", classes=classes)


def test_both_choices_of_classes_at_once_are_wrong_usage(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found both"):
        prepare_tiny_imagenet(source, tmp_path / "out", classes=2, wnids=source / "wnids.txt")


def test_hard_links_share_the_source_files(source: Path, tmp_path: Path) -> None:
    made = prepare_tiny_imagenet(source, tmp_path / "out", link=True)
    image = tmp_path / "out/train/goldfish/n01443537_0.JPEG"
    assert image.samefile(source / "train/n01443537/images/n01443537_0.JPEG")
    assert not image.is_symlink()
    assert made.written == 40
    assert prepare_tiny_imagenet(source, tmp_path / "out", link=True).kept == 40


def test_across_file_systems_symbolic_links_are_made_and_a_later_copy_replaces_them(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crossing(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(class_folders.os, "link", crossing)
    prepare_tiny_imagenet(Path(source.name), Path("out"), link=True)
    image = tmp_path / "out/val/goldfish/val_0.JPEG"
    assert image.is_symlink()
    assert contents(tmp_path / "out") == expected(source)
    assert prepare_tiny_imagenet(source, tmp_path / "out").written == 40
    assert not image.is_symlink()
    assert contents(tmp_path / "out") == expected(source)


def test_an_archive_cannot_be_linked_to(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave --link out"):
        prepare_tiny_imagenet(archive(source, ".zip"), tmp_path / "out", link=True)


def test_a_destination_inside_the_source_is_wrong_usage(source: Path) -> None:
    for dst in (source, source / "out"):
        with pytest.raises(UsageError, match="only read"):
            prepare_tiny_imagenet(source, dst)


def test_a_destination_that_holds_other_things_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "train/goldfish").mkdir(parents=True)
    (out / "train/goldfish/mine.jpg").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"found train/goldfish/mine\.jpg in it: choose another folder"):
        prepare_tiny_imagenet(source, out)
    assert contents(out) == {"train/goldfish/mine.jpg": b"precious"}


def test_a_destination_that_is_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match="found a file"):
        prepare_tiny_imagenet(source, tmp_path / "out")


def test_a_full_disk_is_one_clear_error(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="can't be written: No space left on device"):
        prepare_tiny_imagenet(source, tmp_path / "out")


@pytest.mark.parametrize("name", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_missing_list_is_named(source: Path, tmp_path: Path, name: str, packed: bool) -> None:
    (source / name).unlink()
    with pytest.raises(DataError, match=f"expected {name} in it, found none"):
        prepare_tiny_imagenet(archive(source, ".tar") if packed else source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def drop_val_image(root: Path) -> None:
    (root / "val/images/val_3.JPEG").unlink()


def annotate(line: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        with (root / "val/val_annotations.txt").open("a") as file:
            file.write(line)

    return edit


def empty_class(root: Path) -> None:
    for image in (root / "train/n02012849/images").iterdir():
        image.unlink()


def nameless(root: Path) -> None:
    (root / "words.txt").write_text("n01443537\tgoldfish\n")


def not_text(root: Path) -> None:
    (root / "words.txt").write_bytes(b"n01443537\t\xff\xfe\n")


def hostile_wnid(root: Path) -> None:
    (root / "wnids.txt").write_text("n01443537\n../../etc\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_val_image, "'val_3.JPEG' is not in val/images"),
        (annotate("val_0.JPEG\tn77777777\t0\t0\t1\t1\n"), "line 11: .*n77777777"),
        (annotate("just words\n"), "line 11: expected file, tab, a wnid"),
        (annotate("../images/val_0.JPEG\tn01443537\n"), "line 11: .*is not in val/images"),
        (empty_class, "no images in train/WNID/images/ of n02012849"),
        (nameless, "words.txt has no name for n02012849"),
        (not_text, "words.txt is not UTF-8"),
        (hostile_wnid, "expected one wnid a line.*'../../etc'"),
    ],
)
def test_a_damaged_layout_is_refused_before_anything_is_written(
    source: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(source)
    with pytest.raises(DataError, match=message):
        prepare_tiny_imagenet(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_missing_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        prepare_tiny_imagenet(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "text.zip").write_text("not an archive")
    with pytest.raises(DataError, match="a file that is none of them"):
        prepare_tiny_imagenet(tmp_path / "text.zip", tmp_path / "out")


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_archive_is_refused_and_names_the_file(
    source: Path, tmp_path: Path, kind: str, share: float
) -> None:
    path = archive(source, kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match="tiny"):
        prepare_tiny_imagenet(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_zip_with_flipped_bits_is_refused(source: Path, tmp_path: Path) -> None:
    path = archive(source, ".zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"images/n01443537_0.JPEG") + 300] ^= 0xFF  # inside a stored image: its checksum fails
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        prepare_tiny_imagenet(path, tmp_path / "out")


def test_links_and_names_that_climb_out_of_an_archive_write_nothing_outside(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "hostile.tar"
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    with tarfile.open(path, "w") as file:
        file.add(source, source.name)
        for name in ("../../escaped.JPEG", "/escaped.JPEG", f"{source.name}/train/n01443537/images/../../x.JPEG"):
            member = tarfile.TarInfo(name)
            member.size = 4
            file.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo(f"{source.name}/train/n01443537/images/link.JPEG")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        file.addfile(link)
    before = sorted(p for p in tmp_path.rglob("*"))
    prepare_tiny_imagenet(path, tmp_path / "out")
    assert contents(tmp_path / "out") == expected(source)
    assert sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "out")) == before


def test_a_member_too_large_to_be_an_image_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "MAX_MEMBER_BYTES", 2**20)
    (source / "train/n01443537/images/n01443537_0.JPEG").write_bytes(bytes(2**20 + 1))
    with pytest.raises(DataError, match="at most 1 MiB, found more"):
        prepare_tiny_imagenet(archive(source, ".zip"), tmp_path / "out")


def test_a_link_left_by_a_killed_run_is_never_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    folder = tmp_path / "out/train/a"
    folder.mkdir(parents=True)
    folders = ClassFolders(tmp_path / "out", ["train/a/1.png"])
    (folder / ".1.png.part").hardlink_to(precious)
    folders.write("train/a/1.png", b"new")
    assert precious.read_bytes() == b"precious"
    assert contents(tmp_path / "out") == {"train/a/1.png": b"new"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits"
    prepare_digits(path)
    return path


def test_digits_are_split_in_three_stratified_parts(digits: Path) -> None:
    files = [path.relative_to(digits).parts for path in digits.rglob("*.png")]
    splits = {split: [label for s, label, _ in files if s == split] for split in ("train", "val", "test")}
    assert {split: len(labels) for split, labels in splits.items()} == {"train": 1150, "val": 287, "test": 360}
    for split, size in (("train", 115.0), ("val", 28.7), ("test", 36.0)):
        counts = [splits[split].count(str(digit)) for digit in range(10)]
        assert all(abs(count - size) < size * 0.05 + 1 for count in counts)
    assert {name for _, _, name in files} == {f"digit_{i:04d}.png" for i in range(1797)}


def test_digits_are_gray_28_pixel_frames_centred_by_mass(digits: Path) -> None:
    rows, columns = np.mgrid[:28, :28]
    for path in sorted(digits.rglob("*.png"))[::37]:
        frame = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert (frame.shape, frame.dtype) == ((28, 28), np.uint8)
        mass = frame.astype(float)
        assert abs((mass * rows).sum() / mass.sum() - 13.5) <= 0.5
        assert abs((mass * columns).sum() / mass.sum() - 13.5) <= 0.5
        assert np.array_equal(read_image(path)[..., 1], frame)


def test_a_digit_lies_in_the_folder_of_its_label_and_shows_the_original(digits: Path) -> None:
    from sklearn.datasets import load_digits

    data = load_digits()
    for path in sorted(digits.rglob("*.png"))[::61]:
        index = int(path.stem.removeprefix("digit_"))
        assert path.parent.name == str(data.target[index])
        frame, original = read_image(path)[..., 0], data.images[index]
        left, top, width, height = cv2.boundingRect((original > 0).astype(np.uint8))
        x, y, w, h = cv2.boundingRect(frame)
        small = cv2.resize(frame[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_AREA)
        correlation = np.corrcoef(small.ravel(), original[top : top + height, left : left + width].ravel())[0, 1]
        assert correlation > 0.95


def test_digits_made_twice_are_the_same_and_a_rerun_keeps_them(digits: Path, tmp_path: Path) -> None:
    prepare_digits(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(digits)
    made = prepare_digits(digits)
    assert (made.written, made.kept) == (0, 1797)


def test_digits_into_a_folder_of_other_things_are_refused(tmp_path: Path) -> None:
    (tmp_path / "report.pdf").touch()
    with pytest.raises(DataError, match=r"found report\.pdf"):
        prepare_digits(tmp_path)


def fake_mnist(monkeypatch: pytest.MonkeyPatch, load_data: Callable[[], object]) -> None:
    """Keras's data set without importing TensorFlow."""
    monkeypatch.setattr(prepare, "import_tensorflow", lambda: None)
    datasets = types.ModuleType("keras.datasets")
    datasets.mnist = types.SimpleNamespace(load_data=load_data)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "keras", types.ModuleType("keras"))
    monkeypatch.setitem(sys.modules, "keras.datasets", datasets)


@pytest.fixture
def placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mnist.npz lies after a download, so that the network isn't asked."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    place = tmp_path / "keras/datasets/mnist.npz"
    place.parent.mkdir(parents=True)
    place.touch()
    return place


def test_mnist_is_written_unchanged_with_its_own_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placed: Path
) -> None:
    random = np.random.default_rng(0)
    x, x_test = (random.integers(0, 256, (count, 28, 28)).astype(np.uint8) for count in (200, 30))
    y, y_test = (np.arange(200) % 10).astype(np.uint8), (np.arange(30) % 10).astype(np.uint8)
    fake_mnist(monkeypatch, lambda: ((x, y), (x_test, y_test)))
    monkeypatch.setattr(prepare, "MNIST_VAL", 50)
    made = prepare_mnist(tmp_path / "out")
    assert {split: counts.total() for split, counts in made.counts.items()} == {"train": 150, "val": 50, "test": 30}
    assert made.counts["val"] == {str(digit): 5 for digit in range(10)}
    for split, pixels in (("train", x), ("val", x), ("test", x_test)):
        for path in (tmp_path / "out" / split / "3").iterdir():
            assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), pixels[int(path.stem.split("_")[-1])])
    assert prepare_mnist(tmp_path / "out").kept == 230


def test_a_failed_download_of_mnist_names_the_file_its_place_and_the_alternative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placed: Path
) -> None:
    def fail() -> object:
        raise Exception("URL fetch failure: None -- timed out")  # what keras.utils.get_file raises

    fake_mnist(monkeypatch, fail)
    with pytest.raises(
        DataError, match=r"mnist\.npz.*timed out.*keras/datasets/mnist\.npz by hand.*hybrid-prepare digits"
    ):
        prepare_mnist(tmp_path / "out")


def test_mnist_without_a_network_fails_within_seconds_and_without_a_traceback(tmp_path: Path) -> None:
    begin = time.monotonic()
    dead = "http://127.0.0.1:9"
    ended = run("mnist", tmp_path / "out", KERAS_HOME=str(tmp_path), https_proxy=dead, HTTPS_PROXY=dead, no_proxy="")
    assert time.monotonic() - begin < 10
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: MNIST can't be downloaded from https://storage.googleapis.com/")
    assert "hybrid-prepare digits" in ended.stderr
    assert f"{tmp_path}/datasets/mnist.npz" in ended.stderr.replace("\n", "")
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_classes_on_stdout_and_its_progress_on_stderr(source: Path, tmp_path: Path) -> None:
    ended = run("tiny-imagenet", source, tmp_path / "out", "--classes", "3", "--link")
    assert ended.returncode == 0
    rows = [line.replace("│", " ").split() for line in ended.stdout.splitlines()]
    assert ["goldfish", "6", "2"] in rows
    assert ["all", "18", "6"] in rows
    assert "linking" in ended.stderr
    again = run("tiny-imagenet", source, tmp_path / "out", "--classes", "3", "--link")
    assert again.stdout == ended.stdout
    assert "24 were there already, 0 written" in again.stderr


def test_the_command_ends_with_one_on_bad_data_and_two_on_wrong_usage(source: Path, tmp_path: Path) -> None:
    missing = run("tiny-imagenet", tmp_path / "nowhere", tmp_path / "out")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.lstrip().startswith("error:")
    assert run("tiny-imagenet", source, tmp_path / "out", "--classes", "99").returncode == 2
    assert run("tiny-imagenet", source).returncode == 2


@pytest.mark.parametrize("command", [[], ["tiny-imagenet"], ["digits"], ["mnist"]])
def test_help_gives_an_example_and_loads_nothing_heavy(command: list[str]) -> None:
    script = (
        "import sys, atexit; from hybrid_edge.train.prepare_command import main\n"
        "atexit.register(lambda: print('heavy:', sorted({'tensorflow', 'keras', 'sklearn'} & set(sys.modules))))\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *command, "--help"], capture_output=True, text=True, check=True
    )
    assert "Example: hybrid-prepare" in ended.stdout
    assert "heavy: []" in ended.stdout
