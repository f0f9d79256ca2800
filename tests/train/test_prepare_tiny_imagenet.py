"""Tiny ImageNet to class folders: bytes, names, reruns, kills in the middle, choice of classes, links, the command."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.data.tiny_imagenet import CLASSES, NAMES, TRAIN, VAL, archive, contents, expected, run, state

from hybrid_edge.runtime.errors import DataError, UsageError
from hybrid_edge.train import class_folders
from hybrid_edge.train.class_folders import ClassFolderWriter
from hybrid_edge.train.data import scan
from hybrid_edge.train.tiny_imagenet import prepare_tiny_imagenet


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
        "import os, signal, pathlib; from hybrid_edge.train.tiny_imagenet import prepare_tiny_imagenet\n"
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
    parts = {name for name in left if name.endswith(".part")}
    assert len(parts) == 1
    assert len(left) == after
    assert all(files[name] == data for name, data in left.items() if name not in parts)
    made = prepare_tiny_imagenet(source, out)
    assert (made.kept, made.written) == (after - 1, 40 - after + 1)
    assert contents(out) == files
    assert (state(source), expected(source)) == (before, files)


def test_a_link_left_by_a_killed_run_is_never_written_through(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    folder = tmp_path / "out/train/a"
    folder.mkdir(parents=True)
    folders = ClassFolderWriter(tmp_path / "out", ["train/a/1.png"])
    (folder / ".1.png.part").hardlink_to(precious)
    folders.write("train/a/1.png", b"new")
    assert precious.read_bytes() == b"precious"
    assert contents(tmp_path / "out") == {"train/a/1.png": b"new"}


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
        "import sys, atexit; from hybrid_edge.train.command import prepare_main\n"
        "atexit.register(lambda: print('heavy:', sorted({'tensorflow', 'keras', 'sklearn'} & set(sys.modules))))\n"
        "prepare_main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, *command, "--help"], capture_output=True, text=True, check=True
    )
    assert "Example: hybrid-prepare" in ended.stdout
    assert "heavy: []" in ended.stdout
