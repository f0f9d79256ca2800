import io
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.data.tiny_imagenet import CLASSES, NAMES, TRAIN, VAL, archive, contents, expected, run, state

from hybrid_edge.runtime.errors import DataError, UsageError
from hybrid_edge.train import tiny_imagenet
from hybrid_edge.train.data import scan
from hybrid_edge.train.tiny_imagenet import prepare_tiny_imagenet


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.mark.parametrize("kind", ["folder", ".tar", ".tar.gz", ".zip"])
def test_every_image_arrives_byte_for_byte_and_the_source_is_untouched(source: Path, out: Path, kind: str) -> None:
    src = source if kind == "folder" else archive(source, kind)
    before, files = state(source), expected(source)
    made = prepare_tiny_imagenet(src, out)
    assert contents(out) == files
    assert state(source) == before
    assert made.written == len(files) == 40
    assert made.counts["train"] == dict.fromkeys(NAMES, TRAIN)
    assert made.counts["val"] == dict.fromkeys(NAMES, VAL)


@pytest.mark.usefixtures("own_cache")
def test_the_result_is_a_data_set_that_can_be_trained_on(source: Path, out: Path) -> None:
    prepare_tiny_imagenet(source, out)
    found = scan(out)
    assert found.labels == tuple(sorted(NAMES))
    assert (len(found.train), len(found.validation), found.skipped, found.warnings) == (30, 10, {}, ())


