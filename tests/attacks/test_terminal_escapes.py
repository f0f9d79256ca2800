"""Not one control character that came from outside reaches a terminal, and no text of outside is long there."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socketserver
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.live.run import COMMAND
from support.models.bundles import SPEC, encode, make_bundle, sample_image
from support.streams.floods import Flood

from hybrid_edge.runtime import foreign_text
from hybrid_edge.runtime.foreign_text import LibraryLines, printable
from hybrid_edge.runtime.opencv import cv2

STEER = "\x1b]0;PWNED\x07\x1b[31m\x9b2J\x08\x7f\u202e"  # titles, colours, erasing, and text from right to left
# what rich writes of its own: colours, the cursor's moves, and its being hidden
OURS = re.compile(r"\x1b\[(?:[0-9;]*[mAKJ]|\?25[lh]|[0-9]*[CD]|2K)")
PATIENCE = 60


def on_terminal(*command: object, until: bytes = b"", times: int = 1) -> tuple[str, int]:
    """Run a command on a pseudo-terminal; return all that came there, and its exit code.

    Where ``until`` is given, the command is interrupted once that was said so often.
    """
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(
        [*map(str, command)], stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    shown, asked = b"", False
    with contextlib.suppress(OSError):  # the other end is closed
        while True:
            shown += os.read(leader, 65536)
            if until and shown.count(until) >= times and not asked:
                asked = True
                process.send_signal(signal.SIGINT)
    timer.cancel()
    os.close(leader)
    return shown.decode(errors="replace"), process.wait()


def assert_harmless(shown: str, most: int = 10_000) -> None:
    left = OURS.sub("", shown)
    steering = {char for char in left if not char.isprintable() and char not in "\r\n"}
    assert not steering, [line for line in left.splitlines() if not line.isprintable()]
    assert len(shown) < most


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(*chunks: bytes) -> bytes:
    whole = encode(sample_image(1, 20, 20))
    return whole[:33] + b"".join(chunks) + whole[33:]  # behind IHDR


def escaping_profile(name: bytes) -> bytes:
    """A PNG whose colour profile has that name, of up to 79 bytes, and is none."""
    return png_with(chunk(b"iCCP", name + b"\0\0" + zlib.compress(bytes(200))))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("shown") / "bundle")


def hostile_images(folder: Path) -> Path:
    folder.mkdir()
    steer = STEER.encode()
    (folder / f"name {STEER}.png").write_bytes(encode(sample_image(1, 20, 20)))
    (folder / f"damaged {STEER}.png").write_bytes(b"damaged")
    (folder / "chunk.png").write_bytes(png_with(b"\xff\0\0\0\x1b[2J"))
    (folder / "text.png").write_bytes(png_with(chunk(b"tEXt", steer + b"\0" + steer), chunk(b"\x1b[2m", steer)))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\x40\0\0\0\x1a\0\0\0" + steer * 3
    jpeg = cv2.imencode(".jpg", sample_image(1, 20, 20))[1].tobytes()
    (folder / "exif.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    for number in range(30):
        (folder / f"profile {number}.png").write_bytes(
            escaping_profile(f"{STEER} {number}".encode("latin-1", "ignore"))
        )
    return folder


def test_nothing_of_hostile_files_steers_a_terminal(bundle: Path, tmp_path: Path) -> None:
    images = hostile_images(tmp_path / f"photos {STEER}")
    shown, code = on_terminal(*COMMAND, images, "--bundle", bundle)
    assert code == 1  # of the damaged ones
    assert r"damaged \x1b]0;PWNED\x07" in shown
    assert shown.count("libpng warning") == 1  # they differ in a number
    assert_harmless(shown, 40_000)


@pytest.mark.parametrize(
    "arguments",
    [
        (f"--{STEER}",),
        (f"nothing {STEER}.png",),
        (f"ftp://{STEER}",),
        ("a.png", "--bundle", f"nothing {STEER}"),
        ("a.png", "--region", STEER),
        ("a.png", "--backend", STEER),
    ],
)
def test_nothing_of_the_names_on_a_command_line_steers_a_terminal(arguments: Sequence[str]) -> None:
    shown, code = on_terminal(*COMMAND, *arguments)
    assert code in (1, 2)
    assert_harmless(shown)


TURN = "\u202e[red]\u2066\u2028"  # what a label may have, as it is no control character, and a terminal may obey


def test_labels_and_paths_of_a_bundle_are_escaped_and_bounded(tmp_path: Path) -> None:
    labels = (TURN, (TURN * 256)[:256], *SPEC.class_labels[2:])
    folder = make_bundle(tmp_path / "bundle", SPEC.replace(class_labels=labels))
    (tmp_path / "a.png").write_bytes(encode(sample_image(1, 20, 20)))
    assert_harmless(on_terminal(*COMMAND, tmp_path / "a.png", "--bundle", folder)[0], 20_000)
    manifest = (folder / "manifest.json").read_text()
    name = re.search(r"golden/[0-9a-f]{64}\.npz", manifest)
    assert name is not None
    long = "golden/" + "\\u001b[2J" * 10**5
    (folder / "manifest.json").write_text(manifest.replace(name[0], long))
    shown, code = on_terminal(*COMMAND, tmp_path / "a.png", "--bundle", folder)
    assert code == 1
    assert_harmless(shown)


ANSWERS = {  # what an HTTP server answers, and what is said of it
    f"HTTP/1.0 404 {STEER}\r\nServer: {STEER}\r\n\r\n": r"404 \x1b]0",
    f"HTTP/1.0 401 x\r\nWWW-Authenticate: {STEER} realm={STEER * 900}\r\n\r\n": "wants a ",
    f"HTTP/1.0 200 OK\r\nContent-Type: text/{STEER}\r\n\r\n": "expected motion JPEG",
    f"{STEER}\r\n\r\n": "expected an HTTP response",
    f"HTTP/1.0 302 x\r\nLocation: ftp://{STEER}\r\n\r\n": "redirects",
}


def test_nothing_that_cameras_answer_steers_a_terminal(bundle: Path) -> None:
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Flood(head.encode())) for head in ANSWERS]
        urls = [server.url.replace("http://", "http://anna:secret@") for server in servers]
        shown, code = on_terminal(*COMMAND, *urls, "--bundle", bundle, "--headless", until=b" lost: ", times=len(urls))
    assert code == 130
    for said in ANSWERS.values():
        assert said in shown
    assert "secret" not in shown
    assert_harmless(shown, 100_000)


def test_nothing_that_an_rtsp_server_answers_steers_a_terminal(bundle: Path) -> None:
    class Server(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(STEER.encode() * 100)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"rtsp://127.0.0.1:{server.server_address[1]}/live"
        shown, code = on_terminal(*COMMAND, url, "--bundle", bundle, "--headless", until=b" lost: ")
        server.shutdown()
    assert code == 130
    assert "expected an RTSP server" in shown
    assert_harmless(shown)


LIBRARY = """
import contextlib, ctypes, os, sys, time
from hybrid_edge.runtime import console
def talk(ending: str) -> None:
    import hybrid_edge.runtime.opencv
    for number in range(100_000):
        with contextlib.suppress(BlockingIOError):  # which a library does not see
            os.write(2, b"strange \\x1b[2J frame %d\\n" % number)
    time.sleep(0.2)
    with contextlib.suppress(BlockingIOError):
        os.write(2, b"no end of a line" + b"\\x1b[31m" * 100_000)
    print("ours", file=sys.stderr)
    if ending == "crash":
        time.sleep(0.2)
        os.write(2, b"free(): invalid pointer\\n")
        ctypes.CDLL(None).abort()
