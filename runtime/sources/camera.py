"""List this machine's cameras and read them through OpenCV's V4L2, with waits that end.

What a camera offers is asked of the kernel, so that no tool has to be installed. Structures and requests are those of
<linux/videodev2.h>, the same on every 64-bit Linux.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ImageError, SourceError
from ..opencv import V4L2_WAIT, cv2
from .blocking import BLOCKING_CALLS, open_capture
from .child import ChildConnection, csi_pipeline
from .names import CaptureOptions, parse_live
from .stream import rtsp_decoder

CAMERA_PATIENCE = 3.0  # seconds without a frame after which a camera has stalled; some need two for their first
QUERYCAP, CAPABILITY = 0x80685600, struct.Struct("=16s32s32sIII12x")
ENUM_FMT, FORMAT = 0xC0405602, struct.Struct("=III32s4sI12x")
ENUM_FRAMESIZES, SIZE = 0xC02C564A, struct.Struct("=I4sI24s8x")
DISCRETE = 1  # V4L2_FRMSIZE_TYPE_DISCRETE
CAPTURE = 1  # V4L2_CAP_VIDEO_CAPTURE and V4L2_BUF_TYPE_VIDEO_CAPTURE
DEVICE_CAPS = 0x80000000  # V4L2_CAP_DEVICE_CAPS: device_caps says what this node can do, not its whole device
# the formats that are a sensor's raw mosaic of 8 to 16 bits, plain, packed or compressed
BAYER = re.compile(r"^(?:BA81|GBRG|GRBG|RGGB|BYR2|BD10|(?:BG|GB|BA|GR|RG)1[0246]|[pab][BGRg](?:AA|CC|EE|A8))$")
MAX_ENTRIES = 1000  # entries read of one list, as a faulty driver might never end it
DEVICES = Path("/dev")


@dataclass(frozen=True)
class CameraFormat:
    """This is a pixel format that a camera offers, with four characters, as in ``MJPG``, and the driver's words for it.

    ``sizes`` are (width, height) in pixels; the smallest and the largest where every size between them is possible.
    """

    fourcc: str
    description: str
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Camera:
    """This is a device that captures video, its node ``/dev/videoN``.

    ``name`` is what the driver calls the camera, ``driver`` its own name; ``formats`` are in the driver's order.
    """

    node: str
    name: str
    driver: str
    formats: tuple[CameraFormat, ...]

    @property
    def bare_sensor(self) -> bool:
        """Whether the camera gives only its sensor's mosaic, as CSI cameras do, and needs the image processor."""
        return bool(self.formats) and all(BAYER.match(entry.fourcc) for entry in self.formats)


def list_cameras() -> list[Camera]:
    """Return every camera that can be opened, in the order of their numbers."""
    nodes = [path for path in DEVICES.glob("video*") if path.name[5:].isdecimal()]
    found = []
    for node in sorted(nodes, key=lambda path: int(path.name[5:])):
        with suppress(SourceError):
            found.append(inspect_camera(node))
    return [camera for camera in found if camera is not None]


def inspect_camera(node: Path | str) -> Camera | None:
    """Return the camera behind a node; None if it captures no video: many have a second node for metadata.

    Raises:
        SourceError: the node is not there, may not be opened, or is no V4L2 device.
    """
    try:
        device = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise SourceError(f"{node} can't be opened: {(error.strerror or str(error)).lower()}") from None
    try:
        capability = bytearray(CAPABILITY.size)
        fcntl.ioctl(device, QUERYCAP, capability)
        driver, card, _, _, whole, own = CAPABILITY.unpack(capability)
        if not (own if whole & DEVICE_CAPS else whole) & CAPTURE:
            return None
        return Camera(str(node), _text(card), _text(driver), tuple(_formats(device)))
    except OSError as error:
        raise SourceError(f"{node} is no V4L2 device: {(error.strerror or str(error)).lower()}") from None
    finally:
        os.close(device)


def sensor_number(node: str, cameras: list[Camera]) -> int:
    """Return a CSI camera's number to nvarguscamerasrc, which counts the bare sensors in the order of their nodes."""
    sensors = [camera.node for camera in cameras if camera.bare_sensor]
    if node not in sensors:
        raise SourceError(f"{node} is gone: expected it among the sensors {sensors}")
    return sensors.index(node)


