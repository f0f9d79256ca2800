import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from support.live.results import make_result
from support.live.run import LiveRun, processes_of, soon
from support.models.bundles import make_bundle
from support.streams.servers import MjpegStream, server_context

pytest.importorskip("paho.mqtt", reason="needs the extra mqtt")
from support.streams import mqtt_broker
from support.streams.mqtt_broker import ACCEPTED, BadBroker, Heard, Listener, Mosquitto

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.outputs import mqtt, outbox
from hybrid_edge.runtime.outputs.mqtt import PASSWORD, Mqtt, parse_broker
from hybrid_edge.runtime.outputs.outbox import Message, Outbox
from hybrid_edge.runtime.outputs.sink import Answer, Result
from hybrid_edge.runtime.sources.events import Event

needs_broker = pytest.mark.skipif(mqtt_broker.missing is not None, reason=str(mqtt_broker.missing))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    for name in ("FIRST_DELAY", "MAX_DELAY", "TURN"):
        monkeypatch.setattr(mqtt, name, 0.02)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


def answered(label: str, since: float = 1.0, source: str = "cam0", region: str = "", **settings: Any) -> Result:
    result = make_result(source, **settings)
    whole = result.frame.image if region else None
    view = result.frame.image[:60, :80] if region else result.frame.image
    frame = replace(result.frame, region=region, image=view, whole=whole)
    return replace(result, frame=frame, answer=Answer(label, 0.75, since))


def event(kind: Any = "lost", source: str = "cam0", detail: str = "gone") -> Event:
    return Event(kind, source, detail, 1_800_000_000.5, 2.5)


@contextmanager
def publishing(address: str, live: tuple[str, ...] = ("cam0",), said: list[str] | None = None) -> Iterator[Mqtt]:
    sink = Mqtt(parse_broker(address), live, 2, [].append if said is None else said.append)
    try:
        yield sink
    finally:
        sink.close()


def read(heard: Heard) -> dict[str, Any]:
    return dict(json.loads(heard.payload))


@pytest.mark.parametrize(
    ("address", "host", "port", "user", "prefix"),
    [
        ("mqtt://broker", "broker", 1883, None, "hybrid-edge"),
        ("MQTTS://broker/", "broker", 8883, None, "hybrid-edge"),
        ("mqtt://anna@10.0.0.5:18/yard/pole%201/", "10.0.0.5", 18, "anna", "yard/pole 1"),
        ("mqtt://an%40na@[::1]/Tür", "::1", 1883, "an@na", "Tür"),
    ],
)
def test_an_address_names_broker_user_and_prefix(
    address: str, host: str, port: int, user: str | None, prefix: str
) -> None:
    broker = parse_broker(address)
    assert (broker.host, broker.port, broker.user, broker.prefix) == (host, port, user, prefix)
    assert broker.tls == address.lower().startswith("mqtts")
    assert broker.password is None
    assert "anna" not in broker.display


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("broker", "expected mqtt://"),
        ("http://broker/", "expected mqtt://"),
        ("mqtt://broker/a?b=c", "expected mqtt://"),
        ("mqtt://broker/#", "expected mqtt://"),
        ("mqtt:///a", "expected a host"),
        ("mqtt://broker:x/a", "expected mqtt://HOST:PORT"),
        ("mqtt://broker/a/+/b", "expected a prefix"),
        ("mqtt://broker/a//b", "expected a prefix"),
        ("mqtt://broker/$SYS", "expected a prefix"),
        ("mqtt://broker/a%00b", "expected a prefix"),
        ("mqtt://broker/" + "x" * 201, "expected a prefix"),
        ("mqtt://anna:geheim@broker/a", "expected no password.*--mqtt-password-file.*HYBRID_EDGE_MQTT_PASSWORD"),
        ("mqtt://:geheim@broker/a", "expected no password"),
        ("mqtt://anna:ge/heim@broker/a", "expected mqtt://HOST:PORT"),
    ],
)
def test_another_address_or_one_with_a_password_is_refused_and_the_password_not_shown(
    address: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_broker(address)
    assert "heim" not in str(caught.value)


def test_the_password_comes_from_a_file_that_not_everybody_reads_or_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "password"
    path.write_text(" geheim \n")
    path.chmod(0o600)
    taken = parse_broker("mqtt://anna@broker", path)
    assert taken.password == " geheim "  # noqa: S105
    assert "geheim" not in repr(taken)
    with pytest.raises(UsageError, match="expected a user for the password, as in mqtt://USER@broker:1/a"):
        parse_broker("mqtt://broker:1/a", path)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="not everybody on this machine can read: chmod 600"):
        parse_broker("mqtt://anna@broker", path)
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(UsageError, match="found an empty file"):
        parse_broker("mqtt://anna@broker", path)
    with pytest.raises(UsageError, match="No such file"):
        parse_broker("mqtt://anna@broker", tmp_path / "none")
    monkeypatch.setenv(PASSWORD, "other")
    assert parse_broker("mqtt://anna@broker").password == "other"  # noqa: S105


