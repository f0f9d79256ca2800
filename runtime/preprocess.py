"""This is the only code that turns pixels into tensors, in training, calibration, export and on the device.

The contract, version 1 (written into every bundle, see ``contract``):

- A file is decoded to BGR uint8 by ``decode_image``: EXIF orientation is applied (in AVIF, its own in place of that),
  an alpha channel is dropped without blending, gray is repeated over three channels, 16-bit samples keep their high
  byte (a TIFF in colour rounds to the nearest), and of an animation or a multi-page file the first image counts.
- The resize policy brings a frame of any size to S x S. ``stretch`` ignores the aspect ratio, ``center-crop`` takes the
  largest centred square, ``letterbox`` keeps the whole frame and pads with 128, whose scaled value is nearest to 0.
- Interpolation is OpenCV's ``INTER_LINEAR_EXACT`` (or ``INTER_NEAREST_EXACT``), the same to the bit on x86 and ARM.
- ``image``: RGB, float32, x / 127.5 - 1 as ``keras.applications.xception.preprocess_input`` computes it; or BGR, or
  gray by the weights of ITU-R BT.601; scaled in another way where the spec says so (``scaled_values``).
- ``sequence``: mean of the three scaled channels, row-major, T steps of S*S/T; or T patches of a grid, each row-major.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ImageError
from .frame import Pixels, check_pixels
from .image_headers import PNG_SIGNATURE, check_header, own_turns, unread_format
from .opencv import MAX_PIXELS, cv2
from .spec import Channels, ModelSpec, Scaling

Tensor = npt.NDArray[np.float32]

# GIF needs OpenCV 4.11; where it is older such a file is reported as unreadable
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"})
LETTERBOX_VALUE = 128
INTERPOLATIONS = {"linear-exact": cv2.INTER_LINEAR_EXACT, "nearest-exact": cv2.INTER_NEAREST_EXACT}
SCALINGS: dict[Scaling, str] = {
    "xception": "x / 127.5 - 1",
    "unit": "x / 255",
    "torch": "(x / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225), of red, green, blue",
    "caffe": "x - (123.68, 116.779, 103.939), of red, green, blue",
    "raw": "x",
}
CHANNEL_ORDERS: dict[Channels, str] = {"rgb": "RGB", "bgr": "BGR", "gray": "gray: 0.299 R + 0.587 G + 0.114 B"}
TORCH_MEAN, TORCH_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN = (123.68, 116.779, 103.939)
CHANNEL_MEAN = np.full((1, 3), 1.0 / 3.0, dtype=np.float32)
# TIFF, PGM, PPM and JPEG 2000 may have 16 bits
DEEP_STARTS = (b"II*\0", b"MM\0*", b"P2", b"P3", b"P5", b"P6", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
MAX_FILE_SIZE = 2**30 + 2**20  # 1 GiB: MAX_PIXELS of uncompressed 16-bit RGBA, and its header


def contract(spec: ModelSpec) -> dict[str, Any]:
    """Return what preprocessing does for this spec, as the plain values that a bundle's manifest records."""
    content = {
        "version": 1,
        "decode": "BGR uint8; EXIF orientation applied; alpha dropped; gray repeated; 16-bit keeps the high byte",
        "image_size": spec.image_size,
        "resize": spec.resize,
        "letterbox_value": LETTERBOX_VALUE,
        "interpolation": spec.interpolation,
        "channel_order": CHANNEL_ORDERS[spec.channels],
        "scaling": SCALINGS[spec.scaling],
    }
    if spec.adopted:
        return content
    return content | {
        "grayscale": "mean of the scaled channels",
        "timesteps": spec.timesteps,
        "order": "row-major" if spec.sequence_order == "rows" else "a grid of patches, row-major within and between",
    }


