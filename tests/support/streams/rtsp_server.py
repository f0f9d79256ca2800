"""An RTSP server of GStreamer, run by the system's Python (its ``gi``) as a child of servers.py.

Frames carry the moment they were made (``time.monotonic()`` in ms, 32 bits, black and white columns on top), so that a
reader can tell how old they are. Prints its port as the first line; ``resize W H`` on stdin changes the resolution of
what is streaming; the end of stdin ends it.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

CAPS = "video/x-raw,format=I420,width={},height={},framerate={}/1"
LAUNCH = (
    "( appsrc name=frames is-live=true format=time do-timestamp=true max-buffers=2 leaky-type=downstream"
    " ! x{codec}enc tune=zerolatency speed-preset=ultrafast key-int-max={gop} bitrate=2000 {threads}"
    " ! rtph{codec}pay pt=96 config-interval=-1 ! capsfilter name=pay0 caps=application/x-rtp{feedback} )"
)
RARE = 1000  # frames from one key frame to the next, from which on they can be asked for
THREADS = {264: "threads=1", 265: "option-string=pools=1:frame-threads=1"}
BITS = 32


def picture(width: int, height: int) -> bytes:
    """An I420 frame: the time as columns in its upper half, gray that moves below."""
    stamp = int(time.monotonic() * 1000) % 2**BITS
    column = width // BITS
    row = b"".join((b"\xeb" if stamp >> (BITS - 1 - bit) & 1 else b"\x10") * column for bit in range(BITS))
    row += b"\x10" * (width - len(row))
    top = height // 2
    gray = bytes([64 + stamp // 10 % 128]) * width
    return row * top + gray * (height - top) + b"\x80" * (2 * ((width + 1) // 2) * ((height + 1) // 2))


class Server:
    """One mount, ``/live``, shared by its clients."""

    def __init__(self, port: int, width: int, height: int, fps: int, gop: int, codec: int) -> None:
        self.size = (width, height)
        self.fps = fps
        self.sources: list[Any] = []
        self.server = GstRtspServer.RTSPServer(address="127.0.0.1", service=str(port))
        factory = GstRtspServer.RTSPMediaFactory()
        feedback = ",rtcp-fb-nack-pli=(boolean)true" if gop >= RARE else ""
        factory.set_launch(LAUNCH.format(gop=gop, codec=codec, threads=THREADS[codec], feedback=feedback))
        factory.set_profiles(GstRtsp.RTSPProfile.AVPF if gop >= RARE else GstRtsp.RTSPProfile.AVP)
        factory.set_shared(True)
        factory.connect("media-configure", self.configure)
        self.server.get_mount_points().add_factory("/live", factory)
        self.server.attach(None)

    def configure(self, _factory: Any, media: Any) -> None:
        source = media.get_element().get_by_name("frames")
        source.set_property("caps", Gst.Caps.from_string(CAPS.format(*self.size, self.fps)))
        self.sources.append(source)
        media.connect("unprepared", lambda _: self.sources.remove(source))

    def push(self) -> bool:
        data = picture(*self.size)
        for source in list(self.sources):
            source.emit("push-buffer", Gst.Buffer.new_wrapped(data))
        return True

    def resize(self, width: int, height: int) -> bool:
        self.size = (width, height)
        for source in list(self.sources):
            source.set_property("caps", Gst.Caps.from_string(CAPS.format(width, height, self.fps)))
        return False


def main() -> None:
    Gst.init(None)
    port, *settings = map(int, sys.argv[1:7])
    server = Server(port, *settings)
    sys.stdout.write(f"{server.server.get_bound_port()}\n")
    sys.stdout.flush()
    loop = GLib.MainLoop()

    def control() -> None:
        for line in sys.stdin:
            word, *numbers = line.split()
            if word == "resize":
                GLib.idle_add(server.resize, *map(int, numbers))
        GLib.idle_add(loop.quit)

    threading.Thread(target=control, daemon=True).start()
    GLib.timeout_add(1000 // server.fps, server.push)
    loop.run()


if __name__ == "__main__":
    main()