def test_without_paho_the_extra_is_named_and_nothing_else_is_loaded_first(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["paho"] = None
sys.argv = ["hybrid-infer", "0", "--no-supervise", "--mqtt", "mqtt://broker", "--bundle", "/nowhere"]
from hybrid_edge.runtime.commands.infer import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --mqtt: expected paho-mqtt, found none that can be imported")
    assert ended.stderr.endswith("pip install 'hybrid-edge[mqtt]'\n")


def messages(box: Outbox) -> list[Message]:
    return list(iter(box.next_message, None))


def labels(box: Outbox) -> list[str]:
    return [json.loads(message.payload)["label"] for message in messages(box) if "classification" in message.topic]


def test_an_answer_goes_out_when_it_changed_at_most_once_a_second_and_every_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now, time=time.time)
    monkeypatch.setattr(outbox, "time", clock)
    box = Outbox("pole", ["cam0", "cam1"])
    box.write(answered("cat"))
    box.write(answered("dog", source="cam1"))
    assert labels(box) == ["cat", "dog"]
    for number in range(30):  # flickers for a second
        clock.now += 0.03
        box.write(answered("dog" if number % 2 else "fox", 2.0 + number))
    assert labels(box) == []
    clock.now += 0.2
    assert labels(box) == ["dog"]
    clock.now += 58
    box.write(answered("dog", 31.0))
    assert labels(box) == []
    clock.now += 3
    assert labels(box) == ["dog"]
    clock.now += 59
    assert labels(box) == []
    clock.now += 2  # by now both cameras have been silent for more than a minute
    assert labels(box) == []
    box.connected()
    assert labels(box) == []
    box.write(answered("dog", 31.0))
    box.write(replace(answered("dog", source="cam1"), answer=None, prediction=None))
    assert labels(box) == ["dog"]


def test_events_wait_for_a_broker_newest_kept_and_the_next_one_tells_how_many_were_given_up() -> None:
    box = Outbox("pole", ["cam0"])
    for number in range(130):
        box.event(event(detail=str(number)))
    first = box.next_message()
    assert (first.topic, first.confirmed) == ("pole/cam0/event", True)
    assert json.loads(first.payload) == {
        "event": "lost", "source": "cam0", "detail": "30", "time": 1_800_000_000.5, "seconds": 2.5, "missed": 30
    }  # fmt: skip
    assert box.next_message() is None  # before the first one has arrived
    box.connected()
    assert messages(box)[-1] == first  # it may have been lost with the connection
    told = []
    while True:
        box.confirmed()
        if (message := box.next_message()) is None:
            break
        told.append(json.loads(message.payload))
    assert [about["detail"] for about in told] == [str(number) for number in range(31, 130)]
    assert not any("missed" in about for about in told)


@needs_broker
def test_whoever_comes_late_finds_availability_answers_and_discovery_and_no_events(broker: Mosquitto) -> None:
    live = ("rtsp://192.168.1.20/stream1", "/dev/video0")
    with publishing(f"mqtt://127.0.0.1:{broker.port}/yard/pole", live) as sink, Listener(broker.port) as early:
        sink.write(answered("cat", 5.0, live[0]))
        sink.write(answered("dog", 6.0, live[1], region="gate"))
        sink.write(answered("fox", 7.0, "photo.png", video=False))
        sink.event(event(source=live[1]))
        sink.event(event("engine-hung", ""))
        assert read(early.wait("yard/pole/video0/event"))["event"] == "lost"
        assert read(early.wait("yard/pole/event"))["event"] == "engine-hung"
        early.wait("yard/pole/files/classification")
        with Listener(broker.port, "yard/pole/#", f"homeassistant/sensor/{sink.client}/#") as late:
            answer = read(late.wait("yard/pole/192-168-1-20-stream1/classification", lambda heard: heard.retained))
            assert answer.pop("time") > 1_800_000_000
            assert answer == {
                "source": live[0],
                "label": "cat",
                "probability": 0.75,
                "since": 5.0,
                "top": [{"label": "cat", "probability": 0.75}, {"label": "dog", "probability": 0.2}],
            }
            gate = read(late.wait("yard/pole/video0-gate/classification"))
            assert (gate["source"], gate["region"], gate["label"]) == (live[1], "gate", "dog")
            assert late.wait("yard/pole/available") == Heard("yard/pole/available", b"online", True)
            found = read(late.wait(f"homeassistant/sensor/{sink.client}/video0-gate/config"))
            assert found["state_topic"] == found["json_attributes_topic"] == "yard/pole/video0-gate/classification"
            assert found["availability_topic"] == "yard/pole/available"
            assert found["unique_id"] == f"{sink.client}_video0-gate"
            assert found["device"]["identifiers"] == [sink.client]
            assert found["value_template"] == "{{ value_json.label[:255] }}"
            assert found["expire_after"] > 2 * outbox.REPEAT_EVERY
            assert not [heard for heard in late.heard if heard.topic.endswith("/event")]
            late.heard.clear()
            late.say("homeassistant/status", "online")  # it has started anew
            late.wait(f"homeassistant/sensor/{sink.client}/files/config")
            late.wait("yard/pole/files/classification")
    assert Outbox("yard/pole2").client != sink.client == Outbox("yard/pole").client


