import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from support.models.bundles import encode, sample_image

from hybrid_edge.runtime.errors import ImageError, OversizedError
from hybrid_edge.runtime.opencv import MAX_PIXELS, cv2
from hybrid_edge.runtime.preprocess import decode_image, read_image

OPENCV = tuple(int(part) for part in cv2.__version__.split(".")[:2])
# 4x4, two frames: red, then blue (written by Pillow)
ANIMATED_GIF = bytes.fromhex(
    "47494638396104000400810000ff000000000000000000000021f904000a0000002c00000000040004000008090001081c48b02080800021f9"
    "04010a0001002c0000000004000400810000ff00000000000000000008090001081c48b0208080003b"
)


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    """A PNG chunk, with a false length where one is given."""
    claimed = len(data) if length is None else length
    return struct.pack(">I", claimed) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF segment that says how the camera was held."""
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_formats_give_the_frame_back(suffix: str) -> None:
    frame = sample_image(1)
    np.testing.assert_array_equal(decode_image(encode(frame, suffix)), frame)


def test_the_exif_orientation_is_applied() -> None:
    jpeg = encode(sample_image(1, 40, 64), ".jpg")
    upright = decode_image(jpeg)
    np.testing.assert_array_equal(decode_image(with_orientation(jpeg, 6)), np.rot90(upright, -1))
    np.testing.assert_array_equal(decode_image(with_orientation(jpeg, 3)), upright[::-1, ::-1])


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_alpha_is_dropped_without_blending(suffix: str) -> None:
    frame = np.dstack([sample_image(1), np.zeros((24, 32), np.uint8)])
    np.testing.assert_array_equal(decode_image(encode(frame, suffix)), frame[..., :3])


def test_gray_is_repeated_over_three_channels() -> None:
    gray = sample_image(1)[..., 0]
    np.testing.assert_array_equal(decode_image(encode(gray)), np.repeat(gray[..., None], 3, axis=2))


@pytest.mark.parametrize(("suffix", "rounding"), [(".png", 0), (".tiff", 1)])
def test_16_bit_samples_keep_their_high_byte(suffix: str, rounding: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, size=(9, 11, 3), dtype=np.uint16)
    difference = decode_image(encode(deep, suffix)).astype(int) - (deep >> 8)
    assert np.abs(difference).max() <= rounding
    gray = decode_image(encode(deep[..., 0], suffix))[..., 0]
    np.testing.assert_array_equal(gray, deep[..., 0] >> 8)


@pytest.mark.skipif(OPENCV < (4, 11), reason="OpenCV reads GIF from 4.11 on")
def test_of_an_animated_gif_the_first_frame_counts() -> None:
    assert decode_image(ANIMATED_GIF)[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_truncated_image_is_refused(suffix: str, part: float) -> None:
    data = encode(sample_image(1, 120, 160), suffix)
    with pytest.raises(ImageError, match="photo"):
        decode_image(data[: int(len(data) * part)], "photo")


def test_a_truncated_jpeg_padded_with_zeros_is_refused() -> None:
    data = encode(sample_image(1, 120, 160), ".jpg")
    with pytest.raises(ImageError, match="truncated JPEG"):
        decode_image(data[: len(data) // 2] + bytes(len(data) // 2))


def test_a_truncated_jpeg_is_refused_also_where_a_thumbnail_ends_in_its_header() -> None:
    data = encode(sample_image(1, 120, 160), ".jpg")
    thumbnail = encode(sample_image(1, 8, 8), ".jpg")
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + segment + data[2:]
    np.testing.assert_array_equal(decode_image(whole), decode_image(data))
    with pytest.raises(ImageError, match="truncated JPEG"):
        decode_image(whole[: len(segment) + len(data) // 2])


def test_a_jpeg_with_fill_bytes_and_a_trailer_is_read() -> None:
    data = encode(sample_image(1), ".jpg")
    padded = data[:2] + b"\xff\xff\xff" + data[2:] + b"camera's own notes"
    np.testing.assert_array_equal(decode_image(padded), decode_image(data))


def test_a_flipped_bit_in_a_pngs_pixels_is_refused() -> None:
    data = bytearray(encode(sample_image(1)))
    data[data.index(b"IDAT") + 20] ^= 1
    with pytest.raises(ImageError, match="checksum of chunk b'IDAT' differs"):
        decode_image(bytes(data))


def test_a_png_with_a_false_chunk_length_is_refused_before_it_is_believed() -> None:
    bomb = png(1000, 1000, chunk(b"IDAT", b"x", length=0x7FFFFFFF))
    with pytest.raises(ImageError, match="claims 2147483647 bytes"):
        decode_image(bomb)


def test_a_small_file_that_unpacks_to_too_many_pixels_is_refused() -> None:
    side = 20_000
    pixels = zlib.compress(bytes((side // 8 + 1) * side))
    bomb = png(side, side, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    assert len(bomb) < 100_000
    with pytest.raises(OversizedError, match=f"at most {MAX_PIXELS} pixels, found {side * side}"):
        decode_image(bomb)


def test_a_jpeg_that_claims_too_many_pixels_is_refused() -> None:
    data = bytearray(encode(sample_image(1), ".jpg"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageError, match="found 4294836225"):
        decode_image(bytes(data))


def test_opencv_refuses_too_many_pixels_in_every_other_format_too() -> None:
    code = """
import struct
from hybrid_edge.runtime.preprocess import decode_image
header = struct.pack("<IHHIIiiHHIIiiII", 10**9, 0, 0, 54, 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0)
decode_image(b"BM" + header + bytes(5000))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImageError: image: refused by the decoder" in done.stderr


@pytest.mark.parametrize(
    "data", [b"no image at all", bytes(1000), b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF1234WEBP"]
)
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match="some file"):
        decode_image(data, "some file")


def test_random_bytes_and_random_damage_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    originals = [encode(sample_image(1), suffix) for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp")]
    for number in range(300):
        data = bytearray(originals[number % 5])
        for place in rng.integers(0, len(data), size=3):
            data[place] = rng.integers(0, 256)
        try:
            frame = decode_image(bytes(data))
        except ImageError:
            continue
        assert frame.ndim == 3
        assert frame.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.png", r"empty\.png: the file is empty"),
        (".", "found a folder"),
        ("missing.png", "No such file"),
        ("a\0b", "null character"),
        ("/dev/zero", "a device, pipe or socket"),
        ("pipe", "a device, pipe or socket"),
        ("huge.png", "at most"),
    ],
)
def test_a_path_that_is_no_readable_file_is_refused_with_the_reason(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match=message):
        read_image(tmp_path / name)


def test_bad_images_leave_nothing_on_stderr(tmp_path: Path) -> None:
    suffixes = (".png", ".jpg", ".tiff", ".webp", ".bmp")[: None if OPENCV >= (4, 12) else -1]  # before, OpenCV prints
    whole = {suffix: encode(sample_image(1, 120, 160), suffix) for suffix in suffixes}
    for suffix, data in whole.items():
        (tmp_path / f"short{suffix}").write_bytes(data[: len(data) // 2])
    (tmp_path / "random.png").write_bytes(bytes(range(256)))
    code = """
import sys
from pathlib import Path
from hybrid_edge.runtime.errors import ImageError, OversizedError
from hybrid_edge.runtime.preprocess import read_image
for path in Path(sys.argv[1]).iterdir():
    try:
        read_image(path)
    except ImageError:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("refused") == len(whole) + 1
    assert done.stderr == ""
