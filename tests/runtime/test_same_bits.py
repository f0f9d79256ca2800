"""Decoding and preprocessing are the same to the bit on every machine: tests/data/same_bits.json was recorded on x86.

``python tests/runtime/test_same_bits.py`` records it anew, where the contract of preprocessing has changed.
"""

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from hybrid_edge.runtime.frame import Pixels
from hybrid_edge.runtime.opencv import cv2
from hybrid_edge.runtime.preprocess import Preprocessor, decode_image
from hybrid_edge.runtime.spec import ModelSpec

RECORD = Path(__file__).parents[1] / "data" / "same_bits.json"
SPECS = {
    "stretch": ModelSpec(image_size=299, timesteps=23, class_labels=("a", "b")),
    "letterbox": ModelSpec(image_size=71, timesteps=71, resize="letterbox", class_labels=("a", "b")),
    "center-crop": ModelSpec(
        image_size=28, timesteps=28, backbone="digits", resize="center-crop", class_labels=("a", "b")
    ),
    "nearest": ModelSpec(image_size=128, timesteps=64, interpolation="nearest-exact", class_labels=("a", "b")),
    "patches, torch": ModelSpec(
        image_size=64, timesteps=16, backbone="densenet121", scaling="torch", sequence_order="patches"
    ),
    "caffe bgr": ModelSpec(image_size=64, branches="adopted", scaling="caffe", channels="bgr"),
    "gray": ModelSpec(image_size=64, branches="adopted", scaling="unit", channels="gray"),
}
SIZES = ((720, 1280), (480, 640), (300, 299), (31, 57), (1, 5000), (5, 3))
UPRIGHT = "444.jpg"  # the file that is held in all eight ways that EXIF knows


def frame_of(height: int, width: int, dtype: type = np.uint8) -> npt.NDArray[Any]:
    """A BGR picture of gradients, waves and edges, from whole numbers alone."""
    y, x, channel = np.mgrid[:height, :width, :3]
    return np.asarray((3 * x + 5 * y + 70 * channel + x * y // 7) * (257 if dtype is np.uint16 else 1)).astype(dtype)


def held(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF segment that says how the camera was held."""
    body = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def digest(array: npt.NDArray[Any]) -> str:
    content = f"{array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes()
    return hashlib.sha256(content).hexdigest()[:32]


def hashes(frame: Pixels) -> dict[str, str]:
    """Of the frame itself, and of what each spec makes of it."""
    found = {"decoded": digest(frame)}
    for name, spec in SPECS.items():
        found |= {f"{name} {key}": digest(tensor) for key, tensor in Preprocessor(spec)([frame]).items()}
    return found


def files_of(record: dict[str, Any]) -> dict[str, bytes]:
    files = {name: base64.b64decode(text) for name, text in record["files"].items()}
    return files | {f"exif-{number}.jpg": held(files[UPRIGHT], number) for number in range(1, 9)}


RECORDED: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {"files": {}, "hashes": {}}
FILES = files_of(RECORDED) if RECORDED["files"] else {}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_the_recorded_pixels_and_tensors(name: str) -> None:
    assert hashes(decode_image(FILES[name], name)) == RECORDED["hashes"][name]


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_any_size_gives_the_recorded_tensors(size: tuple[int, int]) -> None:
    assert hashes(frame_of(*size)) == RECORDED["hashes"][f"{size[0]}x{size[1]}"]


def test_the_eight_orientations_and_every_kind_of_file_were_recorded() -> None:
    assert {name.rpartition(".")[2] for name in FILES} == {"jpg", "png", "webp", "tiff", "bmp", "ppm"}
    assert len({RECORDED["hashes"][f"exif-{number}.jpg"]["decoded"] for number in range(1, 9)}) == 8


def record() -> None:
    from PIL import Image

    frame, deep = frame_of(36, 50), frame_of(20, 30, np.uint16)
    made = {
        UPRIGHT: (frame, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]),
        "420.jpg": (frame, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]),
        "progressive.jpg": (frame, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, 60]),
        "gray.jpg": (frame[..., 0], []),
        "rgb.png": (frame, []),
        "alpha.png": (np.dstack([frame, frame[..., 1]]), []),
        "gray16.png": (deep[..., 0], []),
        "deep.png": (deep, []),
        "lossy.webp": (frame, [cv2.IMWRITE_WEBP_QUALITY, 70]),
        "lossless.webp": (frame, [cv2.IMWRITE_WEBP_QUALITY, 101]),
        "rgb.tiff": (frame, []),
        "deep.tiff": (deep, []),
        "rgb.bmp": (frame[:12, :15], []),
        "rgb.ppm": (frame[:12, :15], []),
    }
    files = {name: cv2.imencode(f".{name.rpartition('.')[2]}", *item)[1].tobytes() for name, item in made.items()}
    for name, mode in (("cmyk.jpg", "CMYK"), ("palette.png", "P")):
        Image.fromarray(frame[..., ::-1]).convert(mode).save(path := RECORD.with_name(name))
        files[name] = path.read_bytes()
        path.unlink()
    content: dict[str, Any] = {"files": {name: base64.b64encode(data).decode() for name, data in files.items()}}
    frames = {name: decode_image(data, name) for name, data in files_of(content).items()}
    frames |= {f"{height}x{width}": frame_of(height, width) for height, width in SIZES}
    content["hashes"] = {name: hashes(item) for name, item in frames.items()}
    RECORD.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    record()
