"""TCP connections that stall, end, swallow what comes, or are never made."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

CLOSE_WAIT = 8  # of linux/tcp_states.h
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset instead of an end


class Relay:
    """Passes TCP connections on to a port, on one thread, until it is told to fail."""

    host = "127.0.0.1"

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0
        self.edit: Callable[[bytes], bytes] = lambda data: data  # what the server sends
        self._pairs: list[_Pair] = []
        self._ears: socket.socket | None = None
        self._stalled_until = 0.0
        self._dead = False
        self._damage = 0
        self._closing = False
        self._random = random.Random(7)
        self._lock = threading.RLock()
        self.restart()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def stall(self, seconds: float) -> None:
        """Nothing passes for some seconds; what comes meanwhile is late, not lost."""
        with self._lock:
            self._stalled_until = time.monotonic() + seconds

    def black_hole(self) -> None:
        """What comes is swallowed: on the connections there are for ever, on new ones until ``restore``."""
        with self._lock:
            self._dead = True
            for pair in self._pairs:
                pair.cut()

    def restore(self) -> None:
        with self._lock:
            self._dead = False

    def corrupt(self, pieces: int) -> None:
        with self._lock:
            self._damage = pieces

    def kill(self) -> None:
        """Reset every connection and refuse new ones."""
        with self._lock:
            if self._ears is not None:
                self._ears.shutdown(socket.SHUT_RDWR)  # close alone leaves it listening while select() looks at it
                self._ears.close()
                self._ears = None
            for pair in self._pairs:
                pair.close(reset=True)
            self._pairs.clear()

    def restart(self) -> None:
        family, _, _, _, place = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
        ears = socket.create_server(place, family=family, backlog=512)
        with self._lock:
            self.port = ears.getsockname()[1]
            self._ears = ears

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self.kill()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing:
            if (left := self._stalled_until - time.monotonic()) > 0:
                time.sleep(min(left, 0.02))
                continue
            with self._lock:
                ears = [] if self._ears is None else [self._ears]
                readers = ears + [end for pair in self._pairs for end in pair.readable()]
                writers = [end for pair in self._pairs for end in pair.writable()]
            try:
                ready, free, _ = select.select(readers, writers, [], 0.02)
            except (OSError, ValueError):  # killed meanwhile
                continue
            with self._lock:
                self._serve(set(ready) | set(free))

    def _serve(self, ready: set[socket.socket]) -> None:
        if self._ears in ready:
            self._accept(self._ears)
        for pair in list(self._pairs):
            if not self._pass_on(pair, ready):
                pair.close()
                self._pairs.remove(pair)

    def _pass_on(self, pair: _Pair, ready: set[socket.socket]) -> bool:
        """Whether the connection still stands."""
        try:
            if pair.server in ready:
                self._damage -= pair.receive(pair.server, self._random if self._damage > 0 else None, self.edit)
            if pair.client in ready:
                pair.receive(pair.client)
            pair.send()
        except (OSError, EOFError):
            return False
        return True

    def _accept(self, ears: socket.socket) -> None:
        client, _ = ears.accept()
        self.accepted += 1
        if client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == CLOSE_WAIT:  # given up while it waited
            client.close()
            return
        server = None
        if not self._dead:
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 1)
            except OSError:
                client.close()
                return
        self._pairs.append(_Pair(client, server))


class _Pair:
    """One client's connection and, unless it is dead, the server's that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket | None) -> None:
        self.client = client
        self.server = server
        self.waiting: dict[socket.socket, bytes] = {}
        for end in (client, server):
            if end is not None:
                end.setblocking(False)

    def readable(self) -> list[socket.socket]:
        """Ends whose other end has taken what there was, so that a slow reader is felt by the writer."""
        ends = [self.client] if self.server not in self.waiting else []
        if self.server is not None and self.client not in self.waiting:
            ends.append(self.server)
        return ends

    def writable(self) -> list[socket.socket]:
        return list(self.waiting)

    def receive(
        self,
        end: socket.socket,
        damage: random.Random | None = None,
        edit: Callable[[bytes], bytes] = lambda data: data,
    ) -> int:
        """Take what is there; returns 1 if it was damaged."""
        data = edit(end.recv(65536))
        if not data:
            raise EOFError
        other = self.server if end is self.client else self.client
        if other is None:
            return 0
        if damage is not None and len(data) > 200:  # not an answer, a piece of a frame
            damaged = bytearray(data)
            for _ in range(20):
                damaged[damage.randrange(100, len(data))] = damage.randrange(256)
            self.waiting[other] = bytes(damaged)
            return 1
        self.waiting[other] = data
        return 0

    def send(self) -> None:
        for end, data in list(self.waiting.items()):
            sent = 0
            with contextlib.suppress(BlockingIOError):
                sent = end.send(data)
            self.waiting[end] = data[sent:]
            if sent == len(data):
                del self.waiting[end]

    def cut(self) -> None:
        """From here on nothing reaches the client, which is not told."""
        if self.server is not None:
            self.server.close()
        self.server = None
        self.waiting.clear()

    def close(self, *, reset: bool = False) -> None:
        for end in (self.client, self.server):
            if end is not None:
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.close()


class Deaf:
    """A port whose queue of connections is full: a new one gets no answer at all, as from an unplugged host."""

    def __init__(self) -> None:
        self._ears = socket.socket()
        self._ears.bind(("127.0.0.1", 0))
        self._ears.listen(0)
        self.port = self._ears.getsockname()[1]
        self._queue = []
        for _ in range(4):
            end = socket.socket()
            end.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                end.connect(("127.0.0.1", self.port))
            self._queue.append(end)

    def __enter__(self) -> Deaf:
        return self

    def __exit__(self, *_: object) -> None:
        for end in (*self._queue, self._ears):
            end.close()
