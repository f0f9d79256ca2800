import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models.bundles import encode, sample_image

from hybrid_edge.runtime.errors import SourceError, UsageError
from hybrid_edge.runtime.sources import files
from hybrid_edge.runtime.sources.files import open_sources


def names(*patterns: str | Path) -> list[str]:
    return [Path(frame.source).name for frame in open_sources(patterns)]


def errors(*patterns: str | Path) -> list[str]:
    return [frame.error for frame in open_sources(patterns) if frame.error is not None]


def test_an_image_is_one_frame(photos: Path) -> None:
    (frame,) = open_sources([photos / "img3.png"])
    assert (frame.source, frame.index, frame.video, frame.error) == (str(photos / "img3.png"), 0, False, None)
    assert frame.position is None
    np.testing.assert_array_equal(frame.image, sample_image(3, 29, 37))


def test_a_folder_is_read_to_its_depths_in_natural_order_without_hidden_files_and_other_kinds(photos: Path) -> None:
    (photos / "a" / "b").mkdir(parents=True)
    (photos / ".hidden").mkdir()
    for name in ("a/b/deep.PNG", "a/one.jpeg", ".hidden/x.png", "._img1.png"):
        (photos / name).write_bytes(encode(sample_image(1)))
    (photos / "notes.txt").write_text("no image")
    (photos / "folder.png").mkdir()
    (photos / "again").symlink_to(photos)
    assert names(photos) == ["deep.PNG", "one.jpeg", *(f"img{number}.png" for number in range(12))]


def test_globs_match_files_and_whole_folders(photos: Path) -> None:
    (photos / "cats").mkdir()
    (photos / "cats" / "tom.png").write_bytes(encode(sample_image(1)))
    assert names(photos / "img1*.png") == ["img1.png", "img10.png", "img11.png"]
    assert names(photos / "ca*") == ["tom.png"]
    assert names(photos / "**" / "*.png") == ["tom.png", *(f"img{number}.png" for number in range(12))]
    (photos / "img[1].png").write_bytes(encode(sample_image(1)))
    assert names(photos / "img[1].png") == ["img[1].png"]


def test_a_video_and_an_image_are_known_by_content_where_the_suffix_says_nothing(video: Path, tmp_path: Path) -> None:
    shutil.copy(video, tmp_path / "clip")
    (tmp_path / "picture.data").write_bytes(encode(sample_image(1)))
    assert len(names(tmp_path / "clip")) == 20
    assert len(names(tmp_path / "picture.data")) == 1


def test_sources_come_in_the_order_they_were_named(photos: Path, video: Path) -> None:
    found = names(photos / "img5.png", video, photos / "img2.png")
    assert (found[0], found[1], found[-1]) == ("img5.png", "clip.avi", "img2.png")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("bad.png", b"no image", "not an image"),
        ("empty.jpg", b"", "the file is empty"),
        ("bad.mp4", b"no video" * 100, "not a video that OpenCV reads"),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "HEIF, which this OpenCV does not read"),
        ("bad.xyz", b"nothing known", "neither an image nor a video"),
    ],
)
def test_an_unreadable_file_is_a_frame_with_a_reason(photos: Path, name: str, content: bytes, reason: str) -> None:
    (photos / name).write_bytes(content)
    frames = list(open_sources([photos / "img1.png", photos / name, photos / "img2.png"]))
    assert [frame.image is None for frame in frames] == [False, True, False]
    assert reason in str(frames[1].error)
    assert str(photos) not in str(frames[1].error)


def test_a_file_that_goes_away_meanwhile_is_a_frame_with_a_reason(photos: Path) -> None:
    found = open_sources([photos])
    (photos / "img0.png").unlink()
    (photos / "img1.png").unlink()
    assert len(list(found)) == 10
    named = open_sources([photos / "img2.png"])
    (photos / "img2.png").unlink()
    assert "No such file" in str(next(iter(named)).error)


def test_bad_videos_leave_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.mp4").write_bytes(os.urandom(4000))
    (tmp_path / "bad.avi").write_bytes(b"RIFF\0\1\0\0AVI LIST" + bytes(1000))
    assert len(errors(tmp_path / "bad.mp4", tmp_path / "bad.avi")) == 2
    assert capfd.readouterr().err == ""


def test_every_source_is_validated_before_the_first_is_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "read_image", lambda _: pytest.fail("read before validation"))
    with pytest.raises(SourceError, match="missing"):
        open_sources([photos, photos / "missing.png"])