def _formats(device: int) -> Iterator[CameraFormat]:
    for index in range(MAX_ENTRIES):
        entry = bytearray(FORMAT.pack(index, CAPTURE, 0, b"", b"", 0))
        if not _asked(device, ENUM_FMT, entry):
            return
        _, _, _, description, fourcc, _ = FORMAT.unpack(entry)
        yield CameraFormat(_text(fourcc), _text(description), tuple(_sizes(device, fourcc)))


def _sizes(device: int, fourcc: bytes) -> Iterator[tuple[int, int]]:
    for index in range(MAX_ENTRIES):
        entry = bytearray(SIZE.pack(index, fourcc, 0, b""))
        if not _asked(device, ENUM_FRAMESIZES, entry):
            return
        _, _, kind, numbers = SIZE.unpack(entry)
        if kind == DISCRETE:
            yield struct.unpack("=II16x", numbers)
            continue
        least_width, most_width, _, least_height, most_height, _ = struct.unpack("=6I", numbers)
        yield from ((least_width, least_height), (most_width, most_height))
        return


def _asked(device: int, request: int, entry: bytearray) -> bool:
    """Ask for one entry of a list and return whether there was one; False after the list's end."""
    try:
        fcntl.ioctl(device, request, entry)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):
            return False
        raise
    return True


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "replace").strip()


class CameraConnection:
    """This connection reads an open /dev/videoN."""

    def __init__(self, capture: cv2.VideoCapture, node: str, patience: float) -> None:
        self.patience = patience
        self._node = node
        self._capture = capture

    def read(self) -> npt.NDArray[np.uint8] | None:
        """Return the next frame, as ``Connection`` says; None if none came within a second."""
        start = time.monotonic()
        try:
            with BLOCKING_CALLS.noted(f"read {self._node}"):
                grabbed = self._capture.grab()
                there, image = self._capture.retrieve() if grabbed else (False, None)
        except cv2.error as error:
            raise ImageError(f"the camera's frame can't be decoded: {error.err}") from None
        if not grabbed:
            if time.monotonic() - start > 0.9 * V4L2_WAIT:
                return None
            raise SourceError("the camera gives no more frames: unplugged, or taken by another program")
        if not there or image is None or image.size == 0:
            raise ImageError("the camera's frame can't be decoded: damaged on the way")
        return np.asarray(image, dtype=np.uint8)

    def close(self) -> None:
        """Close the device."""
        with BLOCKING_CALLS.noted(f"release {self._node}"):
            self._capture.release()


def _open_v4l2(node: str, options: CaptureOptions) -> cv2.VideoCapture:
    """Open a camera and ask for MJPG: uncompressed, most USB cameras give few frames a second at more than 640x480."""
    capture = cv2.VideoCapture(node, cv2.CAP_V4L2)
    if capture.isOpened():
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        if options.size:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.size[1])
        if options.fps:
            capture.set(cv2.CAP_PROP_FPS, options.fps)
    return capture


def reading_note(name: str | Path) -> str | None:
    """Return what the user should know of how a source is read: a bare sensor as such, what decodes RTSP; else None."""
    live = parse_live(str(name))
    if live is not None and live.kind == "rtsp":
        return f"{live.display}: decoded by {rtsp_decoder(live.address)}"
    if live is None or live.kind != "v4l2":
        return None
    try:
        sensor = _sensor(live.address)
    except SourceError:  # not told here: opening may work by then, and else reports a loss
        return None
    if sensor is None:
        return None
    return f"{live.address} is a bare sensor (Bayer formats only): read through nvarguscamerasrc, as csi://{sensor}"


def open_node(node: str, options: CaptureOptions, stop: threading.Event) -> CameraConnection | ChildConnection:
    """Open a /dev/videoN, or a link to it, as what it is, a camera, or a bare sensor that needs the image processor.

    A camera takes the nearest size and rate it has to those of ``options``; setting ``stop`` ends the wait early.
    """
    if not os.path.exists(node):
        raise SourceError("no such camera; hybrid-infer --list-cameras names those there are")
    sensor = _sensor(node)
    if sensor is not None:
        return ChildConnection(csi_pipeline(sensor, options), options, stop)
    capture = open_capture(lambda: _open_v4l2(node, options), stop, node)
    if not capture.isOpened():
        capture.release()
        raise SourceError("can't be opened: another program has it, or you are not in the group video")
    return CameraConnection(capture, node, options.patience(CAMERA_PATIENCE))


def _sensor(node: str) -> int | None:
    with BLOCKING_CALLS.noted(f"ask {node}"):
        camera = inspect_camera(node)
        if camera is None or not camera.bare_sensor:
            return None
        return sensor_number(os.path.realpath(node), list_cameras())  # these know no names but /dev/videoN
