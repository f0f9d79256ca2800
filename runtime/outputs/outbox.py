"""Keeps what an MQTT broker is still to be told, the newest of each topic and a limited number of events.

``docs/mqtt.md`` has the table of topics. Nothing here waits, and nothing here knows the network.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ... import __version__
from ..frame import Pixels, region_name
from ..opencv import cv2
from ..sources.events import Event
from ..sources.names import short_names
from ..sources.regions import FILES
from .sink import Answer, Result, Sink

REPEAT_EVERY = 60.0  # seconds after which an answer that stays the same is said again
SPACING = 1.0  # seconds at least between two answers of one source, and between two snapshots
EXPIRES = 150  # seconds without an answer after which Home Assistant takes it for unknown: two of them may get lost
MAX_EVENTS = 100  # that are kept while nobody takes them
SNAPSHOT_SIDE = 1280  # pixels of a snapshot's longer side at most
SNAPSHOT_QUALITY = 85  # JPEG's, from 0 to 100; with the side above, noise alone has 1 MB
ONLINE, OFFLINE = "online", "offline"
HOME = "homeassistant"  # Home Assistant's topic for discovery and its own birth and death


@dataclass(frozen=True)
class Message:
    """This class is one message; a ``confirmed`` one has arrived when the broker says so, and not when it was sent."""

    topic: str
    payload: str | bytes
    retained: bool = False
    confirmed: bool = False


class Watched:
    """This class holds the newest answer of one source, or of a region of it, and what was last sent of it."""

    def __init__(self, topic: str, source: str, region: str) -> None:
        self.topic = topic
        self.source = source
        self.region = region
        self.result: Result | None = None
        self._seen = 0.0  # when the result came, ``time.monotonic()`` seconds
        self._sent: tuple[str, float] | None = None
        self._sent_at = float("-inf")

    def take(self, result: Result) -> None:
        """Keep a result, which has an answer, in place of the one before."""
        self.result, self._seen = result, time.monotonic()

    def forget(self) -> None:
        """Send the newest answer anew: whoever listens now may not have it."""
        self._sent, self._sent_at = None, float("-inf")

    def due(self, now: float) -> bool:
        """Return whether the answer is to be sent now; one of a source that has been silent for a minute is not."""
        if self.result is None or self.result.answer is None or now - self._seen >= REPEAT_EVERY:
            return False
        same = self._sent == _identity(self.result.answer)
        return now - self._sent_at >= (REPEAT_EVERY if same else SPACING)

    def sent(self, now: float) -> Result | None:
        """Note that the newest answer goes out now, and return its result."""
        if self.result is not None and self.result.answer is not None:
            self._sent, self._sent_at = _identity(self.result.answer), now
        return self.result


class Outbox(Sink):
    """This sink turns results and events into messages, which the one thread that talks to the broker takes.

    Its methods only put things under a lock. What nobody takes is bounded: the newest answer of each source and region,
    the newest 100 events (the next one tells how many there were more), the newest picture of each camera.
    """

    def __init__(self, prefix: str, live: Sequence[str] = (), top_k: int = 5) -> None:
        """Keep messages for topics below ``prefix``; ``live`` names the cameras and streams as their frames do."""
        self.prefix = prefix
        # of up to 23 letters and digits, which every broker takes; two runs with one prefix would be one client
        self.client = f"hybrid-edge-{hashlib.sha256(prefix.encode()).hexdigest()[:10]}"
        self._top_k = top_k
        self._short = short_names([*live, FILES])
        self._live = frozenset(live)
        self._lock = threading.Lock()
        self._watched: dict[str, Watched] = {}
        self._pictures: dict[str, Pixels] = {}
        self._requested: dict[str, None] = {}  # sources whose snapshot was asked for, in order
        self._snapshot_at = float("-inf")
        self._events: deque[Event] = deque()
        self._missed = 0
        self._unconfirmed: Message | None = None
        self._greeting: deque[Message] = deque()  # what comes before everything else, after a connection was made

    def write(self, result: Result) -> None:
        """Keep a result's answer and picture in place of the ones before of its source."""
        frame = result.frame
        source = frame.source if frame.source in self._live else FILES
        picture = frame.image if frame.whole is None else frame.whole
        with self._lock:
            if picture is not None:
                self._pictures[source] = picture
            if result.answer is not None:
                name = region_name(source, frame.region)
                watched = self._watched.get(name) or self._watch(name, source, frame.region)
                watched.take(result)

    def event(self, event: Event) -> None:
        """Keep an event, and give up the oldest where there are too many."""
        with self._lock:
            self._events.append(event)
            if len(self._events) > MAX_EVENTS:
                self._events.popleft()
                self._missed += 1

    @property
    def available(self) -> str:
        """The topic that says whether this run is there."""
        return f"{self.prefix}/available"

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topics on which the broker is asked for messages."""
        return f"{self.prefix}/+/snapshot/request", f"{HOME}/status"

    def connected(self) -> None:
        """Begin anew: a broker that was away may have lost everything."""
        with self._lock:
            self._greeting.clear()
            self._greeting.append(Message(self.available, ONLINE, retained=True))
            self._introduce()
            if self._unconfirmed is not None:
                self._greeting.append(self._unconfirmed)

    def confirmed(self) -> None:
        """Let the next event go: the broker has the one before."""
        with self._lock:
            self._unconfirmed = None

    def received(self, topic: str, payload: bytes, *, retained: bool) -> None:
        """Take a message; one that the broker kept from before asks for nothing."""
        if retained:
            return
        with self._lock:
            if topic == f"{HOME}/status":
                if payload == ONLINE.encode():
                    self._introduce()
                return
            asked = [name for name in self._pictures if topic == f"{self._place(name)}/snapshot/request"]
            self._requested.update(dict.fromkeys(asked))

    def next_message(self) -> Message | None:
        """Return what is to be sent now, and None where nothing is; it counts as sent."""
        now = time.monotonic()
        with self._lock:
            if self._greeting:
                return self._greeting.popleft()
            if self._events and self._unconfirmed is None:
                self._unconfirmed = self._event(self._events.popleft())
                return self._unconfirmed
            watched = next((item for item in self._watched.values() if item.due(now)), None)
            result = watched.sent(now) if watched is not None else None
            name = None
            if watched is None and self._requested and now - self._snapshot_at >= SPACING:
                name = next(iter(self._requested))
                del self._requested[name]
                self._snapshot_at = now
                topic, picture = f"{self._place(name)}/snapshot", self._pictures[name]
        # what takes time is done without the lock
        if watched is not None and result is not None:
            return self._classification(watched, result)
        return None if name is None else Message(topic, _jpeg(picture))

    def _watch(self, name: str, source: str, region: str) -> Watched:
        self._short = short_names([*self._short, name])
        watched = self._watched[name] = Watched(f"{self._place(name)}/classification", source, region)
        self._greeting.append(self._discovery(watched, name))
        return watched

    def _place(self, name: str) -> str:
        return f"{self.prefix}/{self._short[name]}"

    def _introduce(self) -> None:
        for name, watched in self._watched.items():
            self._greeting.append(self._discovery(watched, name))
            watched.forget()

    def _discovery(self, watched: Watched, name: str) -> Message:
        """Return what makes Home Assistant show a sensor for this source by itself, of one device for the whole run."""
        short = self._short[name]
        about = {
            "name": short,
            "unique_id": f"{self.client}_{short}",
            "state_topic": watched.topic,
            "value_template": "{{ value_json.label[:255] }}",  # the longest state that there can be
            "json_attributes_topic": watched.topic,
            "availability_topic": self.available,
            "expire_after": EXPIRES,
            "icon": "mdi:cctv",
            "device": {"identifiers": [self.client], "name": self.prefix, "manufacturer": "hybrid-edge"},
            "origin": {"name": "hybrid-edge", "sw_version": __version__},
        }
        return Message(f"{HOME}/sensor/{self.client}/{short}/config", json.dumps(about), retained=True)

    def _event(self, event: Event) -> Message:
        about: dict[str, object] = {"event": event.kind, "source": event.source, "detail": event.detail}
        about.update(time=round(event.timestamp, 6), seconds=event.seconds and round(event.seconds, 3))
        if self._missed:
            about["missed"], self._missed = self._missed, 0
        source = event.source if event.source in self._live else FILES
        place = self._place(source) if event.source else self.prefix
        return Message(f"{place}/event", json.dumps(about), confirmed=True)

    def _classification(self, watched: Watched, result: Result) -> Message:
        answer, prediction = result.answer, result.prediction
        top = [] if prediction is None else prediction.top(self._top_k)
        about: dict[str, object] = {"source": watched.source, "time": round(result.frame.timestamp or time.time(), 6)}
        about.update({"region": watched.region} if watched.region else {})
        if answer is not None:
            about.update(label=answer.label, probability=_rounded(answer.probability), since=round(answer.since, 6))
        about["top"] = [{"label": label, "probability": _rounded(probability)} for label, probability in top]
        return Message(watched.topic, json.dumps(about), retained=True)


def _identity(answer: Answer) -> tuple[str, float]:
    return answer.label, answer.since


def _rounded(probability: float) -> float:
    return float(f"{probability:.7g}")


def _jpeg(picture: Pixels) -> bytes:
    """Return a picture as JPEG, made smaller where its longer side is more than ``SNAPSHOT_SIDE`` pixels."""
    height, width = picture.shape[:2]
    scale = min(SNAPSHOT_SIDE / max(height, width), 1.0)
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, SNAPSHOT_QUALITY])[1])
