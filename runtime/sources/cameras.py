"""Ask the kernel for this machine's cameras and what they offer: no tool has to be installed.

Structures and requests are those of <linux/videodev2.h>, the same on every 64-bit Linux.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import SourceError

__all__ = ["Camera", "CameraFormat", "inspect_camera", "list_cameras", "sensor_number"]

QUERYCAP, CAPABILITY = 0x80685600, struct.Struct("=16s32s32sIII12x")
ENUM_FMT, FORMAT = 0xC0405602, struct.Struct("=III32s4sI12x")
ENUM_FRAMESIZES, SIZE = 0xC02C564A, struct.Struct("=I4sI24s8x")
DISCRETE = 1  # V4L2_FRMSIZE_TYPE_DISCRETE
CAPTURE = 1  # V4L2_CAP_VIDEO_CAPTURE and V4L2_BUF_TYPE_VIDEO_CAPTURE
DEVICE_CAPS = 0x80000000  # V4L2_CAP_DEVICE_CAPS: device_caps says what this node can do, not its whole device
# the formats that are a sensor's raw mosaic of 8 to 16 bits, plain, packed or compressed
BAYER = re.compile(r"^(?:BA81|GBRG|GRBG|RGGB|BYR2|BD10|(?:BG|GB|BA|GR|RG)1[0246]|[pab][BGRg](?:AA|CC|EE|A8))$")
LIMIT = 1000  # entries read of one list, as a faulty driver might never end it

Ioctl = Callable[[int, int, bytearray], object]


@dataclass(frozen=True)
class CameraFormat:
    """This is a pixel format that a camera offers.

    Attributes:
        fourcc: four characters, as in ``MJPG``.
        description: the driver's words.
        sizes: (width, height) in pixels; the smallest and the largest where every size between them is possible.
    """

    fourcc: str
    description: str
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Camera:
    """This is a device that captures video.

    Attributes:
        node: ``/dev/videoN``.
        name: what the driver calls the camera.
        driver: the driver's own name.
        formats: the pixel formats that it offers, in the driver's order.
    """

    node: str
    name: str
    driver: str
    formats: tuple[CameraFormat, ...]

    @property
    def bare_sensor(self) -> bool:
        """Whether the camera gives only its sensor's mosaic, as CSI cameras do, and needs the image processor."""
        return bool(self.formats) and all(BAYER.match(entry.fourcc) for entry in self.formats)


def list_cameras(folder: Path | str = "/dev", ioctl: Ioctl = fcntl.ioctl) -> list[Camera]:
    """Return every camera that can be opened, in the order of their numbers.

    Args:
        folder: the folder that holds the nodes ``videoN``.
        ioctl: the function that asks a device, ``fcntl.ioctl`` or a recording.
    """
    nodes = [path for path in Path(folder).glob("video*") if path.name[5:].isdecimal()]
    found = []
    for node in sorted(nodes, key=lambda path: int(path.name[5:])):
        try:
            camera = inspect_camera(node, ioctl)
        except SourceError:
            continue
        if camera is not None:
            found.append(camera)
    return found


def inspect_camera(node: Path | str, ioctl: Ioctl = fcntl.ioctl) -> Camera | None:
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
        ioctl(device, QUERYCAP, capability)
        driver, card, _, _, whole, own = CAPABILITY.unpack(capability)
        if not (own if whole & DEVICE_CAPS else whole) & CAPTURE:
            return None
        return Camera(str(node), _text(card), _text(driver), tuple(_formats(device, ioctl)))
    except OSError as error:
        raise SourceError(f"{node} is no V4L2 device: {(error.strerror or str(error)).lower()}") from None
    finally:
        os.close(device)


def sensor_number(node: str, cameras: list[Camera]) -> int:
    """Return a CSI camera's number to nvarguscamerasrc, which counts the bare sensors in the order of their nodes.

    Raises:
        SourceError: the node is not among the cameras, as it was unplugged since it was looked at.
    """
    sensors = [camera.node for camera in cameras if camera.bare_sensor]
    if node not in sensors:
        raise SourceError(f"{node} is gone: expected it among the sensors {sensors}")
    return sensors.index(node)


def _formats(device: int, ioctl: Ioctl) -> Iterator[CameraFormat]:
    for index in range(LIMIT):
        entry = bytearray(FORMAT.pack(index, CAPTURE, 0, b"", b"", 0))
        if not _asked(device, ENUM_FMT, entry, ioctl):
            return
        _, _, _, description, fourcc, _ = FORMAT.unpack(entry)
        yield CameraFormat(_text(fourcc), _text(description), tuple(_sizes(device, fourcc, ioctl)))


def _sizes(device: int, fourcc: bytes, ioctl: Ioctl) -> Iterator[tuple[int, int]]:
    for index in range(LIMIT):
        entry = bytearray(SIZE.pack(index, fourcc, 0, b""))
        if not _asked(device, ENUM_FRAMESIZES, entry, ioctl):
            return
        _, _, kind, numbers = SIZE.unpack(entry)
        if kind == DISCRETE:
            yield struct.unpack("=II16x", numbers)
            continue
        least_width, most_width, _, least_height, most_height, _ = struct.unpack("=6I", numbers)
        yield from ((least_width, least_height), (most_width, most_height))
        return


def _asked(device: int, request: int, entry: bytearray, ioctl: Ioctl) -> bool:
    """Ask for one entry of a list and return whether there was one; False after the list's end."""
    try:
        ioctl(device, request, entry)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):
            return False
        raise
    return True


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "replace").strip()
