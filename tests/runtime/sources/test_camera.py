"""V4L2 listings: the kernel's answers as recorded from a USB camera, its metadata node, a Jetson's sensors."""

import errno
import re
import struct
from pathlib import Path

import pytest

from hybrid_edge.runtime.errors import SourceError
from hybrid_edge.runtime.sources import camera as module
from hybrid_edge.runtime.sources import names
from hybrid_edge.runtime.sources.camera import (
    Camera,
    CameraFormat,
    inspect_camera,
    list_cameras,
    reading_note,
    sensor_number,
)

VIDEO, METADATA, STREAMING = 0x1, 0x00800000, 0x04000000
C920 = [
    (b"YUYV", b"YUYV 4:2:2", [(640, 480), (1280, 720)]),
    (b"H264", b"H.264", [(1920, 1080)]),
    (b"MJPG", b"Motion-JPEG", [(640, 480), (1280, 720), (1920, 1080)]),
]
IMX219 = [(b"RG10", b"10-bit Bayer RGRG/GBGB", [(3280, 2464), (1920, 1080), (1280, 720)])]
NODES = {
    "video0": (b"uvcvideo", b"HD Pro Webcam C920", VIDEO, C920),
    "video1": (b"uvcvideo", b"HD Pro Webcam C920", METADATA, []),
    "video2": (b"tegra-video", b"vi-output, imx219 9-0010", VIDEO, IMX219),
    "video10": (b"tegra-video", b"vi-output, imx219 10-0010", VIDEO, IMX219),
}


def recorded(device: int, request: int, entry: bytearray) -> int:
    """What the kernel writes into ``entry``, laid out as <linux/videodev2.h> has it on 64 bits."""
    name = Path(f"/proc/self/fd/{device}").readlink().name
    if name not in NODES:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
    driver, card, capabilities, formats = NODES[name]
    if request == 0x80685600:  # VIDIOC_QUERYCAP: driver, card, bus, version, of the device, of the node, reserved
        whole = VIDEO | METADATA | STREAMING | 0x80000000
        answer = struct.pack("16s32s32s3I", driver, card, b"usb-1", 0x5000A, whole, capabilities | STREAMING)
        entry[:] = answer + bytes(12)
        return 0
    index = struct.unpack_from("I", entry)[0]
    if request == 0xC0405602:  # VIDIOC_ENUM_FMT: index, type, flags, description, fourcc, media bus code, reserved
        if index >= len(formats) or struct.unpack_from("I", entry, 4)[0] != 1:
            raise OSError(errno.EINVAL, "Invalid argument")
        entry[:] = struct.pack("3I32s4s4I", index, 1, 0, formats[index][1], formats[index][0], 0, 0, 0, 0)
        return 0
    assert request == 0xC02C564A  # VIDIOC_ENUM_FRAMESIZES: index, fourcc, discrete, width, height, reserved
    sizes = next(sizes for fourcc, _, sizes in formats if fourcc == bytes(entry[4:8]))
    if index >= len(sizes):
        raise OSError(errno.EINVAL, "Invalid argument")
    entry[:] = struct.pack("I4sI2I6I", index, bytes(entry[4:8]), 1, *sizes[index], *[0] * 6)
    return 0


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*NODES, "video3", "video-like", "videodev"):  # video3: no V4L2 device at all
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(module, "DEVICES", tmp_path)
    monkeypatch.setattr(module.fcntl, "ioctl", recorded)
    return tmp_path


def test_cameras_are_listed_by_number_with_what_they_offer(dev: Path) -> None:
    webcam, left, right = list_cameras()  # video1 gives metadata alone
    formats = tuple(CameraFormat(fourcc.decode(), text.decode(), tuple(sizes)) for fourcc, text, sizes in C920)
    assert webcam == Camera(str(dev / "video0"), "HD Pro Webcam C920", "uvcvideo", formats)
    assert (left.node, right.node) == (str(dev / "video2"), str(dev / "video10"))


def test_only_bayer_formats_make_a_bare_sensor(dev: Path) -> None:
    cameras = list_cameras()
    assert [camera.bare_sensor for camera in cameras] == [False, True, True]
    assert [sensor_number(camera.node, cameras) for camera in cameras[1:]] == [0, 1]


@pytest.mark.parametrize("fourcc", ["BA81", "GBRG", "RGGB", "BG10", "GR14", "RG16", "pBAA", "pgCC", "bgA8", "BYR2"])
def test_every_mosaic_is_known(fourcc: str) -> None:
    assert Camera("", "", "", (CameraFormat(fourcc, "", ()),)).bare_sensor


@pytest.mark.parametrize("fourcc", ["YUYV", "MJPG", "NV12", "BGR3", "RGB3", "GREY", "H264", "UYVY", "BGR4"])
def test_a_picture_is_no_mosaic(fourcc: str) -> None:
    mixed = (CameraFormat("RG10", "", ()), CameraFormat(fourcc, "", ()))
    assert not Camera("", "", "", mixed).bare_sensor
    assert not Camera("", "", "", mixed[1:]).bare_sensor
    assert not Camera("", "", "", ()).bare_sensor


def test_sizes_within_limits_are_given_by_their_limits(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stepwise(device: int, request: int, entry: bytearray) -> int:
        if request == 0xC02C564A:
            entry[:] = struct.pack("I4sI6I2I", 0, bytes(entry[4:8]), 3, 16, 4096, 16, 16, 2160, 16, 0, 0)
            return 0
        return recorded(device, request, entry)

    monkeypatch.setattr(module.fcntl, "ioctl", stepwise)
    camera = inspect_camera(dev / "video2")
    assert camera.formats[0].sizes == ((16, 16), (4096, 2160))


def test_what_is_no_camera_is_refused_with_the_reason(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="video3 is no V4L2 device: inappropriate ioctl"):
        inspect_camera(dev / "video3")
    with pytest.raises(SourceError, match="video9 can't be opened: no such file"):
        inspect_camera(dev / "video9")
    monkeypatch.undo()
    with pytest.raises(SourceError, match="is no V4L2 device"):  # the kernel's own answer
        inspect_camera(dev / "video0")


def test_a_sensor_that_went_away_meanwhile_is_an_error_of_the_source(dev: Path) -> None:
    with pytest.raises(SourceError, match=r"video77 is gone"):
        sensor_number("/dev/video77", list_cameras())


def test_a_bare_sensor_is_said_to_need_the_image_processor(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = str(dev / "video10")
    link = dev / "video-by-path"
    link.symlink_to(node)
    monkeypatch.setattr(names, "DEVICE", re.compile(r".*/video"))
    for name in (node, str(link)):
        note = reading_note(name)
        assert "nvarguscamerasrc, as csi://1" in note
    assert reading_note(str(dev / "video0")) is None
    assert reading_note(str(dev / "video3")) is None  # can't be asked now: no reason not to begin
    assert reading_note("http://host/a") is None
    assert reading_note("photos") is None
