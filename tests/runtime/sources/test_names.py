from __future__ import annotations

from pathlib import Path

import pytest

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.sources.names import LiveName, display_name, parse_live


@pytest.mark.parametrize(
    ("name", "kind", "address"),
    [
        ("0", "v4l2", "/dev/video0"),
        ("12", "v4l2", "/dev/video12"),
        ("/dev/video3", "v4l2", "/dev/video3"),
        ("/dev/v4l/by-id/usb-Logitech_C920-video-index0", "v4l2", "/dev/v4l/by-id/usb-Logitech_C920-video-index0"),
        ("/dev/v4l/by-path/pci-0:14-video-index0", "v4l2", "/dev/v4l/by-path/pci-0:14-video-index0"),
        ("csi://1", "csi", "1"),
        ("rtsp://host/a", "rtsp", "rtsp://host/a"),
        ("RTSP://host:8554/a", "rtsp", "RTSP://host:8554/a"),
        ("http://host:81/stream", "mjpeg", "http://host:81/stream"),
        ("https://host/v?x=1", "mjpeg", "https://host/v?x=1"),
        ("gst://videotestsrc ! videoflip", "gst", "videotestsrc ! videoflip"),
        ("http://host/" + "x" * 300, "mjpeg", "http://host/" + "x" * 300),  # longer than a file's name may be
    ],
)
def test_live_sources_are_known_by_their_names(name: str, kind: str, address: str) -> None:
    assert parse_live(name) == LiveName(kind, address, address if kind == "v4l2" else name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["clip.mp4", "photos/*.png", "/dev/sda", "video0", "a:b.png", "C:/x", "-1", "0.5", "n" * 300]
)
def test_what_has_no_scheme_and_is_no_camera_is_a_file(name: str) -> None:
    assert parse_live(name) is None


def test_a_file_named_like_a_camera_or_stream_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").write_bytes(b"")
    (tmp_path / "rtsp:").mkdir()
    (tmp_path / "rtsp:" / "clip.mp4").write_bytes(b"")
    assert parse_live("7") is None
    assert parse_live("rtsp://clip.mp4") is None
    assert parse_live("8") is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ftp://host/a", "expected one of csi://, rtsp://, http://, https://, gst://"),
        ("csi://left", "number of a sensor"),
        ("gst:// ", "expected a pipeline"),
        ("rtsp:///path", "expected a host"),
        ("rtsp://host:99999/a", "expected rtsp://HOST:PORT/PATH"),
        ("http://user:a/b@host/c", "write a / or @ inside a password as %2F or %40"),
        ("csi://" + "9" * 5000, "number of a sensor"),
        ("rtsp://host/caf\udce9", r"rtsp://host/caf\\udce9: expected a name in UTF-8"),
        ("rtsp://caf\udce9@host/", "expected a name in UTF-8"),
        ("http://host/caf\udce9", "expected a name in UTF-8"),
        ("/dev/v4l/by-id/caf\udce9", "expected a name in UTF-8"),
    ],
)
def test_a_live_name_that_can_not_be_is_refused_with_what_was_expected(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_live(name)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rtsp://anna:geheim@host:554/a", "rtsp://anna:***@host:554/a"),
        ("rtsp://anna:ge%40heim@host/a", "rtsp://anna:***@host/a"),
        ("rtsp://anna:ge@heim@host/a", "rtsp://anna:***@host/a"),
        ("rtsp://anna:ge/heim@host/a", "rtsp://anna:***@host/a"),
        ("rtsp://:geheim@host/a", "rtsp://:***@host/a"),
        ("rtsp://anna@host/a", "rtsp://anna@host/a"),
        ("http://host:81/a@b", "http://host:81/a@b"),
        ("http://host/v.cgi?user=anna&pwd=geheim&x=1", "http://host/v.cgi?user=anna&pwd=***&x=1"),
        ("rtsp://host/user=anna&password=geheim&channel=1", "rtsp://host/user=anna&password=***&channel=1"),
        (
            "gst://rtspsrc location=rtsp://a:geheim@h/x ! decodebin",
            "gst://rtspsrc location=rtsp://a:***@h/x ! decodebin",
        ),
        ("gst://rtspsrc user-id=a user-pw=geheim ! decodebin", "gst://rtspsrc user-id=a user-pw=*** ! decodebin"),
        ("/dev/video0", "/dev/video0"),
        ("photos/img?.png", "photos/img?.png"),
    ],
)
def test_passwords_are_never_shown(name: str, shown: str) -> None:
    assert display_name(name) == shown


def test_a_refused_name_does_not_show_its_password() -> None:
    for name in ("ftp://anna:geheim@host/a", "http://anna:gehe/im@host/c", "rtsp://anna:geheim@host:port/c"):
        with pytest.raises(UsageError) as caught:
            parse_live(name)
        assert "gehe" not in str(caught.value)
