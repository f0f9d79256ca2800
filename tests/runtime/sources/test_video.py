from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.data.recordings import write_clip
from support.models.bundles import sample_image

from hybrid_edge.runtime.frame import Pixels
from hybrid_edge.runtime.sources.containers import read_container
from hybrid_edge.runtime.sources.files import open_sources
from hybrid_edge.runtime.sources.video import _position

FRAMES = 20


def test_a_video_gives_every_frame_in_order(video: Path) -> None:
    frames = list(open_sources([video]))
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert all(frame.video for frame in frames)
    means = [float(frame.image.mean()) for frame in frames if frame.image is not None]
    np.testing.assert_allclose(means, np.arange(FRAMES) * 10 + 20, atol=3)
    np.testing.assert_allclose([frame.position for frame in frames], np.arange(FRAMES) / 10, atol=1e-3)


CONTAINERS = [  # OpenCV writes each by itself, MP4 with its index last
    ("mp4", "mp4v"),
    ("3gp", "mp4v"),
    ("mov", "MJPG"),
    ("mkv", "MJPG"),
    ("avi", "MJPG"),
    ("flv", "FLV1"),
    ("wmv", "WMV2"),
    ("ts", "mp4v"),
]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_a_video_that_is_cut_gives_its_frames_and_is_told(
    suffix: str, codec: str, share: float, frames: list[Pixels], tmp_path: Path
) -> None:
    path = write_clip(tmp_path / f"clip.{suffix}", frames, codec=codec)
    data = path.read_bytes()
    assert [frame.error for frame in open_sources([path])] == [None] * FRAMES
    path.write_bytes(data[: int(len(data) * share)])
    *readable, last = open_sources([path])
    assert all(frame.error is None for frame in readable)
    assert (suffix not in {"mp4", "3gp", "mov"}) <= len(readable) < (FRAMES if share == 0.5 else FRAMES + 1)
    assert f"the file is cut, {path.stat().st_size:,} of at least " in str(last.error)
    assert int(str(last.error).split("at least ")[1].split()[0].replace(",", "")) <= len(data)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "mp4v"), ("mkv", "MJPG"), ("avi", "MJPG")])
def test_a_video_whose_space_was_reserved_and_not_filled_is_told(
    suffix: str, codec: str, frames: list[Pixels], tmp_path: Path
) -> None:
    path = write_clip(tmp_path / f"clip.{suffix}", frames, rate=10, codec=codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2].ljust(len(data), b"\0"))
    error = str(list(open_sources([path]))[-1].error)
    assert ("its index (moov) is missing" if suffix == "mp4" else "the end of the file is empty") in error


def test_what_follows_a_whole_video_and_a_size_that_is_a_little_off_are_no_cut(video: Path, tmp_path: Path) -> None:
    data = bytearray(video.read_bytes())
    data[4:8] = len(data).to_bytes(4, "little")  # 8 too many, as some writers have it
    (tmp_path / "sized.avi").write_bytes(data)
    (tmp_path / "unsized.avi").write_bytes(data[:4] + b"\xff" * 4 + data[8:])  # written into a pipe
    (tmp_path / "followed.avi").write_bytes(video.read_bytes() + b"free as in beer" * 99)
    assert [frame.error for frame in open_sources([tmp_path])] == [None] * 3 * FRAMES


TWO_SECONDS = "-f lavfi -i testsrc2=size=64x48:rate=30:duration=2"
EVERY_20TH = "select=lt(n\\,3)+not(mod(n\\,20))+eq(n\\,59)"
H264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("sound.mkv", f"{TWO_SECONDS} -f lavfi -i sine=duration=6 -c:v mpeg4 -c:a aac", 60),
        ("sound.ts", f"{TWO_SECONDS} -f lavfi -i sine=duration=6 -c:v mpeg4 -c:a aac", 60),
        (
            "fragments.mp4",
            f"{TWO_SECONDS} -f lavfi -i sine=duration=6 -c:v mpeg4 -movflags empty_moov+frag_keyframe",
            60,
        ),
        ("late.mkv", f"{TWO_SECONDS} -c:v mpeg4 -output_ts_offset 7", 60),
        ("varying.mkv", f"{TWO_SECONDS} -vf {EVERY_20TH} -vsync vfr -c:v mpeg4", 6),
        ("interlaced.mpg", f"{TWO_SECONDS} -c:v mpeg2video -flags +ilme+ildct", 60),
        ("odd.mkv", "-f lavfi -i testsrc2=size=33x31:rate=30:duration=2 -c:v ffv1", 60),
        ("ten_bits.mkv", f"{TWO_SECONDS} -c:v libx265 -x265-params log-level=none -pix_fmt yuv420p10le", 60),
        ("index_first.mov", f"{TWO_SECONDS} {H264} -movflags faststart", 60),
        ("bare.h264", f"{TWO_SECONDS} {H264}", 60),
        ("bare.mjpeg", f"{TWO_SECONDS} -c:v mjpeg -pix_fmt yuvj420p", 60),
        ("camera.MTS", f"{TWO_SECONDS} {H264} -mpegts_m2ts_mode 1 -f mpegts", 60),
    ],
)
def test_a_whole_video_of_any_kind_ends_without_an_error(name: str, options: str, count: int, tmp_path: Path) -> None:
    ffmpeg(*options.split(), tmp_path / name)
    assert [frame.error for frame in open_sources([tmp_path])] == [None] * count


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
def test_a_video_that_was_trimmed_without_encoding_anew_is_whole(suffix: str, tmp_path: Path) -> None:
    ffmpeg(*TWO_SECONDS.replace("=2", "=4").split(), *H264.split(), "-g", "300", "-bf", "2", tmp_path / "long.mp4")
    path = tmp_path / f"trimmed.{suffix}"
    ffmpeg("-ss", "3", "-i", tmp_path / "long.mp4", "-t", "0.5", "-c", "copy", path)
    frames = list(open_sources([path]))
    assert len(frames) >= 15
    assert not any(frame.error for frame in frames)


