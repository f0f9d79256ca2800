import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import pytest
from support.live.results import make_result, make_status
from support.live.run import LiveRun
from support.machines.commands import command
from support.models.bundles import make_bundle
from support.streams.reading import resources
from support.streams.servers import MjpegStream

pytest.importorskip("prometheus_client", reason="needs the extra metrics")
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text

from hybrid_edge.runtime.errors import UsageError
from hybrid_edge.runtime.listening import listen, shown_address
from hybrid_edge.runtime.outputs import metrics_server
from hybrid_edge.runtime.outputs.metrics import Metrics
from hybrid_edge.runtime.outputs.sensors import Sensors
from hybrid_edge.runtime.outputs.sink import Answer, SourceStatus

CAMERA = "rtsp://me:secret@10.0.0.7/live"
DOCS = Path(__file__).parents[3] / "docs"
OPEN = "application/openmetrics-text; version=1.0.0"


class Page:
    """A page of metrics: its families, and the value of a sample by its name and labels."""

    def __init__(self, url: str, accept: str = "") -> None:
        connection = HTTPConnection(url.removeprefix("http://").split("/")[0], timeout=10)
        connection.request("GET", "/metrics", headers={"Accept": accept})
        answer = connection.getresponse()
        assert answer.status == 200
        self.kind = answer.headers["Content-Type"]
        self.text = answer.read().decode()
        connection.close()
        parse = open_metrics if "openmetrics" in self.kind else prometheus_text
        self.families: dict[str, Metric] = {family.name: family for family in parse(self.text)}

    def value(self, name: str, **labels: str) -> float:
        (found,) = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and {key: value for key, value in sample.labels.items() if value} == labels
        ]
        return float(found)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Metrics, str]]:
    """A sink of one camera, without the sensors of this machine, and its address."""
    listener = listen("--metrics", "127.0.0.1:0")
    sink = Metrics(listener, [CAMERA], {"engine": "an engine", "variant": "int8-cpu"}, Sensors(tmp_path))
    yield sink, f"http://{shown_address(listener)}/metrics"
    sink.close()


@pytest.mark.parametrize("accept", ["", OPEN])
def test_what_was_counted_is_on_the_page_by_names_that_show_no_password(
    served: tuple[Metrics, str], accept: str
) -> None:
    sink, url = served
    result = make_result(CAMERA)
    region = replace(
        result, frame=replace(result.frame, region="gate"), answer=Answer("unknown", 0.4, 1.0, known=False)
    )
    for item in (result, result, region, make_result("a.png", captured=0), make_result(CAMERA, error="damaged")):
        sink.write(item)
    counts = SourceStatus(CAMERA, 20, 15, 3, 1, 1, 2, True, CAMERA, "")
    sink.status(replace(make_status(faults={"lost": 4}), sources=(counts, replace(counts, name="g", region="gate"))))
    page = Page(url, accept)
    camera = {"camera": "10-0-0-7-live"}
    assert page.value("hybrid_edge_results_total", **camera, label="cat") == 2
    assert page.value("hybrid_edge_results_total", **camera, region="gate", label="unknown") == 1
    assert page.value("hybrid_edge_results_total", camera="files", label="cat") == 1
    assert page.value("hybrid_edge_age_seconds_sum", **camera) == pytest.approx(2 * 0.0314)
    assert page.value("hybrid_edge_age_seconds_bucket", **camera, le="0.025") == 0
    assert page.value("hybrid_edge_age_seconds_bucket", **camera, le="0.05") == 2
    assert page.value("hybrid_edge_age_seconds_bucket", **camera, le="+Inf") == 2
    assert page.value("hybrid_edge_stage_seconds_count", stage="inference") == 4
    assert page.value("hybrid_edge_stage_seconds_sum", stage="preprocess") == pytest.approx(4 * 0.0005)
    for name, value in {"captured": 20, "classified": 15, "dropped": 3, "unreadable": 1}.items():
        assert page.value(f"hybrid_edge_frames_{name}_total", **camera, region="gate") == value
    assert page.value("hybrid_edge_reconnects_total", **camera) == 2
    assert page.value("hybrid_edge_camera_up", **camera) == 1
    assert page.value("hybrid_edge_faults_total", kind="lost") == 4
    assert page.value("hybrid_edge_faults_total", kind="engine-hung") == 0
    assert page.value("hybrid_edge_info", engine="an engine", variant="int8-cpu") == 1
    assert page.value("process_resident_memory_bytes") > 2**20
    assert ("openmetrics" in page.kind) == bool(accept)
    assert not re.search("secret|me:|rtsp", page.text)


