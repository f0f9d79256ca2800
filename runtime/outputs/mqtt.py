"""Talks to an MQTT broker on one thread: connects, sends what is in the outbox, and comes back after every loss.

paho-mqtt is known here alone. It queues without limit what a slow broker does not take; so each message is given to it
only once the one before has left for the network, and each connection is a new client.
"""

from __future__ import annotations

import os
import re
import ssl
import stat
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .. import console
from ..errors import UsageError
from ..sources.names import display_name, split_url
from .outbox import OFFLINE, Outbox

try:
    from paho.mqtt import MQTTException, client, enums, packettypes, properties, reasoncodes
except ImportError as error:
    raise UsageError(
        f"--mqtt: expected paho-mqtt, found none that can be imported ({error}): pip install 'hybrid-edge[mqtt]'"
    ) from error

PASSWORD = "HYBRID_EDGE_MQTT_PASSWORD"  # noqa: S105  # the variable's name
DEFAULT_PREFIX = "hybrid-edge"
MAX_PREFIX = 200  # bytes
MAX_PASSWORD = 2**16 - 1  # bytes, MQTT's limit
KEEPALIVE = 20  # seconds; a broker that has not answered for two of them is gone, one gone for 30 sends the last will
CONNECT_TIMEOUT = 5.0  # seconds for TCP, and again for TLS
ACCEPT_TIMEOUT = 10.0  # seconds more for the broker's answer
TURN = 0.1  # seconds that the network is waited for at most before the outbox is looked at
FIRST_DELAY = 1.0  # seconds before the first try to come back, doubling
MAX_DELAY = 30.0
REFUSED_DELAY = 60.0  # seconds: a password that is wrong stays wrong, and brokers ban who tries it often
STEADY = 10.0  # seconds of a connection after which delays start small again
SAY_EVERY = 60.0  # seconds between two lines about a broker that is not there
CLOSE_TIMEOUT = 1.0  # seconds for the farewell
WRONG_PASSWORD = ("Not authorized", "Bad user name or password")
SLOW = (*WRONG_PASSWORD, "Banned", "Unsupported protocol version")  # tried again after REFUSED_DELAY
MAX_RECEIVED = 4096  # bytes of a message that the broker may send here: nothing is asked for that has more
# what a connection, or a broker that talks nonsense, makes of paho
FAULTS = (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error, MQTTException)


@dataclass(frozen=True)
class Broker:
    """This is where messages go: ``display`` may be shown, ``password`` may not."""

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None = field(repr=False)
    prefix: str
    display: str


def parse_broker(address: str, password_file: Path | None = None) -> Broker:
    """Read ``mqtt://[USER@]HOST[:PORT][/PREFIX]``, or mqtts for TLS; the password comes from a file or the environment.

    Raises:
        UsageError: the address is another, has a password or a prefix that no topic can have; a password has no user;
            its file can't be read, is empty, or can be read by everybody.
    """
    match = re.match(r"(mqtts?)://", address, re.IGNORECASE)
    if match is None or re.search(r"[?#\s]", address):
        raise UsageError(f"--mqtt {display_name(address)}: expected mqtt://[USER@]HOST[:PORT][/PREFIX], or mqtts://")
    parts, host, port = split_url(address)
    if parts.password is not None:
        raise UsageError(
            f"--mqtt {display_name(address)}: expected no password, which every process of this machine can read "
            f"on a command line: write it into a file for --mqtt-password-file, or into the variable {PASSWORD}"
        )
    prefix = unquote(parts.path).strip("/") or DEFAULT_PREFIX
    if re.search(r"[+#\x00-\x1f\x7f]|^\$|//", prefix) or len(prefix.encode()) > MAX_PREFIX:
        raise UsageError(
            f"--mqtt: expected a prefix of up to {MAX_PREFIX} bytes without +, #, $ at the start, control characters "
            f"and empty levels, found {prefix!r}"
        )
    user, password = unquote(parts.username or "") or None, _password(password_file)
    if password is not None and user is None:
        example = address.replace("://", "://USER@", 1)
        raise UsageError(f"--mqtt {address}: expected a user for the password, as in {example}")
    tls = match[1].lower() == "mqtts"
    return Broker(host, port, tls, user, password, prefix, display_name(address))


