import os
from collections import Counter
from pathlib import Path

import pytest
from support.models.bundles import encode, sample_image

from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.sources import media_files
from hybrid_edge.runtime.sources.files import open_sources
from hybrid_edge.runtime.sources.media_files import describe_left_out, find_media, kind_by_content, media_kind

PNG = encode(sample_image(1))


def put(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNG)


def found(root: Path, left_out: Counter[str] | None = None, *, videos: bool = True) -> list[str]:
    return [str(path.relative_to(root)) for path in find_media(root, left_out, videos=videos) if isinstance(path, Path)]


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "#recycle", "#snapshot", ".snapshot", "@Recycle", "@Recently-Snapshot", "lost+found", "__MACOSX"),
        *("$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", ".git", ".svn", "CVS", ".ipynb_checkpoints"),
        *("@Transcode", "FOUND.001", "Catalog Previews.lrdata"),
        *("__pycache__", ".AppleDouble", ".Trash-1000", ".Trashes", "Network Trash Folder"),
        *("wandb", "mlruns", "lightning_logs"),
    ],
)
def test_what_systems_leave_is_never_data_and_a_visible_folder_of_it_is_counted(tmp_path: Path, name: str) -> None:
    put(tmp_path, f"{name}/1.png", f"a/{name}/2.png", "a/3.png", "a/._3.png", "a/.DS_Store")
    (tmp_path / "a/Thumbs.db").touch()
    left_out: Counter[str] = Counter()
    assert found(tmp_path, left_out) == ["a/3.png"]
    assert describe_left_out(left_out) == ("" if name.startswith(".") else f"left out: 2 {name}/")


def test_what_is_written_as_no_system_writes_it_is_data(tmp_path: Path) -> None:
    put(tmp_path, "cvs/1.png", "Recycled/2.png")
    assert found(tmp_path) == ["cvs/1.png", "Recycled/2.png"]


@pytest.mark.parametrize(
    "mark",
    [
        "runs/latest",
        "runs/classify/train/args.yaml",
        "runs/train-cls/exp/opt.yaml",
        "venv/pyvenv.cfg",
        "env/pyvenv.cfg",
    ],
)
def test_runs_and_environments_beside_the_classes_are_no_data_and_a_class_of_the_name_is(
    tmp_path: Path, mark: str
) -> None:
    folder = mark.split("/", maxsplit=1)[0]
    put(tmp_path, "cat/1.png", f"{folder}/classify/train/curves.png")
    assert found(tmp_path) == ["cat/1.png", f"{folder}/classify/train/curves.png"]
    (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mark).symlink_to(tmp_path / "cat/1.png")
    left_out: Counter[str] = Counter()
    assert found(tmp_path, left_out) == ["cat/1.png"]
    assert left_out == {f"{folder}/": 1}


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.jfif", ".jpg"), ("b.jpe", ".jpg"), ("c", ".png"), ("d.txt", ".webp"), ("e.dib", ".bmp"), ("f.sun", ".ras")],
)
def test_an_image_is_known_by_its_content_where_the_suffix_says_nothing(tmp_path: Path, name: str, suffix: str) -> None:
    (tmp_path / name).write_bytes(cv2.imencode(suffix, sample_image(1))[1].tobytes())
    assert found(tmp_path, videos=False) == [name]
    (frame,) = open_sources([tmp_path])
    assert frame.image is not None


@pytest.mark.parametrize(
    ("name", "made_as"), [("a.MTS", ".m2ts"), ("b.dat", ".ts"), ("c.3gp", ".3gp"), ("d", ".avi"), ("e.jpg", ".mp4")]
)
def test_a_video_is_known_by_its_content(tmp_path: Path, name: str, made_as: str) -> None:
    made = tmp_path.parent / f"made{made_as}"
    writer = cv2.VideoWriter(str(made), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, (176, 144))
    for number in range(10):
        writer.write(sample_image(number, 144, 176))
    writer.release()
    made.rename(tmp_path / name)
    assert kind_by_content(tmp_path / name) == "video"
    frames = list(open_sources([tmp_path]))
    assert len(frames) == 10
    assert all(frame.video and frame.error is None for frame in frames)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image that OpenCV lacks"),
        (b"8BPS\0\1" + bytes(30), "image that OpenCV lacks"),
        (b"\0\0\0\x1cftypM4A " + bytes(30), "other"),
        (b"\x1f\x07\0\xbf" + bytes(400), "video"),  # raw DV
        (b"RIFF\x24\0\0\0WAVEfmt ", "other"),
        (b"BMW is no bitmap, and PNG no picture", "other"),
        (b"P5 is a printer", "other"),
        (b"Gone is gone" * 100, "other"),
        (b"", "other"),
    ],
)
def test_what_only_begins_alike_is_neither_and_an_image_that_opencv_lacks_is_called_one(
    tmp_path: Path, start: bytes, kind: str
) -> None:
    (tmp_path / "file").write_bytes(start)
    assert kind_by_content(tmp_path / "file") == kind


def test_pipes_are_not_opened_and_a_file_of_a_usual_suffix_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert media_kind(tmp_path / "pipe") == "other"
    monkeypatch.setattr(media_files, "kind_by_content", lambda _: pytest.fail("opened"))
    assert (media_kind(Path("a.JPG")), media_kind(Path("a.mp4")), media_kind(Path("a.CR2"))) == (
        *("image", "video", "other"),
    )


def test_what_is_left_out_is_counted_by_suffix_in_one_line(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    for name in ("a.txt", "b.TXT", "c.xml", "noise", "clip.mp4"):
        (tmp_path / name).write_text("text")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "d.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    left_out: Counter[str] = Counter()
    assert found(tmp_path, left_out, videos=False) == ["1.png"]
    assert describe_left_out(left_out) == (
        "left out: 2 .txt, 1 .heic (this OpenCV can't read it), 1 .mp4, 1 .xml, 1 broken link, 1 without a suffix"
    )
    many = Counter({f".{number}": 1 for number in range(1000)})
    assert describe_left_out(many).endswith(", 992 of other kinds")


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    put(data, "cat/1.png")
    put(store, "dogs/2.png")
    (data / "dog").symlink_to(store / "dogs")
    (data / "cat/up").symlink_to("../..")
    (data / "cat/other").symlink_to(data / "dog")
    (store / "dogs/self").symlink_to(".")
    (store / "dogs/back").symlink_to(data)
    assert found(data) == ["cat/1.png", "cat/other/2.png", "dog/2.png"]
    assert found(data / "cat") == ["1.png", "other/2.png"], "a class never reaches its neighbours by a link up"


def test_a_glob_follows_the_same_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, *(f"{folder}/{number}.png" for folder in ("a", "b", "a/@eaDir", "[c]") for number in range(2)))
    for folder in "ab":  # two loops, which glob itself would follow 2 ** 40 times
        (tmp_path / folder / "up").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert [frame.source for frame in open_sources(["**/1.png"])] == ["[c]/1.png", "a/1.png", "b/1.png"]
    assert len(list(open_sources([f"{tmp_path}/**"]))) == 6
    assert len(list(open_sources([tmp_path / "?/**/0.png", "a/@eaDir/*.png"]))) == 4
    monkeypatch.chdir("/")
    assert len(list(open_sources([f"{tmp_path}/*/*.png"]))) == 6
