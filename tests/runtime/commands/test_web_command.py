import json
import socket
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from support.live.run import LiveRun
from support.machines.commands import Ended
from support.streams.servers import MjpegStream

from hybrid_edge.runtime.commands import infer as command
from hybrid_edge.runtime.infer_request import InferRequest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[InferRequest]:
    found: list[InferRequest] = []
    monkeypatch.setattr("hybrid_edge.runtime.pipeline.launch.run", lambda request: found.append(request) or 0)
    return found


@pytest.mark.parametrize(
    ("arguments", "web", "sources"),
    [
        (["--web", "photo.jpg"], "127.0.0.1:8787", ("photo.jpg",)),
        (["photo.jpg", "--web"], "127.0.0.1:8787", ("photo.jpg",)),
        (["--web", "--json", "photo.jpg"], "127.0.0.1:8787", ("photo.jpg",)),
        (["--web", "0.0.0.0:9000", "photo.jpg"], "0.0.0.0:9000", ("photo.jpg",)),
        (["photo.jpg", "--web=[::1]:9000"], "[::1]:9000", ("photo.jpg",)),
        (["photo.jpg"], None, ("photo.jpg",)),
    ],
)
def test_web_may_stand_alone_before_a_source_too(
    call: Callable[..., Ended],
    asked: list[InferRequest],
    arguments: list[str],
    web: str | None,
    sources: tuple[str, ...],
) -> None:
    assert call("hybrid-infer", command.main, *arguments).code == 0
    assert (asked[0].web, asked[0].sources) == (web, sources)


@pytest.mark.parametrize(("value", "web"), [("true", "127.0.0.1:8787"), ('"0.0.0.0:9000"', "0.0.0.0:9000")])
def test_a_config_file_turns_it_on(
    call: Callable[..., Ended], asked: list[InferRequest], tmp_path: Path, value: str, web: str
) -> None:
    (tmp_path / "camera.toml").write_text(f'SOURCE = ["x.jpg"]\nweb = {value}\n'.replace("SOURCE", "sources"))
    assert call("hybrid-infer", command.main, "--config", tmp_path / "camera.toml").code == 0
    assert asked[0].web == web


def test_what_can_not_be_served_is_wrong_usage_before_the_bundle_is_opened(
    call: Callable[..., Ended], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(web: str) -> str:
        ended = call("hybrid-infer", command.main, photos, "--bundle", photos / "none", "--web", web)
        assert ended.code == 2
        return ended.err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "already in use" in refused(f"127.0.0.1:{taken.getsockname()[1]}")
    assert "openssl rand -hex 32" in refused("0.0.0.0:0")
    for name in [name for name in sys.modules if name.startswith("hybrid_edge.runtime.web.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'hybrid-edge[web]'" in refused("127.0.0.1:0")


def test_a_run_of_the_command_serves_its_stream_under_a_supervisor(folder: Path) -> None:
    with MjpegStream() as stream, LiveRun(stream.url, "--bundle", folder, "--headless", "--web", "127.0.0.1:0") as run:
        run.frames(3)
        (said,) = [line for line in run.errors if line.startswith("live page: ")]
        with urllib.request.urlopen(f"{said.split()[-1]}api/v1/status", timeout=20) as answer:  # noqa: S310
            assert json.load(answer)["token"] is False


def test_files_are_classified_to_their_end_beside_the_page(
    call: Callable[..., Ended], folder: Path, photos: Path
) -> None:
    ended = call("hybrid-infer", command.main, photos, "--bundle", folder, "--web", "127.0.0.1:0", "--json")
    assert (ended.code, len(ended.out.splitlines())) == (0, 12)