def _password(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(PASSWORD)
    try:
        with path.open("rb") as file:
            open_to_all = os.fstat(file.fileno()).st_mode & stat.S_IROTH
            text = file.read(MAX_PASSWORD).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--mqtt-password-file {path}: expected a file with the password, found: {error}") from error
    if open_to_all:
        raise UsageError(
            f"--mqtt-password-file {path}: expected a file that not everybody on this machine can read: "
            f"chmod 600 {path}"
        )
    if not (password := text.rstrip("\r\n")):
        raise UsageError(f"--mqtt-password-file {path}: expected the password, found an empty file")
    return password


class Mqtt(Outbox):
    """This sink publishes answers, events and snapshots to a broker, which may be slow, gone or refuse.

    A thread of its own does all that takes time. ``errors`` counts the connections that failed or were lost.
    """

    def __init__(
        self, broker: Broker, live: Sequence[str] = (), top_k: int = 5, say: Callable[[str], None] = console.say
    ) -> None:
        super().__init__(broker.prefix, live, top_k)
        self.errors = 0
        self._broker = broker
        self._say = say
        self._said_at = float("-inf")
        self._outage: float | None = -1.0  # when the one began that was said, None without; below 0 before the first
        self._told = ""  # why the broker refuses, or ended the connection, in its own words
        self._accepted = False
        self._awaited = -1  # paho's number of the message that is to be confirmed
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell the broker that this run is over, if it listens; waits for a second at most."""
        self._ended.set()
        self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        delay = FIRST_DELAY
        while not self._ended.is_set():
            began = time.monotonic()
            self._accepted, self._told = False, ""
            connection = self._client()
            try:
                self._talk(connection)
            except FAULTS as error:
                brief = self._accepted and time.monotonic() - began < STEADY
                hint = "; where another run has the same prefix, each needs its own" if brief else ""
                self._fault((self._told or _reason(error)) + hint)
                delay = delay if brief or not self._accepted else FIRST_DELAY
            finally:
                if (left := connection.socket()) is not None:
                    left.close()  # without a farewell, so that the broker sends the last will
            self._ended.wait(REFUSED_DELAY if any(word in self._told for word in SLOW) else delay)
            delay = min(2 * delay, MAX_DELAY)

    def _client(self) -> client.Client:
        made = client.Client(enums.CallbackAPIVersion.VERSION2, self.client, protocol=client.MQTTv5)
        made.connect_timeout = CONNECT_TIMEOUT
        made.will_set(self.available, OFFLINE, qos=1, retain=True)
        if self._broker.user is not None:
            made.username_pw_set(self._broker.user, self._broker.password)
        made.on_connect = self._on_connect
        made.on_disconnect = self._on_disconnect
        made.on_publish = self._on_publish
        made.on_message = self._on_message
        return made

    def _talk(self, connection: client.Client) -> None:
        """Connect and send until the end of the run; raise OSError, or what paho does, where the connection is lost."""
        if self._broker.tls:
            connection.tls_set_context(ssl.create_default_context())
        limits = properties.Properties(packettypes.PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limits.MaximumPacketSize = MAX_RECEIVED
        connection.connect(self._broker.host, self._broker.port, KEEPALIVE, properties=limits)
        accept_by = time.monotonic() + ACCEPT_TIMEOUT
        while not self._ended.is_set():
            before = self._accepted
            if code := connection.loop(TURN):
                raise ConnectionError(client.error_string(code).rstrip(".").lower())
            if self._accepted and not before:
                connection.subscribe([(topic, 0) for topic in self.subscriptions])
                self.connected()
                self._greet()
            if self._accepted:
                self._send(connection)
            elif time.monotonic() > accept_by:
                raise ConnectionError(f"no answer within {ACCEPT_TIMEOUT:g} s")
        self._farewell(connection)

    def _send(self, connection: client.Client) -> None:
        while not connection.want_write() and (message := self.next_message()) is not None:
            sent = connection.publish(
                message.topic, message.payload, qos=int(message.confirmed), retain=message.retained
            )
            if message.confirmed:
                self._awaited = sent.mid

    def _farewell(self, connection: client.Client) -> None:
        if not self._accepted:
            return
        self._send(connection)
        connection.publish(self.available, OFFLINE, retain=True)
        connection.disconnect()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        while connection.want_write() and time.monotonic() < deadline and not connection.loop(TURN):
            pass

    def _on_connect(self, *told: Any) -> None:
        """Take the broker's answer, the fourth of paho's arguments."""
        code: reasoncodes.ReasonCode = told[3]
        self._accepted = not code.is_failure
        if code.is_failure:
            self._told = f"the broker refuses: {code}"
            if str(code) in WRONG_PASSWORD:
                user = "user" if self._broker.user else "user, which the address lacks,"
                self._told += f"; check the {user} and the password, of --mqtt-password-file or {PASSWORD}"

    def _on_disconnect(self, *told: Any) -> None:
        """Take the broker's reason where it has one; flags and reason are the third and fourth of paho's arguments."""
        if told[2].is_disconnect_packet_from_server:
            self._told = f"the broker ended the connection: {told[3]}"

    def _on_message(self, _client: client.Client, _userdata: object, message: client.MQTTMessage) -> None:
        self.received(message.topic, bytes(message.payload), retained=message.retain)

    def _on_publish(self, _client: client.Client, _userdata: object, number: int, *_: object) -> None:
        if number == self._awaited:
            self.confirmed()

    def _fault(self, reason: str) -> None:
        """Count a failure, and say it unless another was said within a minute."""
        self.errors += 1
        now = time.monotonic()
        if now - self._said_at < SAY_EVERY or self._ended.is_set():
            return
        self._said_at, self._outage = now, self._outage or now
        failures = "" if self.errors == 1 else f" ({self.errors} failures so far)"
        self._say(f"{self._broker.display}: expected an MQTT broker, found: {reason}; trying again{failures}")

    def _greet(self) -> None:
        """Say that there is a connection, if that was not so or it is the first."""
        if self._outage is not None:
            after = "" if self._outage < 0 else f" again after {time.monotonic() - self._outage:.0f} s"
            self._say(f"{self._broker.display}: connected{after}")
        self._outage = None


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"a certificate that nobody vouches for ({error.verify_message}); SSL_CERT_FILE=ca.pem makes an authority "
            "of one's own known"
        )
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return f"what is not MQTT 5 ({type(error).__name__}: {error})"