def test_an_archive_packed_without_a_top_folder_is_read(source: Path, tmp_path: Path, out: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as file:
        file.add(source, ".")
    prepare_tiny_imagenet(tmp_path / "t.tar", out)
    assert contents(out) == expected(source)


def test_running_again_rewrites_only_what_is_torn_altered_or_missing(source: Path, out: Path) -> None:
    prepare_tiny_imagenet(source, out)
    before = state(out)
    made = prepare_tiny_imagenet(source, out)
    assert (made.written, made.kept) == (0, 40)
    assert state(out) == before
    first, second, third, *_ = sorted((out / "train/goldfish").iterdir())
    first.write_bytes(first.read_bytes()[:100])
    second.write_bytes(bytes(len(second.read_bytes())))
    third.unlink()
    assert prepare_tiny_imagenet(source, out).written == 3
    assert contents(out) == expected(source)


def test_a_link_in_the_destination_is_replaced_and_not_written_through(source: Path, out: Path) -> None:
    original = source / "train/n01443537/images/n01443537_0.JPEG"
    link = out / "train/goldfish/n01443537_0.JPEG"
    link.parent.mkdir(parents=True)
    link.symlink_to(original)
    before = state(source)
    assert prepare_tiny_imagenet(source, out).written == 40
    assert not link.is_symlink()
    assert (contents(out), state(source)) == (expected(source), before)


@pytest.mark.parametrize("after", [1, 17, 40])
def test_a_kill_leaves_no_torn_file_and_the_next_run_completes_it(source: Path, out: Path, after: int) -> None:
    files, before = expected(source), state(source)
    script = (
        "import os, signal, pathlib; from hybrid_edge.train.tiny_imagenet import prepare_tiny_imagenet\n"
        "real, calls = pathlib.Path.replace, []\n"
        "def replace(self, target):\n"
        "    calls.append(target)\n"
        f"    if len(calls) == {after}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(self, target)\n"
        "pathlib.Path.replace = replace\n"
        f"prepare_tiny_imagenet(pathlib.Path({str(source)!r}), pathlib.Path({str(out)!r}))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    left = contents(out)
    parts = {name for name in left if name.endswith(".part")}
    assert (len(parts), len(left)) == (1, after)
    assert all(files[name] == data for name, data in left.items() if name not in parts)
    made = prepare_tiny_imagenet(source, out)
    assert (made.kept, made.written) == (after - 1, 40 - after + 1)
    assert (contents(out), state(source)) == (files, before)


def test_the_first_classes_can_be_chosen_and_more_added_later_and_not_fewer(source: Path, out: Path) -> None:
    prepare_tiny_imagenet(source, out, classes=2)
    assert contents(out) == expected(source, list(CLASSES)[:2])  # crane keeps its wnid although it is alone
    made = prepare_tiny_imagenet(source, out, classes=4)
    assert (made.kept, made.written) == (16, 16)
    assert contents(out) == expected(source, list(CLASSES)[:4])
    with pytest.raises(DataError, match=r"found train/(crane_n03126707|jinrikisha)"):
        prepare_tiny_imagenet(source, out, classes=2)


def test_classes_can_be_listed_in_a_file(source: Path, tmp_path: Path, out: Path) -> None:
    (tmp_path / "mine.txt").write_text("n03599486\n\nn01443537\r\n")
    prepare_tiny_imagenet(archive(source, ".tar.gz"), out, wnids=tmp_path / "mine.txt")
    assert contents(out) == expected(source, ["n03599486", "n01443537"])


@pytest.mark.parametrize("text", ["n00000001\n", "", "../escape\n", None])
def test_a_list_of_unknown_wnids_is_refused(source: Path, tmp_path: Path, out: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(DataError, match=r"mine\.txt.*(n00000001|found none|escape|No such file)"):
        prepare_tiny_imagenet(source, out, wnids=tmp_path / "mine.txt")
    assert not out.exists()


@pytest.mark.parametrize("classes", [-1, 0, 6])
def test_an_impossible_choice_of_classes_is_refused(source: Path, out: Path, classes: int) -> None:
    with pytest.raises(UsageError, match="between 1 and the 5"):
        prepare_tiny_imagenet(source, out, classes=classes)
    with pytest.raises(UsageError, match="found both"):
        prepare_tiny_imagenet(source, out, classes=2, wnids=Path("wnids.txt"))


def test_a_destination_inside_the_source_is_wrong_usage(source: Path) -> None:
    for dst in (source, source / "out"):
        with pytest.raises(UsageError, match="only read"):
            prepare_tiny_imagenet(source, dst)


def test_a_destination_in_other_use_is_refused_before_anything_is_written(source: Path, out: Path) -> None:
    (out / "train/goldfish").mkdir(parents=True)
    (out / "train/goldfish/mine.jpg").write_bytes(b"precious")
    with pytest.raises(DataError, match=r"found train/goldfish/mine\.jpg in it: choose another folder"):
        prepare_tiny_imagenet(source, out)
    assert contents(out) == {"train/goldfish/mine.jpg": b"precious"}
    with pytest.raises(DataError, match="found a file"):
        prepare_tiny_imagenet(source, out / "train/goldfish/mine.jpg")


def test_a_full_disk_is_one_clear_error(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="can't be written: No space left on device"):
        prepare_tiny_imagenet(source, out)


def removed(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def appended(name: str, line: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        with (root / name).open("a") as file:
            file.write(line)

    return edit


def written(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(data) and None


def empty_class(root: Path) -> None:
    for image in (root / "train/n02012849/images").iterdir():
        image.unlink()


ANNOTATIONS = "val/val_annotations.txt"
DAMAGES = [
    (removed("wnids.txt"), r"expected wnids\.txt in it, found none"),
    (removed("words.txt"), r"expected words\.txt in it, found none"),
    (removed(ANNOTATIONS), r"expected val/val_annotations\.txt in it, found none"),
    (removed("val/images/val_3.JPEG"), "'val_3.JPEG' is not in val/images"),
    (appended(ANNOTATIONS, "val_0.JPEG\tn77777777\t0\t0\t1\t1\n"), "line 11: .*n77777777"),
    (appended(ANNOTATIONS, "just words\n"), "line 11: expected file, tab, a wnid"),
    (appended(ANNOTATIONS, "../images/val_0.JPEG\tn01443537\n"), "line 11: .*is not in val/images"),
    (empty_class, "no images in train/WNID/images/ of n02012849"),
    (written("words.txt", b"n01443537\tgoldfish\n"), "words.txt has no name for n02012849"),
    (written("words.txt", b"n01443537\t\xff\xfe\n"), "words.txt is not UTF-8"),
    (written("wnids.txt", b"n01443537\n../../etc\n"), "expected one wnid a line.*'../../etc'"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_layout_is_refused_before_anything_is_written(
    source: Path, out: Path, damage: Callable[[Path], None], message: str, packed: bool
) -> None:
    damage(source)
    with pytest.raises(DataError, match=message):
        prepare_tiny_imagenet(archive(source, ".tar") if packed else source, out)
    assert not out.exists()


def test_a_folder_without_wnids_is_refused_before_what_is_below_is_read(tmp_path: Path, out: Path) -> None:
    below = tmp_path / "home/other"
    below.mkdir(parents=True)
    with (below / tiny_imagenet.WORDS).open("wb") as file:
        file.truncate(tiny_imagenet.MAX_MEMBER_BYTES + 1)  # whoever reads it complains of its size
    with pytest.raises(DataError, match=r"expected wnids\.txt in it, found none"):
        prepare_tiny_imagenet(tmp_path / "home", out)


def test_a_source_that_is_missing_or_of_another_kind_is_refused(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        prepare_tiny_imagenet(tmp_path / "nowhere", out)
    (tmp_path / "text.zip").write_text("not an archive")
    with pytest.raises(DataError, match="a file that is none of them"):
        prepare_tiny_imagenet(tmp_path / "text.zip", out)


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_archive_is_refused_and_names_the_file(source: Path, out: Path, kind: str, share: float) -> None:
    path = archive(source, kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match="tiny"):
        prepare_tiny_imagenet(path, out)
    assert not out.exists()


def test_a_zip_with_flipped_bits_is_refused(source: Path, out: Path) -> None:
    path = archive(source, ".zip")
    data = bytearray(path.read_bytes())
    data[data.index(b"images/n01443537_0.JPEG") + 300] ^= 0xFF  # inside a stored image: its checksum fails
    path.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        prepare_tiny_imagenet(path, out)


def test_links_and_names_that_climb_out_write_nothing_outside(source: Path, tmp_path: Path, out: Path) -> None:
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
    prepare_tiny_imagenet(path, out)
    assert contents(out) == expected(source)
    assert sorted(p for p in tmp_path.rglob("*") if not p.is_relative_to(out)) == before


def test_a_member_too_large_to_be_an_image_is_refused(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny_imagenet, "MAX_MEMBER_BYTES", 2**20)
    (source / "train/n01443537/images/n01443537_0.JPEG").write_bytes(bytes(2**20 + 1))
    with pytest.raises(DataError, match="at most 1 MiB, found more"):
        prepare_tiny_imagenet(archive(source, ".zip"), out)


def test_the_command_prints_the_classes_on_stdout_and_its_progress_on_stderr(source: Path, out: Path) -> None:
    ended = run("tiny-imagenet", source, out, "--classes", "3")
    assert ended.returncode == 0
    rows = [line.replace("│", " ").split() for line in ended.stdout.splitlines()]
    assert ["goldfish", "6", "2"] in rows
    assert ["all", "18", "6"] in rows
    assert "copying" in ended.stderr
    again = run("tiny-imagenet", source, out, "--classes", "3")
    assert again.stdout == ended.stdout
    assert "24 were there already, 0 written" in again.stderr


def test_the_command_ends_with_one_on_bad_data_and_two_on_wrong_usage(source: Path, tmp_path: Path, out: Path) -> None:
    missing = run("tiny-imagenet", tmp_path / "nowhere", out)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.lstrip().startswith("error:")
    assert run("tiny-imagenet", source, out, "--classes", "99").returncode == 2
    assert run("tiny-imagenet", source).returncode == 2


@pytest.mark.parametrize("command", ["tiny-imagenet", "digits", "mnist"])
def test_help_gives_an_example(command: str) -> None:
    ended = run(command, "--help")
    assert ended.returncode == 0
    assert "Example: hybrid-prepare" in ended.stdout
