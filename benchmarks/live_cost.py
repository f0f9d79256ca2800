"""What a live page with viewers, MQTT and metrics cost the pipeline: frames a second with and without them.

    PYTHONPATH=tests python benchmarks/live_cost.py BUNDLE [--attacked]

Each case is the real command on a stream of Motion JPEG that has more frames than the engine takes. The commands stay,
stopped but for the one that is measured; its results are counted for some seconds once frames flow again. A viewer is
a process that reads the page's stream and events and throws them away: it shares this machine's cores with the
pipeline, which a browser elsewhere would not. With ``--attacked`` the cases are attacks on the page, which come from
elsewhere too: the command gets one core, page and engine together, and attacker and stream the others. What is measured
then is the seconds that pass while the engine's thread computes for one, whatever the machine's speed is.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer
from interleave import RESULTS, Report, interleave
from support.live.run import COMMAND, soon
from support.models.bundles import encode, sample_image
from support.streams.mqtt_broker import Mosquitto
from support.streams.servers import MjpegStream

NOTHING, UNSEEN, ONE, FIVE, TOLD = (
    "nothing",
    "page, no viewer",
    "page, one viewer",
    "page, 5 viewers",
    "MQTT and metrics",
)
SETTLE = 2.0  # seconds from the start, or the start again, that are not counted
ANYWHERE = "127.0.0.1:0"
VIEWER = """
import json, sys
from http.client import HTTPConnection
from threading import Thread

def watch(host, path):
    connection = HTTPConnection(host)
    connection.request("GET", path)
    answer = connection.getresponse()
    while answer.read1(1 << 16):
        pass

host, count = sys.argv[1], int(sys.argv[2])
connection = HTTPConnection(host)
ids = []
while not ids:
    connection.request("GET", "/api/v1/sources")
    ids = [source["id"] for source in json.loads(connection.getresponse().read())]
for path in [f"/api/v1/sources/{ids[0]}/stream", "/api/v1/events"] * count:
    Thread(target=watch, args=(host, path)).start()
"""

ATTACKS = {  # a name, and how many connections at a time of a kind
    "500 slow connections": ("slow", 500),
    "a body without end": ("body", 1),
    "requests without end": ("requests", 1),
    "pictures without end": ("pictures", 4),
}
ATTACKER = """
import socket, sys, time
from threading import Thread

address, port = sys.argv[1].split(":")
kind, count, picture = sys.argv[2], int(sys.argv[3]), open(sys.argv[4], "rb").read()
host = f" HTTP/1.1\\r\\nHost: {address}:{port}\\r\\n".encode()

def slow(connection):
    connection.sendall(b"GET /" + host + b"X: ")
    while True:
        connection.sendall(b"a")
        time.sleep(0.5)

def body(connection):
    connection.sendall(b"POST /api/v1/classify" + host + b"Transfer-Encoding: chunked\\r\\n\\r\\n")
    while True:
        connection.sendall(b"10000\\r\\n" + bytes(65536) + b"\\r\\n")

def requests(connection):
    while True:
        connection.sendall(b"GET /api/v1/sources" + host + b"\\r\\n")
        if not connection.recv(65536):
            return

def pictures(connection):
    connection.sendall(b"POST /api/v1/classify" + host + b"Content-Length: %d\\r\\n\\r\\n" % len(picture) + picture)
    connection.recv(65536)

def again():
    while True:
        try:
            with socket.create_connection((address, int(port))) as connection:
                globals()[kind](connection)
        except OSError:
            time.sleep(0.01)

for _ in range(count):
    Thread(target=again).start()
"""


class Counted:
    """A run of the command, whose lines are counted as they come."""

    def __init__(self, arguments: list[str]) -> None:
        self.lines = 0
        self.said = ""
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for read in (self._count, self._listen):
            threading.Thread(target=read, daemon=True).start()

    def _count(self) -> None:
        for _ in self.process.stdout or ():
            self.lines += 1

    def _listen(self) -> None:
        for line in self.process.stderr or ():
            self.said += line

    def address(self) -> str:
        """The page's host and port, once they are told."""
        found = re.search(r"live page: http://([^/\s]+)", self.said)
        return found[1] if found else ""

    def seconds_a_frame(self, seconds: float) -> float:
        """Count results for so long."""
        lines, begun = self.lines, time.monotonic()
        time.sleep(seconds)
        return (time.monotonic() - begun) / max(self.lines - lines, 1)

    def seconds_an_engine_second(self, seconds: float) -> float:
        """Sleep for so long; return what passed for each second that the busiest thread had a core, the engine's."""
        threads = Path(f"/proc/{self.process.pid}/task")
        before, begun = _ticks(threads), time.monotonic()
        time.sleep(seconds)
        passed, after = time.monotonic() - begun, _ticks(threads)
        return passed * os.sysconf("SC_CLK_TCK") / max(after[name] - before.get(name, 0) for name in after)


