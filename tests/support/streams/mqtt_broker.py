"""Debian's mosquitto on the loopback, a listener that keeps what it hears, and brokers that behave badly."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from paho.mqtt import client, enums

from support.live.run import soon

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
ACCEPTED = b"\x20\x03\x00\x00\x00"  # CONNACK of MQTT 5: success, no properties
missing = None if Path(MOSQUITTO).exists() else "needs Debian's mosquitto"


class Mosquitto:
    """A broker of its own port, with the lines of a configuration file; keeps nothing over a restart."""

    def __init__(self, folder: Path, *lines: str, host: str = "127.0.0.1") -> None:
        with socket.socket() as free:
            free.bind((host, 0))
            self.port = free.getsockname()[1]
        self._config = folder / f"mosquitto-{self.port}.conf"
        # as root it would become another user, who may not read the test's files
        user = ["user root"] if os.geteuid() == 0 else []
        anonymous = [] if any(line.startswith("password_file") for line in lines) else ["allow_anonymous true"]
        self._config.write_text("\n".join([f"listener {self.port} {host}", *user, *anonymous, *lines, ""]))
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert soon(self._answers)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def __enter__(self) -> Mosquitto:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@dataclass(frozen=True)
class Heard:
    topic: str
    payload: bytes
    retained: bool


class Listener:
    """A subscriber to everything, or to some topics; ``retained`` is true of what the broker had kept."""

    def __init__(self, port: int, *topics: str, context: ssl.SSLContext | None = None, user: str = "") -> None:
        self.heard: list[Heard] = []
        subscribed = threading.Event()
        self._client = client.Client(enums.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _userdata, message: self.heard.append(
            Heard(message.topic, bytes(message.payload), message.retain)
        )
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_connect = lambda *_: self._client.subscribe([(topic, 1) for topic in topics or ("#",)])
        if context is not None:
            self._client.tls_set_context(context)
        if user:
            self._client.username_pw_set(*user.split(":"))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def of(self, topic: str) -> list[Heard]:
        return [heard for heard in list(self.heard) if heard.topic == topic]

    def wait(self, topic: str, condition: Callable[[Heard], object] = bool, count: int = 1) -> Heard:
        """The ``count``-th message of a topic for which something holds, once it has come."""

        def found() -> list[Heard]:
            return [heard for heard in self.of(topic) if condition(heard)]

        assert soon(lambda: len(found()) >= count, 60), f"{topic} did not come: {self.heard}"
        return found()[count - 1]

    def say(self, topic: str, payload: str = "", *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10)

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class BadBroker:
    """Answers a connection with some bytes and never reads again; the next one ends it, or (``hangs_up``) it is closed.

    Attributes:
        connections: how many there were.
    """

    def __init__(self, *answers: bytes, hangs_up: bool = False) -> None:
        self.connections = 0
        self._last: socket.socket | None = None
        self._answers = answers
        self._hangs_up = hangs_up
        self._listening = socket.socket()
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the sooner it is full
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:  # closed
                return
            self._hang_up()
            self._last = connection
            with contextlib.suppress(OSError):
                connection.recv(1024)
                connection.sendall(self._answers[self.connections % len(self._answers)])
            self.connections += 1
            if self._hangs_up:
                time.sleep(0.05)
                self._hang_up()

    def _hang_up(self) -> None:
        if self._last is not None:
            self._last.close()

    def __enter__(self) -> BadBroker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        self._hang_up()