def scaled_values(scaling: Scaling, channels: Channels = "rgb") -> Tensor:
    """Return what each pixel value 0 to 255 becomes, (256, C) float32, C the channels in their order, 3 or 1.

    ``xception``, ``torch`` and ``caffe`` are the modes of Keras's ``preprocess_input`` (tf, torch, caffe), whose order
    of operations is kept in float32, so that the table equals it to the bit; ``unit`` is x / 255, ``raw`` x itself.
    """
    values: Tensor = np.repeat(np.arange(256, dtype=np.float32)[:, None], 1 if channels == "gray" else 3, axis=1)
    if scaling == "xception":
        values = values / np.float32(127.5) - np.float32(1.0)
    elif scaling in ("unit", "torch"):
        values = values / np.float32(255)
    order = slice(None, None, -1 if channels == "bgr" else 1)
    if scaling == "torch":
        values -= np.array(TORCH_MEAN[order], np.float32)
        values /= np.array(TORCH_DEVIATION[order], np.float32)
    elif scaling == "caffe":
        values -= np.array(CAFFE_MEAN[order], np.float32)
    return np.ascontiguousarray(values, np.float32)


def contract_hash(spec: ModelSpec) -> str:
    """Return the SHA-256 of ``contract``: what was measured under one preprocessing is not reused under another."""
    return hashlib.sha256(json.dumps(contract(spec), sort_keys=True).encode()).hexdigest()


def read_image(path: Path | str) -> Pixels:
    """Read an image file as (H, W, 3) uint8, BGR.

    Raises:
        ImageError: the file is not there, no regular file, no image, truncated, or larger than ``MAX_PIXELS`` or
            ``MAX_FILE_SIZE``.
    """
    return decode_image(read_image_file(path), name=str(path))


def read_image_file(path: Path | str) -> bytes:
    """Read the bytes of an image file, which ``decode_image`` decodes; ImageError as ``read_image`` says."""
    try:
        facts = Path(path).stat()
        if not stat.S_ISREG(facts.st_mode):  # a device or a pipe might never end
            found = "a folder" if stat.S_ISDIR(facts.st_mode) else "a device, pipe or socket"
            raise ImageError(f"{path}: expected an image file, found {found}")
        if facts.st_size > MAX_FILE_SIZE:
            raise ImageError(f"{path}: expected at most {MAX_FILE_SIZE} bytes, found {facts.st_size}")
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: can't be read: {error.strerror or error}") from None
    except ValueError:
        raise ImageError(f"{path!r}: expected a file name, found a null character in it") from None


def decode_image(data: bytes, name: str = "image", max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an image file's bytes to (H, W, 3) uint8, BGR.

    Raises:
        ImageError: the image is empty, of an unknown format, truncated or damaged, or larger than ``MAX_PIXELS``; a PNG
            or a JPEG also where it is larger than ``max_pixels``.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    check_header(data, name, max_pixels)
    turns = own_turns(data, name)
    try:
        flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if turns else 0)
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError):
        raise ImageError(f"{name}: refused by the decoder: damaged, or over {MAX_PIXELS} pixels") from None
    if frame is None:
        raise ImageError(f"{name}: {unread_format(data)}")
    pixels = np.asarray(frame, dtype=np.uint8)
    return turns.applied(pixels) if turns else pixels


def deep_samples(data: bytes, frame: Pixels) -> npt.NDArray[np.uint16 | np.int16] | None:
    """Return the 16-bit samples, (H, W) or (H, W, 3), of a file whose high bytes ``decode_image`` kept in ``frame``.

    None for every other one. Such a file is decoded a second time.
    """
    deep_png = data.startswith(PNG_SIGNATURE) and data[24:25] == b"\x10"  # IHDR's bit depth
    if not deep_png and not data.startswith(DEEP_STARTS):
        return None
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError):
        return None
    if found is None or found.dtype not in (np.uint16, np.int16):
        return None
    samples: npt.NDArray[np.uint16 | np.int16] = np.asarray(
        found[..., :3] if found.ndim == 3 else found
    )  # without alpha
    # JPEG 2000 that says it has 12 bits is scaled by these; a TIFF in colour is rounded up
    return samples if samples.min() < 0 or int(frame.max()) <= (int(samples.max()) >> 8) + 1 else None