def test_every_name_has_the_prefix_or_is_the_process_s(served: tuple[Metrics, str]) -> None:
    sink, url = served
    sink.write(make_result(CAMERA))
    sink.status(make_status(CAMERA))
    names = set(Page(url).families)
    assert len(names) > 15
    assert not {name for name in names if not name.startswith(("hybrid_edge_", "process_"))}
    assert not {name for name in names if re.search("_(ms|millis|percent)", name)}


@pytest.mark.parametrize("label", ['<b>"x"</b>', "two\nlines", "\x1b[31mred", "back\\slash", "猫"])
def test_a_label_may_be_anything(served: tuple[Metrics, str], label: str) -> None:
    sink, url = served
    result = make_result(CAMERA)
    sink.write(replace(result, answer=Answer(label, 0.9, 1.0)))
    assert Page(url).value("hybrid_edge_results_total", camera="10-0-0-7-live", label=label) == 1


def ask(url: str, request: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 10000000000\r\n\r\n", b"405"),
        (b"GET /metrics HTTP/1.1\r\nA: " + b"x" * 8169, b"431"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"404"),
        (b"GET /metrics?name=x HTTP/1.1\r\nHost: a\r\n\r\n", b"200"),
    ],
)
def test_nothing_but_the_page_is_given(served: tuple[Metrics, str], request_: bytes, status: bytes) -> None:
    assert ask(served[1], request_).startswith(b"HTTP/1.1 " + status)