@needs_broker
def test_a_snapshot_is_the_whole_picture_made_small_and_an_old_request_asks_for_nothing(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SPACING", 0.0)
    with Listener(broker.port) as listener:
        listener.say("snap/cam0/snapshot/request", retain=True)
        noise = np.random.default_rng(1).integers(0, 256, (1500, 2560, 3), np.uint8)
        with publishing(f"mqtt://127.0.0.1:{broker.port}/snap") as sink:
            sink.write(answered("cat", region="gate", image=noise))
            listener.wait("snap/cam0-gate/classification")
            for topic in ("snap/cam9/snapshot/request", "snap/cam0-gate/snapshot/request"):
                listener.say(topic)
            listener.say("snap/cam0/snapshot/request", "x" * 50_000)  # more than anybody needs to say
            listener.say("snap/cam0/snapshot/request", "now")
            picture = listener.wait("snap/cam0/snapshot")
            listener.say("snap/cam0/snapshot/request")
            listener.wait("snap/cam0/snapshot", count=2)
            assert not picture.retained
            assert cv2.imdecode(np.frombuffer(picture.payload, np.uint8), cv2.IMREAD_COLOR).shape == (750, 1280, 3)
            assert len(picture.payload) < 2**20
            assert len([heard for heard in listener.heard if heard.topic.endswith("/snapshot")]) == 2
            assert sink.errors == 0
        assert listener.wait("snap/available", count=2).payload == b"offline"
        listener.say("snap/cam0/snapshot/request", retain=True)


@needs_broker
def test_a_wrong_password_is_said_clearly_and_the_right_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords, said = tmp_path / "passwords", list[str]()
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "anna", "geheim"], check=True)
    with Mosquitto(tmp_path, f"password_file {passwords}") as broker:
        address = f"mqtt://anna@127.0.0.1:{broker.port}/p"
        monkeypatch.setenv(PASSWORD, "wrong")
        with publishing(address, said=said) as sink:
            assert soon(lambda: said)
            assert soon(lambda: sink.errors == 1)
        assert said[0].startswith(
            f"mqtt://127.0.0.1:{broker.port}/p: expected an MQTT broker, found: the broker refuse"
        )
        assert "check the user and the password, of --mqtt-password-file or HYBRID_EDGE_MQTT_PASSWORD" in said[0]
        monkeypatch.setenv(PASSWORD, "geheim")
        with publishing(address, said=said), Listener(broker.port, user="anna:geheim") as listener:
            listener.wait("p/available")
    assert said[1:] == [f"mqtt://127.0.0.1:{broker.port}/p: connected"]


@needs_broker
def test_two_runs_of_one_prefix_are_told_so(broker: Mosquitto) -> None:
    said: list[str] = []
    address = f"mqtt://127.0.0.1:{broker.port}/same"
    with publishing(address, said=said):
        assert soon(lambda: said)
        with publishing(address):
            assert soon(lambda: len(said) > 1)
    assert said[1].endswith("lost; where another run has the same prefix, each needs its own; trying again")


@needs_broker
def test_tls_verifies_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, certificate = server_context(tmp_path)
    said: list[str] = []
    with Mosquitto(tmp_path, f"certfile {certificate}", f"keyfile {tmp_path / 'key.pem'}") as broker:
        address = f"mqtts://localhost:{broker.port}/tls"
        with publishing(address, said=said):
            assert soon(lambda: said)
        assert "a certificate that nobody vouches for (self" in said[0]
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with publishing(address, said=said) as sink:
            sink.write(answered("cat", image=np.zeros((720, 1280, 3), np.uint8)))
            assert soon(lambda: len(said) == 2)
            assert said[1].endswith("/tls: connected")
            assert soon(lambda: not messages(sink))
            assert sink.errors == 0


