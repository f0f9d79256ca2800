import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from support.live.run import LiveRun
from support.machines.commands import Ended
from support.models.bundles import encode, make_bundle, sample_image
from support.streams.servers import MjpegStream

from hybrid_edge.runtime.commands import infer as command

Infer = Callable[..., Ended]


@pytest.fixture
def infer(folder: Path, call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> Infer:
    monkeypatch.chdir(folder.parent)
    return partial(call, "hybrid-infer", command.main)


@pytest.fixture
def stream() -> Iterator[MjpegStream]:
    with MjpegStream() as stream:
        yield stream


def test_regions_of_files_are_rows_of_their_own_and_one_that_does_not_fit_is_unreadable(
    infer: Infer, photos: Path
) -> None:
    (photos / "img12.png").write_bytes(encode(sample_image(1, 30, 10)))
    done = infer(photos, "--region", "gate=0,0,20,20", "--region", "dial=50%,0%,50%,50%", "--json")
    assert done.code == 1
    assert [(Path(str(line["source"])).name, line["region"]) for line in done.lines] == [
        (f"img{number}.png", region) for number in range(13) for region in ("gate", "dial")
    ]
    outside = "the region gate=0,0,20,20 reaches beyond the picture, which is 10x30"
    assert [line["error"] for line in done.lines if "error" in line] == [outside]
    assert f"unreadable: {photos / 'img12.png'} [gate]: {outside}" in done.err
    assert "25 classified in" in done.err
    assert "1 could not be read, named above" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["gate=0,0,20"], "--region 'gate=0,0,20': expected NAME=X,Y,WIDTH,HEIGHT"),
        (["a=0,0,9,9", "a=1,1,9,9"], "found it on a=0,0,9,9 too; rename one of them"),
        (["a@video0=0,0,9,9"], "--region a@video0: expected one of this run's sources, files"),
    ],
)
def test_a_region_that_is_none_ends_the_command_with_2(
    infer: Infer, photos: Path, flags: list[str], message: str
) -> None:
    done = infer(photos, *(text for flag in flags for text in ("--region", flag)))
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "backend:" not in done.err  # no engine was built for it


def test_a_region_outside_a_streams_first_picture_ends_the_run_with_2(infer: Infer, stream: MjpegStream) -> None:
    done = infer(stream.url, "--no-supervise", "--headless", "--region", "far=300,200,40,40")
    assert done.code == 2
    assert f"error: {stream.url}: the region far=300,200,40,40 reaches beyond the picture, which is 320x240" in done.err


def test_a_stream_is_captured_once_for_all_regions_and_one_is_left_out_while_it_does_not_fit(
    stream: MjpegStream, tmp_path: Path
) -> None:
    flags = ("--region", "gate=10%,10%,50%,50%", "--region", "far=200,100,100,100")
    with LiveRun(stream.url, "--bundle", make_bundle(tmp_path / "bundle"), "--headless", *flags) as run:
        run.frames(6)
        pairs = list(zip(run.results[::2], run.results[1::2], strict=False))
        assert {(one["region"], two["region"]) for one, two in pairs} == {("gate", "far")}
        assert all(one["frame"] == two["frame"] and one["captured"] == two["captured"] for one, two in pairs)
        assert {line["batch"] for line in run.results} == {2}
        stream.size = (160, 120)
        run.until(lambda: run.events("region-outside"))
        (event,) = run.events("region-outside")
        run.until(lambda: sum(line["captured"] > event["time"] for line in run.results) > 3)
        assert {line["region"] for line in run.results if line["captured"] > event["time"]} == {"gate"}
        stream.size = (640, 480)
        run.until(lambda: run.results[-1]["region"] == "far")
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 130
        assert run.events("region-outside") == [event]
        assert event["source"] == stream.url
        assert "the region far=200,100,100,100 reaches beyond the picture, which is 160x120" in event["detail"]
        assert len(stream.requests) == 1
        assert not run.events("lost")
        assert any(f"{stream.url} [far]: " in line and "classified" in line for line in run.errors)