class Preprocessor:
    """Turns BGR frames into the model's inputs without allocating anything per frame.

    It is not thread-safe, as it owns scratch buffers: make one for each thread.
    """

    def __init__(self, spec: ModelSpec) -> None:
        size = spec.image_size
        self.spec = spec
        self._interpolation = INTERPOLATIONS[spec.interpolation]
        self._resized = np.full((size, size, 3), LETTERBOX_VALUE, dtype=np.uint8)
        self._ordered = np.empty((size, size, 3)[: 2 if spec.channels == "gray" else 3], dtype=np.uint8)
        self._scaled = np.empty(spec.image_shape, dtype=np.float32)
        self._gray = np.empty((size, size, 1), dtype=np.float32)
        table = scaled_values(spec.scaling, spec.channels)
        alike = bool((table == table[:, :1]).all())
        self._table = table[:, 0].copy() if alike else table[None]  # one for all channels is faster

    def allocate(self, batch: int) -> dict[str, Tensor]:
        """Allocate a batch's inputs, those the model uses: ``image`` (N, S, S, C), ``sequence`` (N, T, S*S/T)."""
        return {name: np.empty((batch, *shape), dtype=np.float32) for name, shape in self.spec.inputs.items()}

    def __call__(self, frames: Sequence[Pixels]) -> dict[str, Tensor]:
        """Preprocess (H, W, 3) uint8 BGR frames, each of any size, into newly allocated tensors."""
        tensors = self.allocate(len(frames))
        for row, frame in enumerate(frames):
            self.fill(frame, tensors, row)
        return tensors

    def fill(self, frame: Pixels, tensors: dict[str, Tensor], row: int) -> None:
        """Write one (H, W, 3) uint8 BGR frame, of any size, into row ``row`` (from 0) of C-contiguous float32 tensors.

        They are those that ``allocate`` made, or others of their shape; a tensor that is absent is not computed.

        Raises:
            InputError: the frame is not (H, W, 3) uint8, or is empty.
        """
        check_pixels(frame)
        image = tensors["image"][row] if "image" in tensors else self._scaled
        size = self.spec.image_size
        pixels = self._in_order(self._resize(frame))
        if pixels.ndim == 2:
            cv2.LUT(pixels, self._table, dst=image.reshape(size, size))
        else:
            cv2.LUT(pixels, self._table, dst=image)
        if "sequence" not in tensors:
            return
        sequence = tensors["sequence"][row]
        if self.spec.sequence_order == "rows":
            cv2.transform(image, CHANNEL_MEAN, dst=sequence.reshape(size, size, 1))
            return
        cv2.transform(image, CHANNEL_MEAN, dst=self._gray)
        side = math.isqrt(self.spec.timesteps)
        edge = size // side
        patches = self._gray.reshape(side, edge, side, edge).transpose(0, 2, 1, 3)
        np.copyto(sequence.reshape(side, side, edge, edge), patches)

    def _in_order(self, frame: Pixels) -> Pixels:
        """Bring BGR pixels to the spec's channels: (S, S, 3), or (S, S) for gray."""
        if self.spec.channels == "bgr":
            return frame
        code = cv2.COLOR_BGR2RGB if self.spec.channels == "rgb" else cv2.COLOR_BGR2GRAY
        cv2.cvtColor(frame, code, dst=self._ordered)
        return self._ordered

    def resized(self, frame: Pixels) -> Pixels:
        """Resize a BGR frame of any size to a new (S, S, 3) uint8 array, of which ``fill`` makes the same tensors."""
        return self._resize(frame).copy()

    def _resize(self, frame: Pixels) -> Pixels:
        size = self.spec.image_size
        height, width = frame.shape[:2]
        if self.spec.resize == "center-crop":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            frame = frame[top : top + side, left : left + side]
        elif self.spec.resize == "letterbox":
            return self._letterbox(frame)
        if frame.shape[:2] == (size, size):
            return frame
        cv2.resize(frame, (size, size), dst=self._resized, interpolation=self._interpolation)
        return self._resized

    def _letterbox(self, frame: Pixels) -> Pixels:
        size = self.spec.image_size
        height, width = frame.shape[:2]
        longest = max(height, width)
        new_height = max(1, (height * size + longest // 2) // longest)
        new_width = max(1, (width * size + longest // 2) // longest)
        top, left = (size - new_height) // 2, (size - new_width) // 2
        self._resized.fill(LETTERBOX_VALUE)
        inside = self._resized[top : top + new_height, left : left + new_width]
        cv2.resize(frame, (new_width, new_height), dst=inside, interpolation=self._interpolation)
        return self._resized