@needs_broker
def test_a_broker_that_was_killed_hears_the_newest_state_when_it_is_back(tmp_path: Path) -> None:
    said: list[str] = []
    with Mosquitto(tmp_path) as broker, publishing(f"mqtt://127.0.0.1:{broker.port}/back", said=said) as sink:
        with Listener(broker.port) as listener:
            sink.write(answered("cat"))
            listener.wait("back/cam0/classification")
        broker.kill()
        for number in range(50):
            sink.write(answered("dog", number))
        sink.write(answered("fox", 99))
        sink.event(event(detail="while it was away"))
        assert soon(lambda: sink.errors >= 3)
        broker.start()
        with Listener(broker.port) as listener:
            assert read(listener.wait("back/cam0/classification"))["label"] == "fox"
            listener.wait("back/available")
            listener.wait(f"homeassistant/sensor/{sink.client}/cam0/config")
            sink.event(event(detail="after it"))
            assert read(listener.wait("back/cam0/event", lambda heard: b"after" in heard.payload))
        assert soon(lambda: len(said) == 3)
    assert len([line for line in said if "expected an MQTT broker" in line]) == 1  # once a minute at most
    assert "connected again after" in said[2]


def test_a_broker_that_takes_nothing_holds_nobody_up_and_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "SPACING", 0.0)
    monkeypatch.setattr(mqtt, "KEEPALIVE", 1)
    with BadBroker(ACCEPTED) as broker, publishing(f"mqtt://127.0.0.1:{broker.port}/full") as sink:
        noise = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), np.uint8)

        results = [answered(label, image=noise) for label in ("cat", "dog")]

        def flood(count: int) -> None:
            for number in range(count):
                sink.write(results[number % 2])
                sink.event(event(detail="x" * 1000))
                sink.received("full/cam0/snapshot/request", b"", retained=False)
                if number % 20 == 0:
                    time.sleep(0.001)  # lets the other thread fill the network's buffers

        flood(1000)
        assert soon(lambda: broker.connections >= 2)  # it never answered, and was left
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        flood(10_000)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # KiB; the events alone had 10 MB


@needs_broker
def test_a_broker_that_talks_nonsense_is_left_and_a_good_one_found_later(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = random.Random(7)
    lies = [ACCEPTED + noise.randbytes(200) for _ in range(25)] + [noise.randbytes(60) for _ in range(15)]
    said: list[str] = []
    with (
        BadBroker(*lies, b"HTTP/1.1 400 Bad Request\r\n\r\n", hangs_up=True) as bad,
        publishing(f"mqtt://127.0.0.1:{bad.port}/lies", said=said) as sink,
        Listener(broker.port) as listener,
    ):
        assert soon(lambda: sink.errors >= len(lies), 30)
        object.__setattr__(sink._broker, "port", broker.port)
        listener.wait("lies/available")


@needs_broker
def test_the_command_publishes_what_its_camera_shows_and_a_killed_worker_is_told(
    tmp_path: Path, broker: Mosquitto
) -> None:
    bundle, mark = make_bundle(tmp_path / "bundle"), f"mark-{time.monotonic()}"
    with Listener(broker.port) as listener, MjpegStream(fps=10) as camera:
        url = camera.url.replace("//", "//anna:geheim@")
        address = f"mqtt://127.0.0.1:{broker.port}/{mark}"
        with LiveRun(url, "--bundle", bundle, "--headless", "--mqtt", address, environment={"MARK": mark}) as run:
            short = f"127-0-0-1-{camera.port}-live"
            answer = read(listener.wait(f"{mark}/{short}/classification"))
            assert answer["source"] == camera.url
            assert answer["label"] == answer["top"][0]["label"]
            run.until(lambda: run.results, what="results")
            assert answer["label"] in run.results[0]["labels"]
            listener.say(f"{mark}/{short}/snapshot/request")
            shown = cv2.imdecode(np.frombuffer(listener.wait(f"{mark}/{short}/snapshot").payload, np.uint8), 1)
            assert shown.shape == (240, 320, 3)
            camera.kill()
            assert read(listener.wait(f"{mark}/{short}/event"))["event"] == "lost"
            camera.restart()
            for pid in processes_of(mark):
                if pid != run.process.pid:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            assert listener.wait(f"{mark}/available", count=2).payload == b"offline"  # the last will
            assert listener.wait(f"{mark}/available", count=3).payload == b"online"
            assert read(listener.wait(f"{mark}/event"))["event"] == "engine-hung"
            run.process.terminate()
            assert run.end() == 0
            assert listener.wait(f"{mark}/available", count=4).payload == b"offline"
        assert any(line.endswith(": connected") for line in run.errors)
        said = "".join(run.errors) + str(run.lines) + str(listener.heard)
        assert "geheim" not in said
        assert "anna" not in said
