"""Live page, MQTT and metrics at once, on two streams, for half an hour: memory, threads and descriptors stay flat.

    PYTHONPATH=tests python tests/soak/soak_outputs.py --seconds 1800

``hybrid-infer`` runs as a process of its own. Viewers of the page's streams and events come and go, pictures are asked
for and classified, the metrics are scraped, a subscriber hears what the broker gets. Before and after it, while nobody
watches, the process that classifies is measured.
"""

from __future__ import annotations

import contextlib
import random
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import typer
from figures import DESCRIPTORS, THREADS, Samples, digits_bundle, rss, verdict
from prometheus_client.parser import text_string_to_metric_families
from support.live.run import COMMAND, soon
from support.models.bundles import encode, sample_image
from support.streams.mqtt_broker import Listener, Mosquitto, missing
from support.streams.servers import MjpegStream

FPS = 12
VIEWERS = 4  # at a time
STAY = (0.5, 20.0)  # seconds that one watches
PAUSE = (0.0, 5.0)  # seconds until the next one comes
SAMPLE = 2.0  # seconds
SCRAPE = 5.0
GROWTH = 8.0  # MiB
QUIET = 0.07  # of the time at both ends nobody watches


@dataclass
class Run:
    """A run of the command: its process, where its page and its metrics are, and what came from them.

    Attributes:
        got: how often each thing was asked for and came.
        failed: what did not come, or came wrong.
    """

    process: subprocess.Popen[str]
    page: str = ""
    metrics: str = ""
    got: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    @property
    def worker(self) -> int:
        """The process that classifies."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def ask(self, what: str, host: str, method: str, path: str, *, body: bytes | None = None, stay: float = 0.0) -> str:
        """Ask for something, read its answer or, of a stream, for as long as one stays; return the answer's text."""
        connection = HTTPConnection(host, timeout=10)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            if answer.status != 200:
                self.failed.append(f"{what}: {answer.status}")
                return ""
            content = b"" if stay else answer.read()
            deadline = time.monotonic() + stay
            while stay and time.monotonic() < deadline:
                if not answer.read1(65536):
                    self.failed.append(f"{what}: ended")
                    break
            self.got[what] += 1
            return content.decode(errors="replace")
        except OSError as error:
            self.failed.append(f"{what}: {error!r}")
            return ""
        finally:
            connection.close()

    def ids(self) -> list[str]:
        """What the page calls its sources, once it knows them."""
        return re.findall(r'"id": ?"([^"]+)"', self.ask("pages", self.page, "GET", "/api/v1/sources"))

    def value(self, name: str) -> float:
        """The sum of a metric's samples."""
        text = self.ask("scrapes", self.metrics, "GET", "/metrics")
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name)


