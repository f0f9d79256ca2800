"""A server that answers each request with the same bytes, once or for ever and as fast as they are taken.

It is a process of its own: a thread of the tests' would share the interpreter with what it floods, and be slow.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import subprocess
import sys
import threading

MULTIPART = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


def part(body: bytes, kind: bytes = b"image/jpeg") -> bytes:
    """One part of a multipart stream."""
    return b"--frame\r\nContent-Type: " + kind + b"\r\n\r\n" + body + b"\r\n"


class Flood:
    """Sends ``head`` and, until the client goes away, ``again`` and ``again``; a context manager.

    ``connections`` counts the requests.
    """

    def __init__(self, head: bytes, again: bytes = b"") -> None:
        self.connections = 0
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([head.hex(), again.hex()]))
        self._server.stdin.close()
        self.port = int(self._server.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}/live"
        self._counter = threading.Thread(target=self._count, daemon=True)
        self._counter.start()

    def _count(self) -> None:
        for _ in self._server.stdout or ():
            self.connections += 1

    def __enter__(self) -> Flood:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()
        self._counter.join()


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        print("request", flush=True)  # noqa: T201  the parent counts them
        head, again = self.server.sent  # type: ignore[attr-defined]
        many = again * max(2**16 // max(len(again), 1), 1)
        with contextlib.suppress(OSError):
            self.request.recv(2**16)
            self.request.sendall(head)
            while again:
                self.request.sendall(many)


if __name__ == "__main__":
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.sent = tuple(map(bytes.fromhex, json.load(sys.stdin)))  # type: ignore[attr-defined]
    print(server.server_address[1], flush=True)  # noqa: T201
    server.serve_forever()
