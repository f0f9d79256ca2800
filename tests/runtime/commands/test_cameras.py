from __future__ import annotations

import json

import pytest

from hybrid_edge.runtime.commands.cameras import print_cameras
from hybrid_edge.runtime.sources.camera import Camera, CameraFormat

USB = Camera(
    "/dev/video2",
    "A \x1b[31mred webcam",
    "uvcvideo",
    (
        CameraFormat("MJPG", "Motion-JPEG", tuple((160 * n, 120 * n) for n in range(1, 12))),
        CameraFormat("YUYV", "YUYV 4:2:2", ()),
    ),
)
CSI = Camera(
    "/dev/video0", "vi-output, imx219", "tegra-video", (CameraFormat("RG10", "10-bit Bayer", ((3280, 2464),)),)
)


def test_a_camera_is_listed_by_the_name_that_opens_it_with_its_formats(capsys: pytest.CaptureFixture[str]) -> None:
    print_cameras([CSI, USB])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("csi://0  vi-output, imx219 (tegra-video), /dev/video0: a CSI sensor")
    assert lines[1].split() == ["RG10", "10-bit", "Bayer:", "3280x2464"]
    assert lines[2].startswith("/dev/video2  A \\x1b[31mred webcam (uvcvideo)")
    assert lines[3].endswith("1280x960 and 3 more")
    assert lines[4].endswith("any size")


def test_json_has_one_object_a_camera(capsys: pytest.CaptureFixture[str]) -> None:
    print_cameras([CSI, USB], as_json=True)
    csi, usb = map(json.loads, capsys.readouterr().out.splitlines())
    assert (csi["source"], csi["node"]) == ("csi://0", "/dev/video0")
    assert (usb["source"], usb["formats"][0]["fourcc"], usb["formats"][0]["sizes"][0]) == (
        "/dev/video2",
        "MJPG",
        [160, 120],
    )


def test_no_camera_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_cameras([])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no camera found" in captured.err