def ffmpeg(*options: str | Path) -> None:
    """Run ffmpeg; skip where there is none, or one without the encoder."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg to make the video")
    made = subprocess.run(["ffmpeg", "-loglevel", "error", *options], check=False, capture_output=True, text=True)
    if "Unknown encoder" in made.stderr:
        pytest.skip(made.stderr.strip())
    assert made.returncode == 0, made.stderr


def turn(path: Path, *matrix: int) -> Path:
    """Give an MP4's pictures a matrix: a, b, c, d of ISO 14496-12."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (number << 16 for number in matrix)
    struct.pack_into(">5i", data, data.index(b"tkhd") + 44, a, b, 0, c, d)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda image: image[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_pictures_are_turned_and_mirrored_as_the_container_says(
    matrix: tuple[int, ...], turned: Callable[[Pixels], Pixels], tmp_path: Path
) -> None:
    path = write_clip(tmp_path / "clip.mp4", [sample_image(1, 48, 64)] * 2, codec="mp4v")
    (upright, _) = (frame.image for frame in open_sources([path]))
    (image, _) = (frame.image for frame in open_sources([turn(path, *matrix)]))
    assert upright is not None
    assert image is not None
    np.testing.assert_array_equal(image, turned(upright))


@pytest.mark.parametrize(
    ("suffix", "written", "codec", "error"),
    [
        ("mov", b"jpeg", b"av01", "its codec AV1 can't be decoded by this OpenCV; convert it: ffmpeg -i "),
        (
            "mov",
            b"jpeg",
            b"zzzz",
            "its codec zzzz can't be decoded by this OpenCV, or it is damaged or has no key frame; convert it: ",
        ),
        (
            "mkv",
            b"V_MJPEG",
            b"V_MJPEX",
            "its codec V_MJPEX can't be decoded by this OpenCV, or it is damaged or has no key frame; ",
        ),
        (
            "avi",
            b"MJPG",
            b"QQQQ",
            "its codec QQQQ can't be decoded by this OpenCV, or it is damaged or has no key frame; convert it: ",
        ),
        ("mov", b"vide", b"soun", "not a video that OpenCV reads: damaged, or sound alone"),
    ],
)
def test_a_codec_that_opencv_lacks_is_named_with_what_to_do(
    suffix: str, written: bytes, codec: bytes, error: str, frames: list[Pixels], tmp_path: Path
) -> None:
    path = write_clip(tmp_path / f"my clip.{suffix}", frames, codec="MJPG")
    path.write_bytes(path.read_bytes().replace(written, codec))
    (frame,) = open_sources([path])
    assert str(frame.error).startswith(error)
    if "convert" in error:
        assert str(frame.error).endswith(f" -i '{path}' -c:v libx264 '{tmp_path}/my clip-h264.mp4'")


def test_a_video_of_av1_is_named(tmp_path: Path) -> None:
    source = TWO_SECONDS.replace("64x48", "64x64").split()
    ffmpeg(*source, "-frames:v", "3", "-c:v", "libsvtav1", "-preset", "12", tmp_path / "clip.webm")
    (frame,) = open_sources([tmp_path / "clip.webm"])
    assert "its codec AV1 can't be decoded by this OpenCV" in str(frame.error)


def test_a_video_of_which_nothing_can_be_decoded_is_told_as_such(frames: list[Pixels], tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames, codec="mp4v")
    data = path.read_bytes()
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    (frame,) = open_sources([path])
    assert frame.error == "none of its frames can be decoded (codec mp4v): it is damaged, or has no key frame"


@pytest.mark.parametrize(
    "content",
    [
        b"\0\0\0\x08free" * 140_000,
        (2**31).to_bytes(4, "big") + b"moov" + b"tkhdhdlr" * 300_000,
        b"FLV\x01\0\x08filesize\0\x7f\xf0\0\0\0\0\0\0",
        b"\x1a\x45\xdf\xa3\0" * 40,
        b"\0\0\0\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
    ids=["boxes", "tracks", "infinite", "elements", "endless"],
)
def test_what_only_looks_like_a_container_costs_no_time_and_ends_in_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(content)
    assert read_container(tmp_path / "bad.mp4").size == len(content)
    assert next(iter(open_sources([tmp_path / "bad.mp4"]))).error


@pytest.mark.parametrize(
    ("reached", "rate", "positions"),
    [
        ([0, 0.1, 0.5], 10, [0, 0.1, 0.5]),  # of a varying rate
        ([0, 0, 0], 10, [0, 0.1, 0.2]),
        ([0, 0, 0], 0, [None, None, None]),
        ([0, 0.2, 0.1, 0.3], 10, [0, 0.2, 0.2, 0.3]),
        ([-1e15, float("nan"), float("inf")], 10, [0, 0.1, 0.2]),
        ([0, 1, 2], 0, [None, 1, 2]),
    ],
)
def test_a_position_comes_from_the_container_or_the_rate_and_never_goes_back(
    reached: list[float], rate: float, positions: list[float | None]
) -> None:
    found: list[float | None] = []
    for index, moment in enumerate(reached):
        capture = SimpleNamespace(get=lambda _: rate)
        found.append(_position(capture, index, moment, found[-1] if found else None))
    assert found == positions
