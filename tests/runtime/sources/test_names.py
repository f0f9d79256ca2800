from pathlib import Path

import pytest

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.sources.names import LiveName, display_name, parse_live, short_names, split_url


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
        ("rtsps://anna:x%23@host/a", "rtsp", "rtsps://anna:x%23@host/a"),
        ("rtsp://[::1]:8554/a", "rtsp", "rtsp://[::1]:8554/a"),
        ("http://[fe80::1%25eth0]:81/a", "mjpeg", "http://[fe80::1%25eth0]:81/a"),
        ("http://10.0.0.5:81/a@b?c=d@e", "mjpeg", "http://10.0.0.5:81/a@b?c=d@e"),
        ("http://host?mail=a@b", "mjpeg", "http://host?mail=a@b"),
        ("gst://videotestsrc ! videoflip", "gst", "videotestsrc ! videoflip"),
        ("http://host/" + "x" * 300, "mjpeg", "http://host/" + "x" * 300),  # longer than a file's name may be
    ],
)
def test_live_sources_are_known_by_their_names(name: str, kind: str, address: str) -> None:
    shown = address if kind == "v4l2" else name.replace("anna:x%23@", "")
    assert parse_live(name) == LiveName(kind, address, shown)  # type: ignore[arg-type]


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
        ("ftp://host/a", "expected one of csi://, rtsp://, rtsps://, http://, https://, gst://"),
        ("csi://left", "number of a sensor"),
        ("gst:// ", "expected a pipeline"),
        ("rtsp:///path", "expected a host"),
        ("rtsp://host:99999/a", "expected rtsp://HOST:PORT/PATH"),
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
        ("rtsp://anna:geheim@host:554/a", "rtsp://host:554/a"),
        ("rtsp://anna:ge%40heim@host/a", "rtsp://host/a"),
        ("rtsp://anna:ge@heim@host/a", "rtsp://host/a"),
        ("rtsp://anna:ge/heim@host/a", "rtsp://host/a"),
        ("rtsp://:geheim@host/a", "rtsp://host/a"),
        ("rtsp://anna@host/a", "rtsp://host/a"),
        ("http://host:81/a@b", "http://host:81/a@b"),
        ("http://host?mail=a@b", "http://host?mail=a@b"),
        ("http://host/v.cgi?user=anna&pwd=geheim&x=1", "http://host/v.cgi?user=***&pwd=***&x=1"),
        ("rtsp://host/user=anna&password=geheim&channel=1", "rtsp://host/user=***&password=***&channel=1"),
        (
            "gst://rtspsrc location=rtsp://a:geheim@h/x ! decodebin",
            "gst://rtspsrc location=rtsp://h/x ! decodebin",
        ),
        ("gst://rtspsrc user-id=a user-pw=geheim ! decodebin", "gst://rtspsrc user-id=*** user-pw=*** ! decodebin"),
        (r'gst://x user-pw = "ge \" h/eim" ! y user-pw=ge\ h ! z', "gst://x user-pw = *** ! y user-pw=*** ! z"),
        ("gst://x user-pw='ge heim' ! y", "gst://x user-pw=*** ! y"),
        ("/dev/video0", "/dev/video0"),
        ("photos/img?.png", "photos/img?.png"),
    ],
)
def test_users_and_passwords_are_never_shown(name: str, shown: str) -> None:
    assert display_name(name) == shown


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "HTTPS"])
@pytest.mark.parametrize(
    ("typed", "shown", "right"),
    [
        ("anna:1234#@10.0.0.5:8554/s", "10.0.0.5:8554/s", "%23 for '#'"),
        ("anna:ge#heim@host/s", "host/s", "%23 for '#'"),
        ("anna:12?34@host/s?a=b", "host/s?a=b", "%3F for '?'; %40 for an @ of the path"),
        ("anna:12/34@host:554/s", "host:554/s", "%2F for '/'; %40 for an @ of the path"),
        ("anna:g@e#h/e?i@host", "host", "%23 for '#', %2F for '/', %3F for '?'"),
        ("anna:ge heim\t@host/s", "host/s", "%20 for ' ', %09 for '\\t'"),
        ("anna:ge[h]eim@[::1]:80/s", "[::1]:80/s", "%5B for '[', %5D for ']'"),
        ("an#na@host/s", "host/s", "%23 for '#'"),
    ],
)
def test_a_password_that_would_end_the_address_is_refused_with_the_right_spelling(
    typed: str, shown: str, right: str, scheme: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_live(f"{scheme}://{typed}")
    assert str(caught.value) == f"{scheme}://{shown}: expected a name and password that end with the @: write {right}"


@pytest.mark.parametrize("password", ["a@b", "a:b", "50%", "%23%2f", "p\u00e4ss", "a&b=c;!$"])
def test_a_password_that_means_what_it_says_is_taken(password: str) -> None:
    assert parse_live(f"rtsp://anna:{password}@host/a") == LiveName(
        "rtsp", f"rtsp://anna:{password}@host/a", "rtsp://host/a"
    )
    assert split_url(f"rtsp://anna:{password}@host/a")[1:] == ("host", 554)


def test_a_refused_name_does_not_show_its_password() -> None:
    for name in (
        "ftp://anna:geheim@host/a",
        "http://anna:gehe/im@host/c",
        "rtsp://anna:geheim@host:port/c",
        "rtsp://anna:geheim/c",
    ):
        with pytest.raises(UsageError) as caught:
            parse_live(name)
        assert "gehe" not in str(caught.value)


def test_short_names_are_plain_unique_and_the_same_each_time() -> None:
    names = {
        "/dev/video0": "video0",
        "/dev/video0 (2)": "video0-2",
        "/dev/video0 [2]": "video0-2-2",
        "/dev/video0 [gate]": "video0-gate",
        "rtsp://192.168.1.20/Stream1": "192-168-1-20-stream1",
        "RTSP://192.168.1.20/stream1": "192-168-1-20-stream1-2",
        "http://host/live?token=***": "host-live",
        "http://anna:geheim@host/v.cgi?user=anna&pwd=geheim&x=1": "host-v-cgi-x-1",
        "csi://0": "csi-0",
        "gst://videotestsrc ! x264enc ! rtph264depay ! decodebin ! video/x-raw": (
            "videotestsrc-x264enc-rtph264depay-decodebin-vide"
        ),
        "/data/clips/Türe 1.mp4": "t-re-1-mp4",
        "2 files": "2-files",
        "+/#": "source",
        "": "source-2",
    }
    assert short_names(names) == names
    assert short_names([*names, "/dev/video0"]) == names