def _ticks(threads: Path) -> dict[str, int]:
    """Read each thread's CPU time."""
    fields = {path.name: (path / "stat").read_text().rpartition(")")[2].split() for path in threads.iterdir()}
    return {name: int(found[11]) + int(found[12]) for name, found in fields.items()}


@contextmanager
def counted(arguments: list[str]) -> Iterator[Counted]:
    """A run that gave results and is stopped since, until the end of the block."""
    run = Counted(arguments)
    try:
        if not soon(lambda: run.lines, 120):
            raise RuntimeError(f"expected results, found none: {run.said}")
        run.process.send_signal(signal.SIGSTOP)
        yield run
    finally:
        run.process.send_signal(signal.SIGCONT)
        run.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(10)
        run.process.kill()


def measure(run: Counted, visitor: Sequence[object], take: Callable[[], float]) -> float:
    """Measure a run with somebody at its page: a program that gets its address, and more arguments."""
    with ExitStack() as stack:
        stack.callback(run.process.send_signal, signal.SIGSTOP)
        run.process.send_signal(signal.SIGCONT)
        if visitor:
            soon(run.address, 30)
            program, *others = map(str, visitor)
            there = stack.enter_context(subprocess.Popen([sys.executable, "-c", program, run.address(), *others]))
            stack.callback(there.kill)
        time.sleep(SETTLE)
        return take()


def main(
    bundle: Path,
    rounds: int = 10,
    seconds: float = 5.0,
    width: int = 640,
    height: int = 480,
    fps: float = 60.0,
    backend: str = "auto",
    precision: str = "auto",
    attacked: bool = False,
    as_json: bool = typer.Option(False, "--json", help="The report on stdout as well."),
    out: Path = RESULTS,
) -> None:
    """Measure every case, interleaved."""
    command = list(COMMAND)
    if attacked:
        first, *others = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, others)
        command = ["taskset", "--cpu-list", str(first), *COMMAND]
    report = Report(
        "page_attacks" if attacked else "live_cost",
        ("hybrid-edge", "onnxruntime", "uvicorn", "starlette", "paho-mqtt", "prometheus-client"),
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stream = stack.enter_context(MjpegStream(width, height, fps))
        broker = stack.enter_context(Mosquitto(folder))
        options = ["--backend", backend, "--precision", precision, "--no-check", "--no-supervise", "--headless"]
        plain = [*command, stream.url, "--bundle", str(bundle), *options, "--json"]
        page = [*plain, "--web", ANYWHERE]
        told = [*plain, "--metrics", ANYWHERE, "--mqtt", f"mqtt://127.0.0.1:{broker.port}/cost"]

        def case(run: Counted, *visitor: object) -> Callable[[], float]:
            take = run.seconds_an_engine_second if attacked else run.seconds_a_frame
            return lambda: measure(run, visitor, lambda: take(seconds))

        seen = stack.enter_context(counted(page))
        if attacked:
            picture = folder / "picture.png"
            picture.write_bytes(encode(sample_image(0, height, width)))
            cases = {UNSEEN: case(seen)}
            cases |= {name: case(seen, ATTACKER, *attack, picture) for name, attack in ATTACKS.items()}
        else:
            alone, telling = (stack.enter_context(counted(words)) for words in (plain, told))
            cases = {NOTHING: case(alone), UNSEEN: case(seen), ONE: case(seen, VIEWER, 1), FIVE: case(seen, VIEWER, 5)}
            cases[TOLD] = case(telling)
        timings = interleave(cases, rounds=rounds, warm_up=0)
    each = "what passes for a second of the engine's" if attacked else "a result"
    title = f"{bundle.name}, {precision}, a stream of {width}x{height} at {fps:g} a second, {each}"
    report.add(title, timings, next(iter(cases)))
    report.save(out)
    if as_json:
        print(json.dumps(report.content, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
