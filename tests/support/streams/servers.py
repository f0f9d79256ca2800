"""Streams that fail on request: an RTSP and an MJPEG server on loopback, behind a relay that stalls, drops and dies.

    with MjpegStream() as stream:        # or RtspStream(), unless rtsp_missing(); stream.url is what a capture opens
        stream.stall(1)                  # nothing passes for a second, connections stay
        stream.black_hole()              # connections stay for ever and are dead, new ones too ...
        stream.restore()                 # ... until here, for new ones
        stream.kill()                    # connections are reset, new ones refused ...
        stream.restart()                 # ... until here, on the same port
        stream.resize(480, 270)
        stream.corrupt(10)               # MJPEG: the next ten frames are damaged; RTSP: ten pieces of the byte stream

Every frame carries the moment it was made, see ``stamp``. What reads and measures is in reading.py.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hybrid_edge.runtime.opencv import cv2
from support.streams.relay import Relay

SYSTEM_PYTHON = "/usr/bin/python3"
BITS = 32

Image = npt.NDArray[np.uint8]


def picture(width: int, height: int, moment: float | None = None) -> Image:
    """A frame (H, W, 3) uint8 whose upper half says when it was made: milliseconds as 32 columns, black or white."""
    milliseconds = int((time.monotonic() if moment is None else moment) * 1000) % 2**BITS
    image = np.full((height, width, 3), 64 + milliseconds // 10 % 128, np.uint8)
    for bit in range(BITS):
        value = 235 if milliseconds >> (BITS - 1 - bit) & 1 else 16
        image[: height // 2, bit * (width // BITS) : (bit + 1) * (width // BITS)] = value
    return image


def stamp(image: Image) -> float:
    """When a frame of ``picture`` (or of rtsp_server.py) was made, in ``time.monotonic()`` seconds."""
    height, width = image.shape[:2]
    column = width // BITS
    values = image[height // 4, column // 2 : BITS * column : column, 1] > 128
    return int("".join("1" if value else "0" for value in values), 2) / 1000


def age_ms(image: Image) -> float:
    """How long ago a frame was made, milliseconds."""
    return (time.monotonic() - stamp(image)) * 1000


def rtsp_missing() -> str | None:
    """Why there can be no RTSP server here, or None."""
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not Path(SYSTEM_PYTHON).exists() or shutil.which("gst-inspect-1.0") is None:
        return "needs GStreamer's tools and the system's Python"
    if subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, check=False).returncode:
        return "needs gir1.2-gst-rtsp-server-1.0 and python3-gi"
    if subprocess.run(["gst-inspect-1.0", "--exists", "x264enc"], check=False).returncode:
        return "needs x264enc of gstreamer1.0-plugins-ugly"
    return None


def server_context(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS for localhost, and its certificate, which nobody vouches for yet; needs openssl."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


class TlsDoor(socketserver.ThreadingTCPServer):
    """Takes TLS on a port of its own and passes what it has in it on to another."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext, target: int) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", target)) as plain:
                    tls = context.wrap_socket(self.request, server_side=True)
                    threading.Thread(target=pump, args=(tls, plain), daemon=True).start()
                    pump(plain, tls)

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(2**16):
                    sink.sendall(data)

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Stream(Relay):
    """A server behind a relay, which is what fails."""

    scheme = ""
    size: tuple[int, int]

    @property
    def url(self) -> str:
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/live"

    def resize(self, width: int, height: int) -> None:
        self.size = (width, height)


class RtspStream(Stream):
    """H.264 or H.265 over RTSP from GStreamer's server, a child process, which ``kill_server`` reaches."""

    scheme = "rtsp"

    def __init__(self, width: int = 320, height: int = 240, fps: int = 25, gop: int = 12, codec: int = 264) -> None:
        self.size = (width, height)
        self._settings = (fps, gop, codec)
        self._server_port = 0
        self.start_server()
        super().__init__(self._server_port)

    def start_server(self) -> None:
        program = [SYSTEM_PYTHON, str(Path(__file__).with_name("rtsp_server.py"))]
        self._server = subprocess.Popen(
            [*program, str(self._server_port), *map(str, (*self.size, *self._settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._server_port = int(self._server.stdout.readline())

    def kill_server(self) -> None:
        """SIGKILL the server's process; ``start_server`` starts another on the same port."""
        self._server.kill()
        self._server.communicate()

    def resize(self, width: int, height: int) -> None:
        self._server.stdin.write(f"resize {width} {height}\n")
        self._server.stdin.flush()

    def close(self) -> None:
        super().close()
        self.kill_server()


class MjpegStream(Stream):
    """Motion JPEG over HTTP.

    Attributes:
        fps: how many frames a second.
        requests: the headers of each request so far.
        accept: what answers a request before frames do: called with the handler, True lets frames flow.
        picture: what draws a frame of a width and a height.
    """

    scheme = "http"

    def __init__(self, width: int = 320, height: int = 240, fps: float = 25) -> None:
        self.size = (width, height)
        self.fps = fps
        self.requests: list[dict[str, str]] = []
        self.accept: Callable[[BaseHTTPRequestHandler], bool] = lambda _: True
        self.picture = picture
        self.damaged = 0
        self._noise = random.Random(3)
        stream = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stream.requests.append({"path": self.path, **self.headers})
                with contextlib.suppress(OSError):
                    if stream.accept(self):
                        stream.serve(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 64  # of 5, some readers that come back together would wait for a second

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._serving.start()
        super().__init__(self._server.server_port)

    def corrupt(self, count: int) -> None:
        self.damaged = count

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=--frame")
        handler.end_headers()
        while True:
            data = cv2.imencode(".jpg", self.picture(*self.size))[1].tobytes()
            if self.damaged > 0:
                self.damaged -= 1
                data = self._spoil(data)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            handler.wfile.write(head.encode() + data + b"\r\n")
            time.sleep(1 / self.fps)

    def _spoil(self, data: bytes) -> bytes:
        """Half of the frame, noise, nothing, or a frame without its header."""
        kinds = [data[: len(data) // 2], self._noise.randbytes(len(data)), b"", data[20:]]
        return self._noise.choice(kinds)

    def close(self) -> None:
        super().close()
        self._server.shutdown()
        self._server.server_close()
        self._serving.join()