console.main(console.make_app(talk))
"""


@pytest.mark.parametrize("ending", ["end", "crash"])
def test_what_a_library_writes_is_escaped_bounded_and_told_once_and_a_crash_says_why(ending: str) -> None:
    shown, code = on_terminal(sys.executable, "-c", LIBRARY, ending)
    assert code == (-signal.SIGABRT if ending == "crash" else 0)
    assert r"strange \x1b[2J frame 0" in shown
    assert "ours\r\n" in shown
    assert ("free(): invalid pointer" in shown) is (ending == "crash")
    assert shown.count("strange") == 1 or ending == "crash"
    assert_harmless(shown, 20_000)


def test_where_no_process_can_be_started_libraries_write_as_they_did() -> None:
    few = "import resource, os; resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
    if os.geteuid() == 0:
        few = "import sys; sys.executable = ''\n"  # root has no limit of processes
    program = few + LIBRARY.replace("100_000", "3")
    done = subprocess.run([sys.executable, "-c", program, "end"], capture_output=True, check=True, timeout=PATIENCE)
    assert done.stderr.count(b"strange") == 3


def test_lines_of_libraries_are_few_whatever_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = LibraryLines()
    noise = np.random.default_rng(1)
    shown = [
        lines.take(noise.bytes(30).hex().translate(str.maketrans("0123456789", "ghijklmnop")).encode())
        for _ in range(1000)
    ]
    assert sum(text is not None for text in shown) == foreign_text.BURST
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert lines.take(b"another") == "another (960 lines before it left out)"


def test_a_long_text_keeps_both_ends() -> None:
    text = printable(f"expected {'a' * 10**6} found")
    assert len(text) < 600
    assert text.startswith("expected aaa")
    assert text.endswith("aaa found")


def test_json_stays_valid_and_whole_whatever_the_labels_are(tmp_path: Path) -> None:
    labels = ((TURN * 256)[:256], *SPEC.class_labels[1:])
    folder = make_bundle(tmp_path / "bundle", SPEC.replace(class_labels=labels))
    (tmp_path / f"{STEER}.png").write_bytes(encode(sample_image(1, 20, 20)))
    arguments = [*COMMAND, str(tmp_path / f"{STEER}.png"), "--bundle", str(folder), "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stdout.isascii()
    assert done.stdout.rstrip("\n").isprintable()