def test_a_source_that_gives_nothing_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("no image")
    with pytest.raises(SourceError, match="found nothing of that name"):
        open_sources([tmp_path / "missing"])
    for name in ("rtsp:/anna:geheim@host/a", "rtsp//anna:ge?im@host/a", "anna:ge*m@host", "rtsp://anna:geheim@host/a"):
        with pytest.raises((SourceError, UsageError)) as caught:
            open_sources([name])
        assert "anna" not in str(caught.value)
        assert "host" in str(caught.value)
    for folder, besides in (("empty", "it holds no file"), ("text", "left out: 1 .txt")):
        with pytest.raises(SourceError, match=f"found none that OpenCV reads; {besides}"):
            open_sources([tmp_path / folder])
    for pattern in ("*.gif", "empt*", "**/*.png"):
        with pytest.raises(SourceError, match="found none that match"):
            open_sources([tmp_path / pattern])
    with pytest.raises(UsageError, match="at least one source"):
        open_sources([])


@pytest.mark.parametrize("source", ["rtsp://camera/1", "http://host/clip.mp4", "0", "/dev/video0"])
def test_a_live_source_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="does not read live sources"):
        open_sources([source])


def test_the_total_is_known_of_images_read_again_and_not_of_a_video(photos: Path, video: Path) -> None:
    found = open_sources([photos, photos / "img1.png"])
    assert found.total == len(list(found)) == len(list(found)) == 13
    assert open_sources([photos, video]).total is None


def test_only_one_frame_is_decoded_ahead(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = files.read_image
    monkeypatch.setattr(files, "read_image", lambda path: read.append(path) or real(path))
    frames = iter(open_sources([photos]))
    next(frames)
    next(frames)
    assert len(read) == 2


def deny(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let a folder be one that may not be looked into: root, who runs these tests, may look into all."""
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_a_folder_that_may_not_be_looked_into_is_a_frame_with_a_reason_and_the_rest_is_read(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "closed").mkdir()
    deny(monkeypatch, photos / "closed")
    found = open_sources([photos])
    frames = list(found)
    assert (len(frames), found.total) == (13, 13)
    (unread,) = (frame for frame in frames if frame.image is None)
    assert unread.source == str(photos / "closed")
    assert unread.error == "the folder can't be read: Permission denied"


def test_a_folder_that_is_moved_away_meanwhile_is_a_frame_with_a_reason(photos: Path) -> None:
    for name in ("a", "b"):
        (photos / name).mkdir()
        (photos / name / "one.png").write_bytes(encode(sample_image(1)))
    frames = iter(open_sources([photos]))
    assert next(frames).source == str(photos / "a" / "one.png")
    (photos / "b").rename(photos.parent / "elsewhere")
    left = list(frames)
    assert (left[0].source, len(left)) == (str(photos / "b"), 13)
    assert left[0].error == "the folder can't be read: No such file or directory"


def test_a_link_that_leads_to_itself_is_a_frame_with_a_reason(photos: Path) -> None:
    (photos / "loop.png").symlink_to("loop.png")
    (error,) = errors(photos)
    assert "symbolic links" in error


def test_a_source_that_can_not_be_looked_at_is_refused_why(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="n: can't be read: File name too long"):
        open_sources(["n" * 300])
    with pytest.raises(SourceError, match="found none that match"):
        open_sources(["n" * 300 + "*"])
    with pytest.raises(SourceError, match="found nothing of that name"):
        open_sources([photos / "img1.png" / "below"])
    deny(monkeypatch, photos)
    with pytest.raises(SourceError, match="photos: the folder can't be read: Permission denied"):
        open_sources([photos])
    monkeypatch.setattr(Path, "stat", lambda path: os.scandir(path.parent))
    with pytest.raises(SourceError, match=r"img1\.png: can't be read: Permission denied"):
        open_sources([photos / "img1.png"])


@pytest.mark.parametrize("name", ["", " ", "\t\n"])
def test_an_empty_name_is_not_the_current_folder(name: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photos.rename(photos.with_name("7"))  # also the name of a camera
    monkeypatch.chdir(photos.parent)
    with pytest.raises(UsageError, match="found an empty one"):
        open_sources(["7", name])
    assert len(names(".")) == len(names("7")) == 12


def test_a_video_whose_name_is_not_utf8_is_a_frame_with_a_reason(photos: Path, video: Path) -> None:
    """In a process of its own, which the fault would crash."""
    shutil.copy(video, os.fsencode(photos) + b"/caf\xe9.avi")
    shutil.copy(photos / "img1.png", os.fsencode(photos) + b"/caf\xe9.png")
    code = (
        "import sys; from hybrid_edge.runtime.sources.files import open_sources\n"
        "for frame in open_sources(sys.argv[1:]): print(ascii(frame.source), frame.image is None, frame.error)"
    )
    ran = subprocess.run([sys.executable, "-c", code, photos], capture_output=True, text=True, check=True)
    lines = ran.stdout.splitlines()
    assert len(lines) == 14
    assert [line for line in lines if "True" in line] == [
        f"'{photos}/caf\\udce9.avi' True its name is not UTF-8: rename it"
    ]