@contextmanager
def running(streams: list[str], bundle: Path, broker: int) -> Iterator[Run]:
    """The command with all of it on; in the end it has stopped by SIGTERM."""
    options = ["--web", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--mqtt", f"mqtt://127.0.0.1:{broker}/soak"]
    arguments = [*COMMAND, *streams, "--bundle", str(bundle), "--headless", "--json", *options]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    run = Run(process)

    def listen() -> None:
        for line in process.stderr or ():
            for name, found in re.findall(r"(live page|metrics): http://([^/\s]+)", line):
                setattr(run, {"live page": "page"}.get(name, name), found)
            if " dropped" not in line:
                typer.echo(line.rstrip(), err=True)

    threading.Thread(target=listen, daemon=True).start()
    try:
        if not soon(lambda: run.page and run.metrics, 60):
            raise RuntimeError("expected the addresses of page and metrics on stderr, found none")
        yield run
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


def watch(run: Run, ids: list[str], stop: threading.Event, seed: int) -> None:
    """Be one viewer after the other until the end."""
    chance = random.Random(seed)
    picture = encode(sample_image(seed))
    while not stop.is_set():
        source, stay = chance.choice(ids), chance.uniform(*STAY)
        kind = chance.choice(("streams", "streams", "events", "snapshots", "classified", "pages"))
        path = f"/api/v1/sources/{source}"
        if kind == "streams":
            run.ask(kind, run.page, "GET", f"{path}/stream", stay=stay)
        elif kind == "events":
            run.ask(kind, run.page, "GET", "/api/v1/events", stay=stay)
        elif kind == "snapshots":
            run.ask(kind, run.page, "GET", f"{path}/snapshot")
        elif kind == "classified":
            run.ask(kind, run.page, "POST", "/api/v1/classify", body=picture)
        else:
            for part in ("/", "/static/page.css", "/api/v1/status", "/api/v1/timeline", "/api/v1/latency"):
                run.ask(kind, run.page, "GET", part)
        stop.wait(chance.uniform(*PAUSE))


def measure(run: Run, seconds: float, samples: Samples, begun: float) -> Samples:
    """Note the worker's memory, threads and descriptors for so long, and scrape; return the new samples."""
    first, end, scraped = samples.count, time.monotonic() + seconds, 0.0
    while (now := time.monotonic()) < end:
        if now - scraped >= SCRAPE:
            scraped = now
            run.value("hybrid_edge_results_total")
        worker = run.worker
        threads, descriptors = (len(list(Path(f"/proc/{worker}/{what}").iterdir())) for what in ("task", "fd"))
        samples.add(now - begun, rss(worker), threads, descriptors)
        if samples.count % 30 == 0:
            typer.echo(
                f"{now - begun:.0f} s: {rss(worker):.1f} MiB, {threads}, {descriptors}, {dict(run.got)}", err=True
            )
        time.sleep(SAMPLE)
    return Samples(samples.rows[first : samples.count], samples.count - first)


def main(seconds: float = 1800.0, bundle: Path | None = None) -> None:
    """Run for so many seconds, and judge."""
    if missing:
        typer.echo(f"soak_outputs: left out: {missing}")
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        streams = [stack.enter_context(MjpegStream(fps=FPS)).url for _ in range(2)]
        broker = stack.enter_context(Mosquitto(folder))
        heard = stack.enter_context(Listener(broker.port))
        run = stack.enter_context(running(streams, digits_bundle(bundle, folder), broker.port))
        worker, samples, begun = run.worker, Samples(), time.monotonic()
        soon(lambda: len(run.ids()) == len(streams), 30)
        ids = run.ids()
        churn(run, ids, min(60.0, seconds / 10), samples, begun)  # what libraries keep from their first use is there
        before = measure(run, max(5.0, QUIET * seconds), samples, begun)
        busy = churn(run, ids, (1 - 2 * QUIET) * seconds, samples, begun)
        time.sleep(12)  # for an idle connection's time to end
        after = measure(run, max(5.0, QUIET * seconds), samples, begun)
        results, captured = run.value("hybrid_edge_results_total"), run.value("hybrid_edge_frames_captured_total")
        faults = run.value("hybrid_edge_faults_total")
        same = run.worker == worker
    judge(run, before, busy, after, results / max(captured, 1), {"faults": int(faults), "same": same}, len(heard.heard))


def churn(run: Run, ids: list[str], seconds: float, samples: Samples, begun: float) -> Samples:
    """Measure while viewers come and go."""
    stop = threading.Event()
    viewers = [threading.Thread(target=watch, args=(run, ids, stop, number)) for number in range(VIEWERS)]
    for viewer in viewers:
        viewer.start()
    found = measure(run, seconds, samples, begun)
    stop.set()
    for viewer in viewers:
        viewer.join()
    return found


def judge(
    run: Run, before: Samples, busy: Samples, after: Samples, share: float, state: dict[str, int], messages: int
) -> None:
    growth = sum(after.memory) / after.count - sum(before.memory) / before.count
    ranges = {name: [item.range(column) for item in (before, busy, after)] for name, column in COLUMNS.items()}
    # the fewest: a sample may fall on the last viewer's connection or on a scrape's
    flat = {name: min(found[2]) <= min(found[0]) for name, found in ranges.items()}
    verdict(
        "soak_outputs",
        {
            "minutes": f"{(after.at[-1] - before.at[0]) / 60:.1f}",
            "memory": f"{growth:+.2f} MiB from quiet to quiet; while {VIEWERS} viewers came and went "
            f"{busy.growth():+.2f}, {busy.slope() * 60:+.3f} a minute",
            **{f"{name} before, during, after": found for name, found in ranges.items()},
            "asked for": dict(run.got),
            "messages": messages,
            "classified": f"{share:.1%} of what was captured",
            "stalls of the streams and their ends": state["faults"],  # they come from this process, on a busy machine
        },
        {
            "memory": growth <= GROWTH,
            **flat,
            f"failed: {run.failed[:5]}": not run.failed,
            "another worker": bool(state["same"]),
            "no messages": messages > 0,
        },
    )


COLUMNS = {"threads": THREADS, "descriptors": DESCRIPTORS}

if __name__ == "__main__":
    typer.run(main)
