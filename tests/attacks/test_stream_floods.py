"""A stream that floods counts as lost: it neither starves the others nor fills what is written."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from support.live.run import LiveRun
from support.models.bundles import make_bundle
from support.streams.floods import MULTIPART, Flood, part
from support.streams.reading import Reading
from support.streams.servers import MjpegStream, picture

from hybrid_edge.runtime.opencv import MAX_PIXELS, cv2
from hybrid_edge.runtime.sources.events import MAX_FAULTS, MAX_PARTS

TINY = cv2.imencode(".jpg", picture(32, 4))[1].tobytes()
WIDE = cv2.imencode(".jpg", picture(64, 4))[1].tobytes()
FLOODS = {  # what comes again and again, and what is said of it
    "empty parts": (part(b""), f"at most {MAX_FAULTS} damaged or resized frames a second"),
    "parts of a byte": (part(b"x"), f"at most {MAX_FAULTS} damaged or resized frames a second"),
    "tiny pictures": (part(TINY), f"at most {MAX_PARTS} frames a second"),
    "pictures without parts": (TINY, f"at most {MAX_PARTS} frames a second"),
    "pictures of changing sizes": (part(TINY) + part(WIDE), f"at most {MAX_FAULTS} damaged or resized frames a second"),
    "parts of text": (part(b"no", b"text/plain"), f"at most {MAX_PARTS} parts a second"),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("flooded") / "bundle")


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_counts_as_lost_and_comes_back_with_the_usual_pauses(name: str) -> None:
    again, said = FLOODS[name]
    with Flood(MULTIPART, again) as flood, Reading(flood.url) as reading:
        reading.wait_for("lost")
        time.sleep(2)  # of pauses of 0.35, 0.7 and 1.4 seconds or more
        connections, frames = flood.connections, reading.frames
    lost = [event for event in reading.told if event.kind == "lost"]
    assert said in lost[0].detail
    assert len(lost) <= reading.events.count("reconnected") + 1  # told once, unless frames came in between
    assert 1 <= connections <= 5
    assert frames <= connections * (MAX_PARTS if "picture" in name else MAX_FAULTS)


def test_a_camera_beside_floods_gives_its_frames_and_little_is_written(bundle: Path) -> None:
    with Flood(MULTIPART, part(b"")) as empty, Flood(MULTIPART, part(TINY)) as tiny, MjpegStream(fps=20) as camera:
        names = (camera.url, empty.url, tiny.url)
        with LiveRun(*names, "--bundle", bundle, "--headless") as run:
            run.until(lambda: sum(line["source"] == camera.url for line in run.results) > 60)
            run.process.send_signal(signal.SIGINT)
            assert run.end() == 130
        connections = empty.connections + tiny.connections
    of_floods = [line for line in run.lines if line["source"] in (empty.url, tiny.url)]
    assert sum(line.get("event") == "lost" and line["source"] == empty.url for line in run.lines) == 1
    assert len(of_floods) <= connections * (MAX_PARTS + 3)
    told = [match[0] for line in run.errors if (match := re.search(r"(?<= )\w+: http\S+(?=: )", line))]
    assert f"lost: {empty.url}" in told
    assert len(told) == len(set(told)), "a fault of a source was told twice in a minute"
    assert camera.url not in " ".join(told)


def test_damaged_pictures_are_one_line_of_ours_and_one_of_the_decoder_however_many_come(bundle: Path) -> None:
    whole = cv2.imencode(".jpg", picture(320, 240))[1].tobytes()
    middle = len(whole) * 3 // 4
    damaged = whole[:middle] + b"\xff\xd9"  # libjpeg says on descriptor 2 that data ended, and gives a picture
    assert cv2.imdecode(np.frombuffer(damaged, np.uint8), cv2.IMREAD_COLOR) is not None

    class Camera(MjpegStream):
        def _spoil(self, data: bytes) -> bytes:
            return damaged if self.damaged % 2 else data[20:]

    with Camera(fps=60) as camera:
        camera.corrupt(10**6)
        with LiveRun(camera.url, "--bundle", bundle, "--headless") as run:
            run.until(lambda: sum("error" in line for line in run.lines) > 100)
            run.process.send_signal(signal.SIGINT)
            assert run.end() == 130
    assert sum(" corrupt: " in line for line in run.errors) == 1
    assert sum("Corrupt JPEG" in line for line in run.errors) == 1
    assert len(run.errors) < 10


def test_a_stream_of_pictures_too_large_for_the_device_counts_as_lost_with_the_reason(bundle: Path) -> None:
    size = (2**16 - 1).to_bytes(2, "big")
    start = TINY.index(b"\xff\xc0") + 5
    giant = TINY[:start] + size + size + TINY[start + 4 :]
    with Flood(MULTIPART + part(giant) * 3) as flood, Reading(flood.url) as reading:
        reading.wait_for("lost")
    assert f"at most {MAX_PIXELS} pixels, found {(2**16 - 1) ** 2}" in reading.told[0].detail
    assert reading.frames == 0
