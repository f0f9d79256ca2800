"""The table of docs/preprocessing.md, a test or a row of one for each of its lines; Pillow writes what OpenCV can't."""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hybrid_edge.runtime.errors import ImageError
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.preprocess import decode_image

Image = pytest.importorskip("PIL.Image", reason="Pillow writes the pictures")
needs_avif = pytest.mark.skipif(not cv2.haveImageWriter("picture.avif"), reason="this OpenCV reads no AVIF")

Array = npt.NDArray[Any]
# red, green, blue and white quarters: each way of turning and mirroring them is another picture
QUARTERS = np.zeros((40, 60, 3), np.uint8)
QUARTERS[:20, :30], QUARTERS[:20, 30:], QUARTERS[20:, :30], QUARTERS[20:, 30:] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
)
UPRIGHT = {  # EXIF's orientation -> what undoes it, of an array
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: np.rot90(shown, -1),
    7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


EXACT: dict[str, dict[str, Any]] = {  # with no colour smeared over its neighbours
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}


def written(kind: str, mode: str = "RGB", frames: int = 1, **options: Any) -> bytes:
    """The quarters as Pillow writes them; further frames of an animation are black."""
    picture = Image.fromarray(QUARTERS).convert(mode)
    options |= EXACT.get(kind, {})
    if frames > 1:
        options |= {"save_all": True, "append_images": [Image.new(mode, picture.size)] * (frames - 1)}
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def rgb(data: bytes) -> Array:
    return decode_image(data)[..., ::-1]


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", pytest.param("AVIF", marks=needs_avif)])
def test_a_picture_is_shown_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    np.testing.assert_allclose(rgb(written(kind, exif=exif)), UPRIGHT[orientation](QUARTERS), atol=2)


@needs_avif
def test_an_avif_to_be_cropped_is_refused() -> None:
    data = written("AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0")
    assert data.count(b"irot") == 1
    with pytest.raises(ImageError, match=r"photo: expected a whole picture, found one to be cropped \(clap\)"):
        decode_image(data.replace(b"irot", b"clap"), "photo")


@needs_avif
def test_an_avif_that_claims_too_many_pixels_is_refused() -> None:
    data = written("AVIF")
    size = data.index(b"ispe") + 8
    with pytest.raises(ImageError, match="found 4294836225"):
        decode_image(data[:size] + struct.pack(">II", 65535, 65535) + data[size + 8 :])


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_an_animation_and_of_pages_the_first_counts(kind: str) -> None:
    old = kind == "WEBP" and tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 11)
    if old or not cv2.haveImageWriter(f"picture.{kind.lower()}"):
        pytest.skip(f"this OpenCV reads no {kind}")
    np.testing.assert_allclose(rgb(written(kind, frames=3)), QUARTERS, atol=2)


@pytest.mark.parametrize(
    ("kind", "mode", "tolerance"),
    [
        ("JPEG", "CMYK", 3),
        ("TIFF", "CMYK", 1),
        ("PNG", "P", 0),
        ("PNG", "RGBA", 0),
        ("WEBP", "RGBA", 0),
        ("JPEG2000", "RGB", 0),
        ("JPEG2000", "RGBA", 0),
        pytest.param("AVIF", "RGBA", 2, marks=needs_avif),
    ],
)
def test_other_kinds_of_colour_come_out_as_rgb(kind: str, mode: str, tolerance: int) -> None:
    np.testing.assert_allclose(rgb(written(kind, mode)), QUARTERS, atol=tolerance)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG", pytest.param("AVIF", marks=needs_avif)])
def test_gray_is_repeated_over_three_channels_whatever_holds_it(kind: str, mode: str) -> None:
    if (kind, mode) in {("PPM", "LA"), ("JPEG", "LA")}:
        pytest.skip(f"{kind} holds no alpha")
    gray = np.asarray(Image.fromarray(QUARTERS).convert(mode).convert("L"))
    found = rgb(written(kind, mode))
    np.testing.assert_allclose(found, np.repeat(gray[..., None], 3, axis=2), atol=3 if kind in {"JPEG", "AVIF"} else 0)


@needs_avif
@pytest.mark.parametrize("depth", [10, 12])
def test_more_than_8_bits_of_an_avif_are_rounded(depth: int) -> None:
    deep = QUARTERS.astype(np.uint16) << (depth - 8)
    coded = cv2.imencode(".avif", deep, [cv2.IMWRITE_AVIF_DEPTH, depth, cv2.IMWRITE_AVIF_QUALITY, 100])[1]
    np.testing.assert_allclose(decode_image(coded.tobytes()), QUARTERS, atol=2)


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1hevc", "HEIF"),
        (b"\0\0\0\x18ftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"8BPS\0\1", "Photoshop"),
        (b"GIF89a", "GIF"),
        (b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\2", "animated WebP"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
    ],
)
def test_a_format_that_opencv_does_not_read_is_named(start: bytes, named: str) -> None:
    with pytest.raises(ImageError, match=rf"photo: {named}, which this OpenCV does not read.*magick"):
        decode_image(start + bytes(200), "photo")


@needs_avif
def test_damage_anywhere_in_an_avifs_boxes_is_an_image_or_an_image_error() -> None:
    data = written("AVIF", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x05\0\0\0\0\0\0\0")
    boxes = data.index(b"mdat")
    for place in range(boxes):
        for value in (0, 1, 0x7F, 0xFF):
            damaged = data[:place] + bytes([value]) + data[place + 1 :]
            try:
                assert decode_image(damaged).dtype == np.uint8
            except ImageError:
                continue
    for length in range(boxes):
        with pytest.raises(ImageError):
            decode_image(data[:length])
