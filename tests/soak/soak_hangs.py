"""An engine that hangs in C, holding the interpreter's lock and not, with the limits that users get.

    PYTHONPATH=tests python tests/soak/soak_hangs.py --rounds 3

Each round: a stream flows, the engine is told to hang, and two times are taken: from the hang to the supervisor's
notice (limit 10 s) and to the next result of the new worker. Then an engine that hangs at every batch: the third worker
given up within a minute ends the run with exit code 1 and the reason.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import typer
from figures import verdict
from support.live.run import HANGING, LiveRun, processes_of
from support.models.bundles import make_bundle
from support.streams.servers import MjpegStream

NOTICE = 10.0  # seconds


@dataclass(frozen=True)
class HangingRuns:
    """Runs whose engine hangs when it is told to, and where they happen."""

    url: str
    bundle: Path
    order: Path
    mark: str

    def run(self) -> LiveRun:
        """A run whose engine obeys ``order``."""
        environment = {"HANG_ORDER": str(self.order), "MARK": self.mark}
        return LiveRun(self.url, "--bundle", self.bundle, "--headless", program=HANGING, environment=environment)

    def one_hang(self, words: str) -> tuple[float, float]:
        """Seconds from a hang to the notice of it, and to the next result."""
        with self.run() as run:
            run.frames(25)
            self.order.write_text(f"{words} once")
            run.until(lambda: not self.order.exists(), what="the hang")
            begun = time.monotonic()
            run.until(lambda: run.events("engine-hung"), 30, "engine-hung")
            noticed = run.events("engine-hung")[0]["_at"]
            run.until(lambda: run.results[-1]["_at"] > noticed, 30, "a result of the new worker")
            flowing = next(line["_at"] for line in run.results if line["_at"] > noticed)
        return noticed - begun, flowing - begun

    def three_hangs(self) -> tuple[int, int, float, str]:
        """Exit code, hangs, seconds and last words of a run whose engine hangs again and again."""
        with self.run() as run:
            run.frames(25)
            begun = time.monotonic()
            self.order.write_text("holding always")
            code = run.end(120)
            return code, len(run.events("engine-hung")), time.monotonic() - begun, run.errors[-1]


def main(rounds: int = 3) -> None:
    """Hang so many times in each way, then until the run ends."""
    mark = f"mark-{uuid.uuid4().hex}"
    noticed, flowing = dict[str, float](), dict[str, float]()
    with tempfile.TemporaryDirectory() as name, MjpegStream() as stream:
        course = HangingRuns(stream.url, make_bundle(Path(name) / "bundle"), Path(name) / "order", mark)
        for words in ("holding", "released"):
            times = [course.one_hang(words) for _ in range(rounds)]
            noticed[words], flowing[words] = (max(values) for values in zip(*times, strict=True))
        code, hangs, seconds, last = course.three_hangs()
        left = len(processes_of(mark))
    time.sleep(0.5)  # the server's threads see that nobody listens
    typer.echo(last)
    verdict(
        f"hangs, {rounds} with the lock held and {rounds} without",
        {
            "noticed after at most": f"{noticed['holding']:.2f} and {noticed['released']:.2f} s",
            "results again after": f"{flowing['holding']:.2f} and {flowing['released']:.2f} s",
            "at every batch": f"{hangs} hangs, exit code {code} after {seconds:.1f} s",
            "processes left": left,
        },
        {
            f"noticed within {NOTICE:g} s": max(noticed.values()) <= NOTICE,
            "exit code 1 after three, with the reason": (code, hangs) == (1, 3) and "within 60 s" in last,
            "no process left": not left,
        },
    )


if __name__ == "__main__":
    typer.run(main)
