"""The API of a run's page: what each address answers is what openapi.json says, and what the run really does."""

import json
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.live.pipelines import Camera
from support.live.web_client import Served, serve
from support.models.bundles import encode, sample_image

from hybrid_edge.runtime import Classifier
from hybrid_edge.runtime.outputs.sink import UNKNOWN
from hybrid_edge.runtime.preprocess import decode_image
from hybrid_edge.runtime.web import routes

DESCRIPTION: dict[str, Any] = json.loads((Path(routes.__file__).parent / "openapi.json").read_text())
TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "null": (type(None),),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}


def faults(schema: dict[str, Any], value: Any, where: str = "") -> list[str]:
    """What of a value a schema forbids: the part of JSON Schema that openapi.json uses."""
    if "$ref" in schema:
        schema = DESCRIPTION["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        none = all(faults(choice, value) for choice in schema["anyOf"])
        return [f"{where}: {value!r} is none of {schema['anyOf']}"] if none else []
    if not isinstance(value, TYPES[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return [f"{where}: {value!r} is no {schema['type']}"]
    if schema["type"] == "array":
        return [fault for item in value for fault in faults(schema["items"], item, f"{where}[]")]
    return object_faults(schema, value, where) if schema["type"] == "object" else []


def object_faults(schema: dict[str, Any], value: dict[str, Any], where: str) -> list[str]:
    known, other = schema.get("properties", {}), schema.get("additionalProperties", True)
    found = [f"{where}: no {name}" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        if name in known or isinstance(other, dict):
            found += faults(known.get(name, other), item, f"{where}.{name}")
        elif not other:
            found.append(f"{where}: {name} is not described")
    return found


def answer_of(path: str, method: str = "get", status: str = "200") -> dict[str, Any]:
    found = DESCRIPTION["paths"][path][method]["responses"][status]
    if "$ref" in found:
        found = DESCRIPTION["components"]["responses"][found["$ref"].rpartition("/")[2]]
    return dict(found["content"]["application/json"]["schema"])


def test_every_route_is_described_and_no_other(served: Served) -> None:
    described = {(path, method.upper()) for path, methods in DESCRIPTION["paths"].items() for method in methods}
    source = Path(routes.__file__).read_text()
    assert DESCRIPTION["openapi"].startswith("3.1")
    for path, method in described:
        asked = path.replace("{id}", "nothing").replace("{name}", "nothing")
        if path.endswith("events"):
            continue
        status = served.ask(asked, method, b"" if method == "POST" else None).status
        assert status not in (0, 405), path
        assert str(status) in DESCRIPTION["paths"][path][method.lower()]["responses"], (path, status)
        if method == "GET" and (path, "POST") not in described:
            assert served.ask(asked, "POST", b"").status == 405
    assert len(re.findall(r"\bRoute\(", source)) + 4 == len(DESCRIPTION["paths"])  # one Route stands for five


@pytest.mark.parametrize("path", ["status", "sources", "latest", "timeline", "latency", "bundle", "openapi.json"])
def test_each_answer_is_as_it_is_described(served: Served, path: str) -> None:
    answered = served.ask(f"/api/v1/{path}")
    assert answered.headers["content-type"] == "application/json"
    assert faults(answer_of(f"/api/v1/{path}"), answered.json) == []


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("latest?source=nothing", "GET", "404"), ("sources/nothing/stream", "GET", "404"), ("classify", "POST", "415")],
)
def test_each_error_is_as_it_is_described(served: Served, path: str, method: str, status: str) -> None:
    answered = served.ask(f"/api/v1/{path}", method, b"" if method == "POST" else None)
    described = f"/api/v1/{path.partition('?')[0].replace('nothing', '{id}')}"
    assert answered.status == int(status)
    assert faults(answer_of(described, method.lower(), status), answered.json) == []


def test_counts_rates_and_answers_are_the_runs(served: Served) -> None:
    served.until(lambda: served.api("status")["fps"] > 5, "a rate")
    camera, hostile = served.api("sources")
    assert (camera["id"], camera["name"], camera["flowing"]) == ("camera", "camera", True)
    assert (camera["width"], camera["height"], camera["region"]) == (1200, 300, "")
    assert camera["classified"] > 0
    assert served.api("latest?source=camera")[0]["id"] == "camera"
    latest = {item["id"]: item for item in served.api("latest")}
    assert set(latest) == {"camera", hostile["id"]} == set(served.api("timeline"))
    top = latest["camera"]["top"]
    assert [item["probability"] for item in top] == sorted((item["probability"] for item in top), reverse=True)
    assert latest["camera"]["answer"]["label"] in {item["label"] for item in top}
    assert time.time() - latest["camera"]["time"] < 60
    stages = served.api("latency")["stages"]
    assert all(sum(stage["histogram"]["counts"]) > 0 for stage in stages.values())


def test_events_tell_states_and_faults_as_they_come(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
        received = b""
        while not all(f"event: {kind}\n".encode() in received for kind in ("status", "sources", "latest")):
            received += connection.recv(2**16)
        served.events.report("lost", "http://user:secret@host/x", "gone: rtsp://a:secret@b/")
        while b"event: fault" not in received or not received.endswith(b"\n\r\n"):
            received += connection.recv(2**16)
    assert b"secret" not in received
    for kind, data in re.findall(rb"event: (\w+)\ndata: (.*)\n\n", received):
        path = f"/api/v1/{kind.decode()}"
        schema = {"$ref": "#/components/schemas/Fault"} if kind == b"fault" else answer_of(path)
        assert faults(schema, json.loads(data)) == []
    assert served.api("status")["last_fault"]["kind"] == "lost"


def test_a_stream_is_encoded_once_for_all_viewers_and_not_at_all_without_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hybrid_edge.runtime.web import motion_jpeg

    encoded: list[int] = []
    encode_jpeg = motion_jpeg.encode_jpeg
    monkeypatch.setattr(motion_jpeg, "encode_jpeg", lambda *arguments: (encoded.append(1), encode_jpeg(*arguments))[1])
    served.until(lambda: served.api("status")["viewers"] == 0, "the end of viewers before")
    time.sleep(0.3)
    del encoded[:]
    time.sleep(0.5)
    assert not encoded
    found: list[bytes] = []

    def watch() -> None:
        body = served.ask("/api/v1/sources/camera/stream", until=b"\xff\xd9\r\n").body
        found.append(body[body.index(b"\xff\xd8") : body.index(b"\xff\xd9") + 2])

    viewers = [threading.Thread(target=watch) for _ in range(8)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join()
    assert {decode_image(item).shape for item in found} == {(240, 960, 3)}  # of 300 x 1200
    assert len(encoded) < 2 * len(viewers)


def test_a_snapshot_is_the_whole_picture(served: Served) -> None:
    answered = served.ask("/api/v1/sources/camera/snapshot")
    assert answered.headers["content-type"] == "image/jpeg"
    assert re.fullmatch(r'attachment; filename="camera-\d{8}-\d{6}\.jpg"', answered.headers["content-disposition"])
    assert decode_image(answered.body).shape == (300, 1200, 3)


def test_a_picture_from_outside_gets_what_the_model_says_and_no_output_hears_of_it(
    served: Served, hostile_bundle: Path
) -> None:
    pictures = [sample_image(seed, 30, 40) for seed in range(4)]
    with Classifier.load(hostile_bundle, check=False) as classifier:
        expected = classifier.predict(pictures)
    before = {item["id"] for item in served.api("sources")}
    for picture, prediction in zip(pictures, expected, strict=True):
        answered = served.ask("/api/v1/classify", "POST", encode(picture))
        assert faults(answer_of("/api/v1/classify", "post"), answered.json) == []
        found = dict(zip(answered.json["labels"], answered.json["probabilities"], strict=True))
        assert answered.json["answer"] == prediction.label
        assert (answered.json["width"], answered.json["height"]) == (40, 30)
        assert np.allclose([found[label] for label in prediction.labels], prediction.probabilities, atol=1e-6)
    assert {item["id"] for item in served.api("sources")} == before
    assert {result.frame.source for result in served.kept.results} == {item["name"] for item in served.api("sources")}


def test_below_the_least_probability_a_picture_is_unknown_too(hostile_bundle: Path) -> None:
    with serve(hostile_bundle, min_probability=1.0) as served:
        assert served.ask("/api/v1/classify", "POST", encode(sample_image(0, 20, 20))).json["answer"] == UNKNOWN


def test_a_stream_that_is_lost_leaves_the_page_and_its_pictures_of_before(hostile_bundle: Path) -> None:
    with serve(hostile_bundle, Camera(fps=50, limit=5)) as served:
        served.until(lambda: not served.api("sources")[0]["flowing"], "the end of the flow")
        assert served.ask("/api/v1/sources/camera/snapshot").status == 200
        assert b"\xff\xd8" in served.ask("/api/v1/sources/camera/stream", until=b"\xff\xd9\r\n").body
        assert served.ask("/api/v1/classify", "POST", encode(sample_image(0, 20, 20))).status == 200


def test_the_page_ends_with_the_run_whoever_watches(hostile_bundle: Path) -> None:
    before = threading.active_count()
    with serve(hostile_bundle) as served:
        watching = [served.connect() for _ in range(3)]
        for connection, path in zip(watching, ("events", "sources/camera/stream", "status"), strict=True):
            connection.sendall(f"GET /api/v1/{path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
            assert connection.recv(100)
    for connection in watching:
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        served.connect()
    served.until(lambda: threading.active_count() <= before, "the end of all threads")