def test_head_has_the_length_and_no_page(served: tuple[Metrics, str]) -> None:
    head, _, body = ask(served[1], b"HEAD /metrics HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert body == b""
    assert int(re.search(rb"Content-Length: (\d+)", head)[1]) > 1000  # type: ignore[index]


def test_500_slow_connections_take_no_thread_few_descriptors_and_leave_the_page_to_others(
    served: tuple[Metrics, str],
) -> None:
    _, url = served
    place = re.search(r"//(.*):(\d+)", url)
    assert place
    threads, before, _ = resources()
    slow = []
    for _ in range(500):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((place[1], int(place[2])))
        slow.append(connection)
    time.sleep(0.5)  # while they are accepted and ended
    assert "hybrid_edge_info" in Page(url).text
    now, descriptors, _ = resources()
    assert now == threads
    assert descriptors - before - len(slow) <= metrics_server.MAX_CONNECTIONS + 1
    for connection in slow:
        connection.close()


def test_a_connection_that_says_nothing_is_ended(served: tuple[Metrics, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "CONNECTION_TIME", 0.2)
    assert ask(served[1], b"GET /metrics HTTP/1.1\r\n") == b""


def test_closing_frees_the_port_and_ends_the_thread(tmp_path: Path) -> None:
    threads = threading.active_count()
    listener = listen("--metrics", "127.0.0.1:0")
    address = shown_address(listener)
    sink = Metrics(listener, [], {}, Sensors(tmp_path))
    with socket.create_connection(listener.getsockname()):
        sink.close()
    assert threading.active_count() == threads
    listen("--metrics", address).close()


def test_a_page_is_made_once_a_second_at_most(served: tuple[Metrics, str], monkeypatch: pytest.MonkeyPatch) -> None:
    sink, url = served
    monkeypatch.setattr(metrics_server, "RENDERED_TIME", 3600.0)
    first = Page(url).text
    sink.write(make_result(CAMERA))
    assert Page(url).text == first
    assert Page(url, OPEN).text != first  # the other form is another page


def test_a_jetson_s_sensors_are_read_and_those_that_sleep_left_out(tmp_path: Path) -> None:
    files = {
        "thermal/thermal_zone0": {"type": "cpu-thermal", "temp": "48250"},
        "thermal/thermal_zone1": {"type": "gpu-thermal", "temp": ""},
        "thermal/thermal_zone2": {"type": "cpu-thermal", "temp": "-1500"},
        "hwmon/hwmon1": {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5040", "curr1_input": "1200"}
        | {"in2_label": "NC", "in2_input": "0", "curr2_input": "0", "in3_input": "5000", "curr3_input": "10"}
        | {"in4_input": "3", "curr4_input": "1210"},
        "hwmon/hwmon0": {"name": "acpi", "power1_input": "2500000", "in1_input": "12000", "curr1_input": "7"},
    }
    for folder, contents in files.items():
        for name, text in contents.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text + "\n")
    (tmp_path / "thermal/thermal_zone3").mkdir()
    sensors = Sensors(tmp_path)
    assert sensors.temperatures() == pytest.approx({"cpu-thermal": 48.25, "cpu-thermal-2": -1.5})
    assert sensors.power() == pytest.approx({"acpi": 2.5, "VDD_IN": 6.048, "ina3221-3": 0.05})
    (tmp_path / "thermal/thermal_zone0/temp").unlink()
    assert sensors.temperatures().keys() == {"cpu-thermal-2"}


def results_of(page: Page) -> float:
    return float(sum(sample.value for sample in page.families["hybrid_edge_results"].samples))


def test_a_live_run_serves_what_its_lines_say(tmp_path: Path) -> None:
    with MjpegStream() as stream:
        address = stream.url.replace("://", "://me:secret@")
        arguments = (address, "--bundle", make_bundle(tmp_path / "bundle"), "--headless", "--metrics", "127.0.0.1:0")
        with LiveRun(*arguments) as run:
            run.frames(10)
            (url,) = re.findall(r"metrics: (\S+)", "\n".join(run.errors))
            run.until(lambda: results_of(Page(url, OPEN)) >= 10)  # a line may be out before its result is counted
            page = Page(url, OPEN)
            counted = results_of(page)
            run.until(lambda: len(run.results) >= counted)
            labels = [line["labels"][0] for line in run.results[: int(counted)]]
            for sample in page.families["hybrid_edge_results"].samples:
                assert sample.value == labels.count(sample.labels["label"])
            assert page.value("hybrid_edge_stage_seconds_count", stage="inference") == counted
            assert not re.search("secret|me@", page.text)
            (said,) = [line for line in run.errors if line.startswith("backend:")]
            (info,) = page.families["hybrid_edge"].samples
            assert f"{info.labels['engine']}, variant {info.labels['variant']}" in said
            run.process.terminate()
            assert run.end() == 0


def test_a_port_in_use_is_told_before_a_bundle_is_opened(tmp_path: Path) -> None:
    with listen("--metrics", "127.0.0.1:0") as taken:
        (tmp_path / "a.png").touch()
        address = shown_address(taken)
        done = command("hybrid-infer", "a.png", "--bundle", "none", "--metrics", address, cwd=tmp_path)
    assert done.returncode == 2
    assert f"--metrics {address}: expected an address of this machine with a free port" in done.stderr


@pytest.mark.parametrize(
    "address", ["9464", "127.0.0.1", "127.0.0.1:99999", "http://127.0.0.1:1", "no.such.host.invalid:1"]
)
def test_an_address_that_is_none_is_told(address: str) -> None:
    with pytest.raises(UsageError, match=rf"--metrics {re.escape(address)}: expected"):
        listen("--metrics", address)


def test_without_prometheus_client_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('none here')")
    (tmp_path / "a.png").touch()
    done = command(
        *("hybrid-infer", "a.png", "--metrics", "127.0.0.1:0"),
        cwd=tmp_path,
        environment={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"},
    )
    assert done.returncode == 2
    assert "pip install 'hybrid-edge[metrics]'" in done.stderr


def test_what_dashboard_and_alerts_ask_for_is_there(tmp_path: Path) -> None:
    zone, chip = tmp_path / "thermal" / "thermal_zone0", tmp_path / "hwmon" / "hwmon0"
    for folder, files in ((zone, {"type": "cpu", "temp": "1"}), (chip, {"name": "acpi", "power1_input": "1"})):
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    listener = listen("--metrics", "127.0.0.1:0")
    sink = Metrics(listener, [CAMERA], {}, Sensors(tmp_path))
    sink.write(make_result(CAMERA))
    sink.status(make_status(CAMERA))
    there = {sample.name for family in Page(shown_address(listener)).families.values() for sample in family.samples}
    sink.close()
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    page = (DOCS / "metrics.md").read_text()
    asked = re.findall(r"\b(?:hybrid_edge|process)_\w+", "\n".join([*queries, *re.findall("expr: (.*)", page)]))
    assert len(queries) > 12
    assert set(asked) <= there
    told = set(re.findall(r"`(hybrid_edge_\w+)`", page.replace("`_", "`hybrid_edge_frames_")))
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in there if name.startswith("hybrid_edge_")}
    assert families <= told  # and the page's table has each of them
